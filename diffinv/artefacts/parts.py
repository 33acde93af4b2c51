"""One part of a call's work, for processes and machines that share a cache: each makes some of its files.

Which files are in a part depends on their position alone, never on how many workers there are or on what is
done already: the same files are made, with the same bytes, however the work is divided.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

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


_PART: ContextVar[Part | None] = ContextVar("part", default=None)


@contextmanager
def only_part(part: Part | None) -> Iterator[None]:
    """Within it, a call makes its part of the files and then raises PartDone; None = all of them."""
    before = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(before)


def own(items: Sequence[Item]) -> Sequence[Item]:
    """Those of the items that belong to this process's part; all where there are no parts."""
    part = _PART.get()
    return items if part is None else items[part.number - 1 :: part.of]


def end_of_part(items: Sequence[Item]) -> None:
    """Raise PartDone where there are parts, since what follows needs all of the items."""
    if _PART.get() is not None:
        raise PartDone(len(own(items)))
