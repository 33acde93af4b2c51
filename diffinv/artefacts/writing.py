"""Artefacts on disk: written whole or not at all, named by their content, carrying their provenance."""

import dataclasses
import errno
import importlib.metadata
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout

from diffinv.artefacts.keys import content_key

PROVENANCE_FILE = "provenance.json"
OWN_CHECKSUM = "checksum_of_record"  # of all else in a JSON file of the cache
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Files that a desktop drops into any folder that it shows; nobody misses them.
_DESKTOP_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
_STAGED = re.compile(r"(\.diffinv-[0-9a-f]{12})\.(tmp|lock)")


class ArtefactError(RuntimeError):
    """An artefact could not be written or read; the message is one sentence that names it and the remedy."""


@contextmanager
def write_atomically(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` if the block ends well, and leaves no trace if it does not.

    `mode` is "wb", or "w" for UTF-8 text; missing parent folders are made, and what killed processes left of
    their writes to the same folder is removed. ArtefactError if the disk is full or the place cannot be
    written.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f'write_atomically takes the mode "wb" or "w", not {mode!r}.')
    path = Path(path)
    encoding, newline = ("utf-8", "\n") if mode == "w" else (None, None)
    with _staging(path) as temporary:
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file of this text (UTF-8) or these bytes, as `write_atomically` does."""
    with write_atomically(path, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write a .npy file, atomically and without pickles."""
    with write_atomically(path) as file:
        np.save(file, array, allow_pickle=False)


def claimed(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each path while no other process that asks here has it: that of a file to be read, or else made.

    What others are at comes last, so that several processes share the work on the same files, and each finds
    there what another has made. A lock ends with its process, however that dies.
    """
    busy = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine = lock_beside(path).acquire(timeout=0)
        except Timeout:
            busy.append(path)
            continue
        except OSError as error:
            raise _cannot_write(path, error, "set DIFFINV_CACHE to a folder") from error
        with mine:
            yield path
    for path in busy:
        with lock_beside(path):
            yield path


def lock_beside(path: Path) -> BaseFileLock:
    """The lock of a file or folder, `path`.lock, for whoever may want it at the same time; not yet taken."""
    return FileLock(path.with_name(f"{path.name}.lock"), mode=0o666)


def check_output(path: str | Path, *, folder: bool = False) -> None:
    """Raise, before the work, the ArtefactError in which writing this file, or folder, would end after it."""
    path = Path(path).absolute()
    if folder:
        _check_replaceable(path)
    elif path.is_dir():
        raise ArtefactError(f"{path} is a folder: choose the name of a file.")
    # Not beside it: the folders above are made when there is something to put in.
    place = next(parent for parent in path.parents if parent.exists())
    try:
        with _staging(place / path.name) as temporary:
            temporary.touch()
    except ArtefactError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise _cannot_write(path, error.__cause__) from error.__cause__


@contextmanager
def write_folder_atomically(folder: str | Path, record: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` if the block ends well.

    `record` goes into its provenance.json, with a key of the file names.
    A folder that this function made before, and to which nobody has added a file, is replaced. Any other
    folder that is not empty is refused with an ArtefactError, as are a full disk and an unwritable place.
    """
    folder = Path(folder).absolute()
    _check_replaceable(folder)
    with _staging(folder) as staging:
        new, old = staging / "new", staging / "old"
        new.mkdir(parents=True)
        try:
            yield new
            write_json(new / PROVENANCE_FILE, {**record, "file_names": _file_names_key(new)})
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)


def is_untouched(folder: str | Path) -> bool:
    """Whether `write_folder_atomically` made this folder and no file has been added or removed since."""
    record = Path(folder) / PROVENANCE_FILE
    return record.is_file() and read_json(record).get("file_names") == _file_names_key(Path(folder))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; dataclasses, paths and numpy values become plain ones."""
    write_whole(path, as_json(value))


def as_json(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n"


def write_cached_json(path: str | Path, record: dict[str, Any]) -> None:
    """Write a JSON file of the cache, with a checksum of its content."""
    write_json(path, {**record, OWN_CHECKSUM: content_key(record)})


def read_json(path: str | Path) -> Any:
    """Read a JSON file; ArtefactError if it is not one, FileNotFoundError if it is not there."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{path} is not valid JSON: delete it, and it will be made again.") from error


def read_cached_json(path: str | Path) -> Any | None:
    """Read a JSON file of the cache; None if absent or damaged, since making it again gives the same.

    Files of earlier versions have no checksum, and are read as they are.
    """
    try:
        record = read_json(path)
    except (FileNotFoundError, ArtefactError):
        return None
    expected = record.pop(OWN_CHECKSUM, None) if isinstance(record, dict) else None
    return record if expected in (None, content_key(record)) else None


def read_cached_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray | None:
    """Read an array of the cache; None if absent or damaged, since making it again gives the same."""
    try:
        return np.load(path, mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def provenance(**more: Any) -> dict[str, Any]:
    """What made an artefact: versions, platform and time, with whatever else the caller knows."""
    packages = ("diffinv", "torch", "diffusers", "transformers", "numpy")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {package: _version(package) for package in packages},
        **more,
    }


def _version(package: str) -> str | None:
    # From the metadata: importing torch only to ask for its version would take seconds.
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON: turn it into plain values first.")


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """Yield a new name beside `path`, for the file or folder that is to take its place.

    What is left under that name goes when the block ends or, where the process is killed, with the next write
    to the same folder. ArtefactError if the place of `path` cannot be written or the disk is full.
    """
    # In the same folder, since a rename across file systems is not atomic; short, since names have a limit.
    temporary = path.with_name(f".diffinv-{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        lock = _lock_on(temporary)
        with suppress(OSError):  # a disk without locks is one where nothing is swept
            lock.acquire(timeout=1)
        try:
            yield temporary
        finally:
            _remove(temporary, lock)
    except OSError as error:
        if not _concerns_writing(error, path, temporary):
            raise
        raise _cannot_write(path, error) from error
    except ArtefactError as error:
        # The caller of a write to what is staged knows it by the name that it is to take.
        if not isinstance(error.__cause__, OSError) or str(temporary) not in str(error):
            raise
        raise _cannot_write(path, error.__cause__) from error.__cause__


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left of their writes to this folder; never raises OSError."""
    with suppress(OSError):  # a place that cannot be listed can still be written to
        for name in {match[1] for match in map(_STAGED.fullmatch, os.listdir(folder)) if match}:
            temporary = folder / f"{name}.tmp"
            lock = _lock_on(temporary)
            with suppress(OSError):  # its process lives, or it is not ours to remove
                lock.acquire(blocking=False)
                _remove(temporary, lock)


def _lock_on(temporary: Path) -> BaseFileLock:
    # A lock ends with its process however that dies; the process's number, which a soft lock goes by, would
    # say nothing on a disk that several machines share. Whoever writes to a shared folder may sweep it.
    return FileLock(temporary.with_suffix(".lock"), mode=0o666, fallback_to_soft=False)


def _remove(temporary: Path, lock: BaseFileLock) -> None:
    """Remove what is staged and then its lock, which is held until both are gone."""
    with suppress(OSError):  # an error that brought us here says more than this one would
        if temporary.is_file():
            temporary.unlink()
        # Both are there while a folder is replaced: the old one may then be the only copy.
        elif not ((temporary / "new").exists() and (temporary / "old").exists()):
            shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _concerns_writing(error: OSError, path: Path, temporary: Path) -> bool:
    # An error about some other file, raised inside the caller's block, is not ours to reword.
    if error.filename is None:
        return True
    culprit = Path(os.fsdecode(error.filename))
    return culprit == path or culprit in path.parents or culprit.is_relative_to(temporary)


def _cannot_write(path: Path, error: OSError, remedy: str = "choose a folder") -> ArtefactError:
    if error.errno in _FULL:
        return ArtefactError(f"there is no space left to write {path}: free some, or choose another folder.")
    # mkdir says "file exists" when a part of the path is a file.
    reason = "not a directory" if error.errno == errno.EEXIST else (error.strerror or str(error)).lower()
    return ArtefactError(f"{path} cannot be written ({reason}): {remedy} that you may write to.")


def _check_replaceable(folder: Path) -> None:
    if folder.is_file():
        raise ArtefactError(f"{folder} is a file: choose the name of a folder.")
    if folder.is_mount():
        raise ArtefactError(f"{folder} is a mount point: choose the name of a new folder inside it.")
    if not folder.is_dir() or not any(path.name not in _DESKTOP_FILES for path in folder.iterdir()):
        return
    if not is_untouched(folder):
        remedy = "choose another folder, or empty it first"
        raise ArtefactError(f"{folder} holds files that diffinv did not write there: {remedy}.")


def _file_names_key(folder: Path) -> str:
    ignored = {PROVENANCE_FILE, *_DESKTOP_FILES}
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ignored)
    return content_key(sorted(path.relative_to(folder).as_posix() for path in files))
