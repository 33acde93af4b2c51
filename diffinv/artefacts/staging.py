"""Temporary siblings of what is written: claimed while their process lives, swept once it is gone."""

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: nothing is claimed there, and nothing swept
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\.diffinv-[0-9a-f]{12}\.tmp")


def sibling(path: Path) -> Path:
    """A new name for what is to take the place of `path`."""
    # In the same folder, since a rename across file systems is not atomic; short, since names have a limit.
    return path.with_name(f".diffinv-{uuid.uuid4().hex[:12]}.tmp")


@contextmanager
def claimed(temporary: Path, make: Callable[[Path], object]) -> Iterator[None]:
    """Make the file or folder `temporary`, a `sibling`, and keep it from being swept until the block ends.

    What dead processes left in the same folder is swept first. The claim is a lock, which ends with its
    process however that dies; the process's number would say nothing on a disk that several machines share.
    Where the file system has no locks, nothing is ever swept.
    """
    sweep(temporary.parent)
    make(temporary)
    claim = _lock(temporary)
    while not temporary.exists():  # swept in the moment between the two: a sweep takes it for a leftover
        _release(claim)
        make(temporary)
        claim = _lock(temporary)
    try:
        yield
    finally:
        _release(claim)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left of their writes to this folder; never raises OSError.

    Where one died while it replaced a folder, the only copy of that may be among it, and is kept.
    """
    with suppress(OSError):  # a place that cannot be listed can still be written to
        for name in filter(_NAME.fullmatch, os.listdir(folder)):
            with suppress(OSError):  # not ours to remove, or another sweep was faster
                _remove_unless_claimed(folder / name)


def _remove_unless_claimed(path: Path) -> None:
    claim = _lock(path, wait=False)
    if claim is None:
        return
    try:
        # The name may stand for another file by now: the one that its process made after a faster sweep.
        unclaimed = os.path.samestat(os.fstat(claim), path.stat())
        if unclaimed and path.is_file():
            path.unlink()
        elif unclaimed and not ((path / "new").exists() and (path / "old").exists()):
            shutil.rmtree(path)
    finally:
        os.close(claim)


def _lock(path: Path, *, wait: bool = True) -> int | None:
    """A descriptor that holds the one lock on `path`, or None if somebody has it or there is none to have."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _release(claim: int | None) -> None:
    if claim is not None:
        os.close(claim)
