"""Runs the notebooks headless, in order, resuming where an earlier run ended; collects their figures."""

import logging
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout

from diffinv.artefacts.keys import default_cache_dir
from diffinv.artefacts.writing import ArtefactError, lock_beside
from diffinv.lessons.profiles import load_profile
from diffinv.reproduce.job import Job, Outcome, check_parameters, declared_parameters, work
from diffinv.reproduce.manifest import Manifest, notebook_key, run_record
from diffinv.reproduce.site import link_pictures, write_site
from diffinv.reproduce.talk import Talk, expected_seconds, table, talking, unet_calls_per_second

log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"\d\d_\w+")


def reproduce(
    profile: str = "tiny",
    only: Iterable[str] | None = None,
    jobs: int = 1,
    output: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    notebooks: str | Path = "notebooks",
    force: bool = False,
    engine: str | None = None,
) -> list[Outcome]:
    """Run the numbered notebooks and collect their figures, a manifest and a site in `output`.

    None stands for the profile's own folder, so that no trial run writes over the figures that are committed.
    A notebook whose figures are up to date is left alone unless `force`; one that fails is reported, its
    partial copy kept in `output/executed`, and the others still run. A notebook with a parameter
    `results_dir` reads what the others wrote: it gets `output` as that folder, and starts when all others
    have ended. An `engine` such as "local 2" or "ray 8 auto" shares the work of every notebook among its
    workers. ValueError for what is unknown: the profile, a number in `only`, a parameter that no chosen
    notebook declares. ArtefactError where another run is at one of them in the same `output`.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least one notebook has to run at a time.")
    for name, option in (("profile", "--profile"), ("output_dir", "--output"), ("results_dir", "--output")):
        if name in (parameters or {}):
            raise ValueError(f"the parameter {name!r} is set by the runner: use {option} for it.")
    settings, notebooks = load_profile(profile), Path(notebooks)
    output, paths = Path(output or settings.output_dir).resolve(), find_notebooks(notebooks, only)
    given = {"profile": profile, **(parameters or {})}
    chosen = [
        replace(_job(path, output, own, settings.time_limit_seconds), engine=engine)
        for path, own in _own_parameters(paths, given).items()
    ]
    keys = {job.name: _key(job) for job in chosen}
    manifest = Manifest(output)
    # It is written here: an output folder that cannot be says so now, not after an hour.
    manifest.keep_only({path.stem for path in find_notebooks(notebooks)})
    before = {job.name: manifest.notebooks.get(job.name, {}) for job in chosen}

    current = {job.name for job in chosen if not force and manifest.is_up_to_date(job.name, keys[job.name])}
    if any(job.name not in current and job.results is None for job in chosen):
        current -= {
            job.name for job in chosen if job.results is not None
        }  # they read what is about to change
    outcomes = {
        job.name: Outcome(job, "up to date", manifest.figures_of(job.name))
        for job in chosen
        if job.name in current
    }
    # The quickstart first; then the longest, by what they took the last time, so that no process waits for
    # one that began late.
    last = {
        name: (record.get("cold") or record).get("wall_seconds", math.inf) for name, record in before.items()
    }
    todo = [job for job in chosen if job.name not in outcomes]
    todo.sort(key=lambda job: (job.results is not None, not job.is_first, -last[job.name]))
    if outcomes:
        log.info("up to date: %s", ", ".join(outcomes))
    log.info("to run, %d at a time: %s", jobs, ", ".join(job.name for job in todo) or "nothing")
    shared = run_record(settings, notebooks)
    cold = not any(default_cache_dir().glob("*"))
    with _alone_at(todo, output / "executed") as let_go:
        try:
            # The embedded U-Net says nothing about how fast a GPU is with a large one.
            speed = unet_calls_per_second() if todo and shared["device"] == "cpu" else None
            shared["unet_calls_per_second"] = speed
            expected = {job.name: expected_seconds(before[job.name], job.parameters, speed) for job in todo}
            with talking(expected, jobs, cold) as talk:
                writers = [job for job in todo if job.results is None]
                for group in (writers, todo[len(writers) :]):
                    keys |= {job.name: _key(job) for job in group}  # a reader's has what others just wrote
                    for outcome in _run_each(group, jobs, talk):
                        name = outcome.job.name
                        record = {"key": keys[name], **shared, **outcome.measured}
                        record["cold"] = _cold_run(record, before[name], cold)
                        outcomes[name] = _accepted(manifest, outcome, record)
                        if outcome.job.executed.exists():  # a process that was killed may not have begun it
                            link_pictures(outcome.job.executed, outcome.job.notebook, output)
                        let_go(outcome.job)
                        talk.ends(outcomes[name])
        finally:
            manifest.read()
            write_site(manifest.notebooks, output, notebooks)
    in_order = [outcomes[job.name] for job in chosen]
    log.info(table(in_order))
    return in_order


def find_notebooks(folder: str | Path, only: Iterable[str] | None = None) -> list[Path]:
    """The numbered notebooks of a folder, in their order; `only` picks some by their number ("01", "3")."""
    paths = sorted(path.resolve() for path in Path(folder).glob("*.ipynb") if _NUMBERED.fullmatch(path.stem))
    if not paths:
        raise ValueError(
            f"{folder} holds no numbered notebook: run in a clone of diffinv, or name the folder."
        )
    numbers = {path.stem[:2] for path in paths}
    wanted = numbers if only is None else {number.strip().zfill(2) for number in only}
    if unknown := sorted(wanted - numbers):
        raise ValueError(f"there is no notebook {unknown[0]!r}: choose from {', '.join(sorted(numbers))}.")
    return [path for path in paths if path.stem[:2] in wanted]


def _own_parameters(paths: list[Path], given: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """What of the given parameters each notebook gets: all, but for those that only others declare."""
    declared = {path: declared_parameters(path) for path in paths}
    known = set().union(*declared.values()) - {"profile"}
    own = {}
    for path in paths:
        if lacks := [name for name in given if name in known and name not in declared[path]]:
            log.info("%s has no parameter %s, and runs without it", path.stem, ", ".join(lacks))
        own[path] = {name: value for name, value in given.items() if name not in lacks}
    return own


def _job(notebook: Path, output: Path, given: Mapping[str, Any], limit: int) -> Job:
    parameters = check_parameters(notebook, {**given, "output_dir": ""})
    del parameters["output_dir"]  # where the figures lie says it better
    results = output if parameters.pop("results_dir", None) is not None else None
    # The figures arrive in a folder of the notebook's own: a failed run then never touches the good ones.
    executed = output / "executed"
    return Job(notebook, executed / notebook.name, executed / f".{notebook.stem}", parameters, limit, results)


def _key(job: Job) -> str:
    return notebook_key(job.notebook, job.parameters, job.results)


@contextmanager
def _alone_at(jobs: list[Job], folder: Path) -> Iterator[Callable[[Job], None]]:
    """Keep other runs into this folder from these notebooks; yield what lets go of one that has ended."""
    held: dict[str, BaseFileLock] = {}

    def let_go(job: Job) -> None:
        if lock := held.pop(job.name, None):
            shutil.rmtree(job.staging, ignore_errors=True)
            lock.release()

    try:
        with lock_beside(folder / ".runs"):  # one asks after the other: two would take from each other
            for job in jobs:
                with suppress(Timeout):
                    lock = lock_beside(job.staging)
                    lock.acquire(timeout=0)
                    held[job.name] = lock
        if busy := [job.name for job in jobs if job.name not in held]:
            reason = f"another run is at {', '.join(busy)} in {folder.parent}"
            raise ArtefactError(f"{reason}: wait for it, or name another --output.")
        yield let_go
    finally:
        for job in jobs:
            let_go(job)


def _run_each(jobs: list[Job], workers: int, talk: Talk) -> Iterator[Outcome]:
    """Run the jobs, in their order, `workers` at a time; yield what became of each as it ends.

    Each has a fresh process, whose peak memory is then the notebook's own.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting, alone = jobs[:], False
    killed: list[Job] = []
    running: dict[Connection, tuple[Job, SpawnProcess]] = {}
    try:
        while waiting or running or killed:
            if not (waiting or running):
                # It may have been the memory that others took: alone, each shows whether it was the culprit.
                waiting, killed, workers, alone = killed, [], 1, True
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                pipe, process = _start(job, threads)
                running[pipe] = job, process
                talk.starts(job)
            ready = wait(list(running), timeout=1.0)
            for pipe in [pipe for pipe in running if pipe in ready]:
                job, process = running.pop(pipe)
                try:
                    yield pipe.recv()
                except EOFError:
                    if alone:
                        reason = "its process was killed, most often because the memory ran out"
                        yield Outcome(job, "failed", error=reason)
                    else:
                        killed.append(job)
                        talk.is_tried_again(job)
                process.join()
            talk.goes_on()
    finally:  # Ctrl-C included: nobody is left running
        for _, process in running.values():
            process.terminate()
            process.join()


def _start(job: Job, threads: int) -> tuple[Connection, SpawnProcess]:
    """Start the process of a job: it sends its outcome, and nothing if it is killed."""
    shutil.rmtree(job.staging, ignore_errors=True)
    job.staging.mkdir(parents=True)
    job.executed.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, threads, theirs), daemon=True)
    process.start()
    theirs.close()  # the process alone holds that end: when it is gone, ours says so
    return ours, process


def _cold_run(record: dict[str, Any], before: dict[str, Any], cold: bool) -> dict[str, Any] | None:
    """What the notebook takes with an empty cache: a run with a filled one knows it from an earlier run."""
    if cold:
        names = ("wall_seconds", "cpu_seconds", "unet_calls_per_second", "unet_images")
        return {name: record[name] for name in names}
    return before.get("cold") if before.get("parameters") == record["parameters"] else None


def _accepted(manifest: Manifest, outcome: Outcome, record: dict[str, Any]) -> Outcome:
    """The outcome, once the files of a notebook that succeeded have been taken over."""
    job = outcome.job
    if outcome.error is not None:
        return outcome
    try:
        manifest.accept(job.name, job.staging, record)
    except ArtefactError as refusal:
        return replace(outcome, status="failed", error=str(refusal))
    return replace(outcome, figures=manifest.figures_of(job.name))
