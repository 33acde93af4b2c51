"""A call's work on many processes or machines: each worker makes parts of it in a cache that all share.

`on_engine` is the way in: a call whose files are all in the cache costs nothing more, and of one that lacks
some each worker makes parts (`artefacts.parts`); then the call itself finds them. Neither images nor vectors
travel through an engine: what a call is given lies in the cache while it runs, and a model is loaded by each
worker from where it came.
"""

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, ParamSpec, TypeVar

import torch

from diffinv.artefacts.parts import FilesLacking, Part, PartDone, asking, in_part, only_part
from diffinv.artefacts.work import VARIABLE, Place, Work, shared_place
from diffinv.foundation.progress import progress

ENGINES = ("local", "ray")
PARTS_PER_WORKER = 4  # so that a slow worker keeps the others waiting for a short time only
IN_FLIGHT = 2  # parts that a Ray actor holds: one at work, and the next at hand
RESTARTS = 3  # of a worker, or of all local ones

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class EngineError(RuntimeError):
    """A worker could not do its part; the message names the part and what was wrong."""


@dataclass(frozen=True)
class Engine:
    """Who shares a call's work: processes of this machine ("local"), or actors of Ray; ValueError if absent.

    `workers` is their number, 0 for one per GPU or core, or for "local" on a GPU just one. `address` says
    where Ray's cluster is, such as "auto"; None = one of this machine alone. `gpus` says whether each worker
    of Ray takes a GPU; None = if there is one here.
    """

    name: str = "local"
    workers: int = 0
    address: str | None = None
    gpus: bool | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise ValueError(f"there is no engine {self.name!r}: choose one of {', '.join(ENGINES)}.")
        if self.workers < 0:
            raise ValueError(f"{self.workers} workers cannot share the work: choose at least 1.")
        if self.address is not None and self.name != "ray":
            raise ValueError(f"an address is for the engine ray, not for {self.name}: leave it out.")
        if self.name == "ray" and find_spec("ray") is None:
            raise ValueError('the engine ray is not installed: pip install "diffinv[ray]".')
        if match := re.search(r"([^/]+):(\d+)$", self.address or ""):
            try:  # Ray itself would try for many minutes
                socket.create_connection((match[1], int(match[2])), timeout=10).close()
            except OSError as error:
                raise _nobody_at(self.address) from error

    @property
    def takes_gpus(self) -> bool:
        return torch.cuda.is_available() if self.gpus is None else self.gpus

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return " ".join([self.name, str(self.workers), *([self.address] if self.address else [])])

    @classmethod
    def parse(cls, text: str) -> "Engine":
        """The engine that a text such as "local", "local 2" or "ray 8 auto" names; ValueError for another."""
        name, workers, address, *more = [*text.split(), "", "", ""][: max(3, len(text.split()))]
        if more or not (workers or "0").isdigit():
            raise ValueError(f"{text!r} names no engine: write it as local 2, or as ray 8 auto.")
        return cls(name, int(workers or 0), address or None)


_ENGINE: ContextVar[Engine | bool] = ContextVar("engine", default=True)  # True = that of the environment


@contextmanager
def using(engine: Engine | str | None) -> Iterator[None]:
    """Within it, this engine shares the work of calls; None changes nothing."""
    before = _ENGINE.get()
    wanted = Engine.parse(engine) if isinstance(engine, str) else engine
    _ENGINE.set(before if wanted is None else wanted)
    try:
        yield
    finally:
        _ENGINE.set(before)


def on_engine(
    engine: Engine | str | None,
    function: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    """Call a function of a module, whose files the engine's workers make before, where it lacks any.

    None stands for the engine of `using` around the call, or of the variable DIFFINV_ENGINE; where there is
    none either, the function is only called. Raises as the function does, and as `run_parts`.
    """
    with using(engine):
        chosen = _ENGINE.get()
        if chosen is True and os.environ.get(VARIABLE):
            chosen = Engine.parse(os.environ[VARIABLE])
        if isinstance(chosen, bool) or in_part():
            return function(*args, **kwargs)
        _ENGINE.set(False)  # what the function calls is done here
        try:
            with asking():
                return function(*args, **kwargs)
        except FilesLacking as lack:
            if lack.files > 1 and not (chosen.name == "local" and chosen.takes_gpus and chosen.workers < 2):
                run_parts(partial(_part_of, partial(function, *args, **kwargs)), chosen)
        return function(*args, **kwargs)


def _part_of(call: Callable[[], Any], part: Part) -> int:
    with only_part(part):
        try:
            call()
        except PartDone as done:
            return done.files
    return 0


def run_parts(work: Work, engine: Engine) -> list[Any]:
    """Have all parts of a call made by an engine; what `work` returns for each part, in their order.

    A worker writes files into the cache, which every machine has to see. A worker that dies is replaced, and
    its part made again; what a stopped call had finished is found by the next one. ValueError for what cannot
    be sent to workers or started; EngineError, which names the part, for work that failed.
    """
    run = _on_ray if engine.name == "ray" else _locally
    with shared_place(work) as place:
        made = dict(run(place, engine))
    return [made[part] for part in sorted(made, key=lambda part: part.number)]


def _parts(workers: int) -> list[Part]:
    count = workers * PARTS_PER_WORKER
    return [Part(number, count) for number in range(1, count + 1)]


def _locally(place: Place, engine: Engine) -> Iterator[tuple[Part, Any]]:
    workers = engine.workers or (1 if engine.takes_gpus else os.cpu_count() or 1)
    parts = _parts(workers)
    yield from progress(_in_processes(place, workers, parts), len(parts), "parts")


def _in_processes(place: Place, workers: int, parts: Sequence[Part]) -> Iterator[tuple[Part, Any]]:
    left = list(parts)
    for attempt in range(RESTARTS + 1):
        # Spawned: a forked process would inherit locks of torch's threads. One thread each, as in a notebook.
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
                futures = {pool.submit(_placed, place, part): part for part in left}
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


def end_with_parent() -> None:
    """End this process with that which started it, however that dies."""

    # kill -9 leaves the parent no time to stop us; without this, we would go on beside its successor.
    def watch() -> None:
        if parent := parent_process():
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _placed(place: Place, part: Part) -> Any:
    return place.enter()(part)


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
        "fewer; the same call goes on from what is finished."
    )


def _nobody_at(address: str | None) -> ValueError:
    return ValueError(f"no Ray cluster answers at {address!r}: start one with ray start.")


def _on_ray(place: Place, engine: Engine) -> Iterator[tuple[Part, Any]]:
    import ray

    ours = not ray.is_initialized()
    if ours:
        init: Any = ray.init
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if engine.address is None:  # both are for a cluster that starts here
            how["include_dashboard"] = False
            # Otherwise all else on the machine goes first, and a worker may get half a core where a local
            # process gets a whole one.
            os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            init(engine.address or "local", **how)
        except Exception as error:  # just that is what Ray raises where its processes do not come up
            if engine.address is None:
                raise EngineError(f"Ray could not be started here: {error}") from error
            raise _nobody_at(engine.address) from error
    try:
        kind = "GPU" if engine.takes_gpus else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if not 1 <= (workers := engine.workers or there) <= there:  # Ray would wait for more for ever
            raise ValueError(f"Ray's cluster has {there} {kind}s for {workers} workers: start fewer of them.")
        parts = _parts(workers)
        yield from progress(_by_actors(place, workers, parts, kind == "GPU"), len(parts), "parts")
    finally:
        if ours:
            ray.shutdown()


def _by_actors(place: Place, workers: int, parts: list[Part], gpus: bool) -> Iterator[tuple[Part, Any]]:
    import ray

    # Restarted where its process or its machine is lost; errors of the work itself are not tried again.
    actor: Any = ray.remote(_Worker)
    actor = actor.options(max_restarts=RESTARTS, max_task_retries=RESTARTS, num_cpus=1, num_gpus=int(gpus))
    actors = [actor.remote(place) for _ in range(workers)]
    doing: dict[Any, tuple[Part | None, Any]] = {each.enter.remote(): (None, each) for each in actors}
    idle: list[Any] = []
    waiting, entered = list(parts), 0
    while waiting or doing:
        while waiting and idle:
            part, own = waiting.pop(0), idle.pop(0)
            doing[own.do.remote(part)] = (part, own)
        (done,), _ = ray.wait(list(doing))
        told, own = doing.pop(done)
        try:
            result = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            failed = "a worker cannot begin" if told is None else f"part {told} failed"
            raise EngineError(f"{failed}: {error.cause}") from error
        except ray.exceptions.RayActorError as error:
            raise _lost(told or parts[0]) from error
        if told is not None:
            idle.append(own)
            yield told, result
            continue
        entered += 1
        if entered == workers:  # no work is begun before all are in their place
            idle = [each for each in actors for _ in range(IN_FLIGHT)]


class _Worker:
    """A process of Ray's, which keeps the model that it has loaded."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def enter(self) -> None:
        """Find the work, and load its model."""
        self.place.enter()

    def do(self, part: Part) -> Any:
        return _placed(self.place, part)
