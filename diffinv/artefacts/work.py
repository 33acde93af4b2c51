"""The work of a call as a file in the cache, which the workers of an engine find and read."""

import hashlib
import io
import os
import pickle
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from diffinv import __version__
from diffinv.artefacts.keys import default_cache_dir
from diffinv.artefacts.parts import Part
from diffinv.artefacts.writing import check_output, write_array, write_whole

VARIABLE = "DIFFINV_ENGINE"  # in which a process that starts others, such as notebooks, names theirs
LARGE = 2**20  # bytes from which on an array has a file of its own, of which a worker reads what it needs

Work = Callable[[Part], Any]  # makes one part; it has to be picklable


@dataclass(frozen=True)
class Place:
    """Where a worker has to find itself: the driver's folder, cache, work and version of the package."""

    folder: str
    cache: str
    work: str  # a file that the driver wrote into the cache
    digest: str  # its SHA-256: what others could write there is not unpickled
    version: str = __version__

    def enter(self) -> Work:
        """Make this process work there, and read what it is to do; ValueError where it cannot."""
        here = f"the worker on {socket.gethostname()}"
        if self.version != __version__:
            raise ValueError(
                f"{here} has diffinv {__version__}, not {self.version}: install the same on all."
            )
        for path, remedy in ((self.work, "set DIFFINV_CACHE to"), (self.folder, "start from")):
            if not Path(path).exists():
                raise ValueError(f"{here} does not see {path}: {remedy} a folder that all machines share.")
        os.chdir(self.folder)
        os.environ |= {"DIFFINV_CACHE": self.cache, "TQDM_DISABLE": "1"}
        os.environ.pop(VARIABLE, None)
        return _read_work(Path(self.work), self.digest)


@contextmanager
def shared_place(work: Work) -> Iterator[Place]:
    """Within it, the work lies in the cache; ValueError for what cannot be sent to workers."""
    cache = default_cache_dir().absolute()
    folder = cache / "engine" / uuid.uuid4().hex[:12]
    check_output(folder / "work")
    for lock in folder.parent.glob("*.lock"):  # of calls that were killed
        with suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    folder.mkdir(parents=True)
    held = folder.with_suffix(".lock")
    with FileLock(held, mode=0o666):
        try:
            yield Place(os.getcwd(), str(cache), *_write_work(work, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            held.unlink(missing_ok=True)


class _Pickler(pickle.Pickler):
    """Puts large arrays into files beside the pickle."""

    def __init__(self, file: Any, folder: Path) -> None:
        super().__init__(file, protocol=5)
        self.folder, self.files = folder, 0

    def persistent_id(self, obj: Any) -> tuple[str, str] | None:
        tensor = isinstance(obj, torch.Tensor) and obj.device.type == "cpu" and obj.dtype != torch.bfloat16
        if not (tensor or isinstance(obj, np.ndarray)) or obj.nbytes < LARGE:
            return None
        name = f"{self.files}.npy"
        self.files += 1
        write_array(self.folder / name, obj.detach().numpy() if isinstance(obj, torch.Tensor) else obj)
        return "tensor" if tensor else "array", name


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, folder: Path) -> None:
        super().__init__(file)
        self.folder = folder

    def persistent_load(self, pid: tuple[str, str]) -> Any:
        kind, name = pid
        array = np.load(self.folder / name, mmap_mode="c", allow_pickle=False)
        return torch.from_numpy(array) if kind == "tensor" else array


def _write_work(work: Work, folder: Path) -> tuple[str, str]:
    pickled = io.BytesIO()
    try:
        _Pickler(pickled, folder).dump(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the work cannot be sent to workers ({error}): define what it is made of in a module, not in a "
            "notebook or a function, or leave the engine out."
        ) from error
    write_whole(folder / "work", pickled.getvalue())
    return str(folder / "work"), hashlib.sha256(pickled.getvalue()).hexdigest()


@lru_cache(maxsize=1)  # a worker makes several parts of one call, with the model loaded once
def _read_work(path: Path, digest: str) -> Work:
    pickled = path.read_bytes()
    if hashlib.sha256(pickled).hexdigest() != digest:
        raise ValueError(f"{path} is not what the driver wrote: let nobody else write into the cache.")
    try:
        return _Unpickler(io.BytesIO(pickled), path.parent).load()
    except (AttributeError, ImportError) as error:  # of the notebook or script that called
        here = f"the worker on {socket.gethostname()}"
        remedy = "define what it is made of in a module that all workers have"
        raise ValueError(f"{here} cannot import the work ({error}): {remedy}.") from error
