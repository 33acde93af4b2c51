"""A call's work on many processes or machines: each worker makes parts of it in a cache that all share."""

import logging
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from diffinv import __version__
from diffinv.artefacts.keys import default_cache_dir
from diffinv.artefacts.parts import Part
from diffinv.artefacts.writing import check_output, write_atomically
from diffinv.foundation.progress import progress

ENGINES = ("local", "ray")
PARTS_PER_WORKER = 4  # so that a slow worker keeps the others waiting for a short time only
IN_FLIGHT = 2  # parts that a Ray actor holds: one at work, and the next at hand
RESTARTS = 3  # of a worker, or of all local ones

Work = Callable[[Part], Any]  # makes one part; it has to be picklable


class EngineError(RuntimeError):
    """A worker could not do its part; the message names the part and what was wrong."""


@dataclass(frozen=True)
class Place:
    """Where a worker has to find itself: the driver's folder, cache and version of the package."""

    folder: str
    cache: str
    token: str  # a file that the driver wrote into the cache
    version: str = __version__

    def enter(self) -> None:
        """Make this process work there; ValueError where it cannot."""
        here = f"the worker on {socket.gethostname()}"
        if self.version != __version__:
            raise ValueError(
                f"{here} has diffinv {__version__}, not {self.version}: install the same on all."
            )
        for path, remedy in ((self.token, "set DIFFINV_CACHE to"), (self.folder, "start from")):
            if not Path(path).exists():
                raise ValueError(f"{here} does not see {path}: {remedy} a folder that all machines share.")
        os.chdir(self.folder)
        os.environ |= {"DIFFINV_CACHE": self.cache, "TQDM_DISABLE": "1"}


def run_parts(
    work: Work,
    *,
    engine: Literal["local", "ray"],
    workers: int,
    gpus: int = 0,
    address: str | None = None,
) -> list[Any]:
    """Have all parts of a call made by so many workers; what `work` returns for each part, in their order.

    No images and no vectors travel: a worker writes files into the cache, which every machine has to see. A
    worker that dies is replaced, and its part made again; what a stopped call had finished is found by the
    next one. `gpus` is how many each worker of Ray takes, `address` where its cluster is (None = one of this
    machine alone). ValueError for an engine that is not there; EngineError, which names the part, for work
    that failed.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    if address is not None and engine != "ray":
        raise ValueError(f"an address is for the engine ray, not for {engine}: leave it out.")
    count = workers * PARTS_PER_WORKER
    parts = [Part(number, count) for number in range(1, count + 1)]
    with _shared_place() as place:
        if engine == "ray":
            each = _on_ray(place, work, parts, workers, gpus, address)
        else:
            each = _locally(place, work, parts, workers)
        made = dict(progress(each, len(parts), "parts"))
    return [made[part] for part in parts]


@contextmanager
def _shared_place() -> Iterator[Place]:
    cache = default_cache_dir().absolute()
    token = cache / f"engine-{uuid.uuid4().hex[:12]}.token"
    check_output(token)
    try:
        with write_atomically(token, "w") as file:
            file.write(socket.gethostname())
        yield Place(os.getcwd(), str(cache), str(token))
    finally:
        token.unlink(missing_ok=True)


def _locally(place: Place, work: Work, parts: Sequence[Part], workers: int) -> Iterator[tuple[Part, Any]]:
    left = list(parts)
    for attempt in range(RESTARTS + 1):
        # Spawned: a forked process would inherit locks of torch's threads. One thread each, as in a notebook.
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                futures = {pool.submit(_placed, place, work, part): part for part in left}
                try:
                    for future in as_completed(futures):
                        part = futures[future]
                        yield part, _result(part, future.result)
                        left.remove(part)
                    return
                except EngineError:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        except BrokenProcessPool as error:
            if attempt == RESTARTS:
                raise _lost(left[0]) from error
        finally:
            if before is None:
                os.environ.pop("OMP_NUM_THREADS", None)
            else:
                os.environ["OMP_NUM_THREADS"] = before


def _placed(place: Place, work: Work, part: Part) -> Any:
    place.enter()
    return work(part)


def _result(part: Part, get: Callable[[], Any]) -> Any:
    try:
        return get()
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, BrokenProcessPool):
            raise
        raise EngineError(f"part {part} failed: {error}") from error


def _lost(part: Part) -> EngineError:
    return EngineError(
        f"the workers died {RESTARTS + 1} times, at last with part {part}: give each more memory, or start "
        "fewer; the same command goes on from what is finished."
    )


def _on_ray(
    place: Place, work: Work, parts: Sequence[Part], workers: int, gpus: int, address: str | None
) -> Iterator[tuple[Part, Any]]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError('the engine ray is not installed: pip install "diffinv[ray]".') from error

    ours = not ray.is_initialized()
    if ours:
        try:
            if match := re.search(r"([^/]+):(\d+)$", address or ""):
                # Ray itself would try for many minutes.
                socket.create_connection((match[1], int(match[2])), timeout=10).close()
            init: Any = ray.init  # whose dashboard is for a cluster that starts here
            init(
                address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else {"include_dashboard": False}),
            )
        except Exception as error:  # just that is what Ray raises where its processes do not come up
            if address is None:
                raise EngineError(f"Ray could not be started here: {error}") from error
            raise ValueError(f"no Ray cluster answers at {address!r}: start one with ray start.") from error
    # Restarted where its process or its machine is lost; errors of the work itself are not tried again.
    actor: Any = ray.remote(_Worker)
    actor = actor.options(max_restarts=RESTARTS, max_task_retries=RESTARTS, num_cpus=1, num_gpus=int(gpus))
    try:
        actors = [actor.remote(place) for _ in range(workers)]
        waiting = list(parts)
        doing: dict[Any, tuple[Part, Any]] = {}
        idle = [each for each in actors for _ in range(IN_FLIGHT)]
        while waiting or doing:
            while waiting and idle:
                part, own = waiting.pop(0), idle.pop(0)
                doing[own.do.remote(work, part)] = (part, own)
            (done,), _ = ray.wait(list(doing))
            part, own = doing.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise EngineError(f"part {part} failed: {error.cause}") from error
            except ray.exceptions.RayActorError as error:
                raise _lost(part) from error
            idle.append(own)
            yield part, result
    finally:
        if ours:
            ray.shutdown()


class _Worker:
    """A process of Ray's, which keeps the model that its first part has loaded."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def do(self, work: Work, part: Part) -> Any:
        return _placed(self.place, work, part)
