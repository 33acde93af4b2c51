"""One part of a call's work, for processes and machines that share a cache: each makes some of its files.

Which files are in a part depends on their position alone, never on how many workers there are or on what is
done already: the same files are made, with the same bytes, however the work is divided.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

Item = TypeVar("Item")


def groups_of(count: int, size: int) -> list[range]:
    """Cut so many images into groups of consecutive ones; the last may be short."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass(frozen=True)
class Part:
    """The `number`-th of so many parts, counted from 1. ValueError for one that there is not."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"there is no part {self}: of {self.of} parts the numbers are 1 to {self.of}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def of_items(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those that belong to this part."""
        return items[self.number - 1 :: self.of]

    @classmethod
    def parse(cls, text: str) -> "Part":
        """The part that a text such as "3/16" names; ValueError for another text."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdigit() and of.isdigit()):
            raise ValueError(f"{text!r} names no part: write it as 3/16, the third of sixteen.")
        return cls(int(number), int(of))


class PartDone(Exception):
    """The files of a part are in the cache: there is no whole to go on with."""

    def __init__(self, files: int) -> None:
        super().__init__(f"{files} files of the cache")
        self.files = files


class FilesLacking(Exception):
    """So many files are not in the cache, and nobody wanted them made here."""

    def __init__(self, files: int) -> None:
        super().__init__(f"{files} files lack")
        self.files = files


@dataclass(frozen=True)
class _Mode:
    part: Part | None = None
    stages: bool = False
    asking: bool = False


_WHOLE = _Mode()
_MODE: ContextVar[_Mode] = ContextVar("mode", default=_WHOLE)


@contextmanager
def _in_mode(**changes: Any) -> Iterator[None]:
    before = _MODE.set(replace(_MODE.get(), **changes))
    try:
        yield
    finally:
        _MODE.reset(before)


def only_part(part: Part | None, *, stages: bool = False) -> AbstractContextManager[None]:
    """Within it, a call makes its part of the files and then raises PartDone; None = all of them.

    Of a call in `stages`, one that finds all files of a stage goes on to its part of the next.
    """
    return _in_mode(part=part, stages=stages)


def asking() -> AbstractContextManager[None]:
    """Within it, a call that would make files raises FilesLacking instead; one that finds all goes on."""
    return _in_mode(asking=True)


def in_part() -> bool:
    """Whether this process makes only a part, or only asks."""
    return _MODE.get().part is not None or _MODE.get().asking


def own(items: Sequence[Item], lacking: Callable[[], int]) -> Sequence[Item]:
    """Those of the items that belong to this process's part; all where there are no parts.

    `lacking` counts those of them all that have no file yet. FilesLacking where one only asks and there are
    some.
    """
    mode = _MODE.get()
    if mode.asking and (number := lacking()):
        raise FilesLacking(number)
    return items if mode.part is None else mode.part.of_items(items)


def end_of_part(items: Sequence[Item], lacking: Callable[[], bool]) -> None:
    """Raise PartDone where there are parts, since what follows needs all of the items.

    `lacking` says whether one has no file now: if not, a call in stages goes on.
    """
    mode = _MODE.get()
    if mode.part is not None and not (mode.stages and not lacking()):
        raise PartDone(len(mode.part.of_items(items)))
