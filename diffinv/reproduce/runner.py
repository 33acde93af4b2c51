"""Runs the notebooks headless, in order, resuming where an earlier run ended; collects their figures."""

import logging
import multiprocessing
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from diffinv.artefacts.keys import default_cache_dir
from diffinv.artefacts.writing import ArtefactError
from diffinv.reproduce.job import Job, JobResult, Outcome, check_parameters, declared_parameters, work
from diffinv.reproduce.manifest import Manifest, notebook_key, run_record
from diffinv.reproduce.site import write_gallery
from diffinv.reproduce.talk import Talk, expected_seconds, table, talking, unet_calls_per_second

log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"\d\d_\w+")


def reproduce(
    profile: str = "tiny",
    only: Iterable[str] | None = None,
    jobs: int = 1,
    output: str | Path = "figures",
    parameters: Mapping[str, Any] | None = None,
    notebooks: str | Path = "notebooks",
    force: bool = False,
) -> list[Outcome]:
    """Run the numbered notebooks and collect their figures, a manifest and a gallery in `output`.

    A notebook whose figures are up to date is left alone unless `force`; one that fails is reported, its
    partial copy kept in `output/executed`, and the others still run. ValueError for what is unknown: the
    profile, a number in `only`, a parameter that a chosen notebook does not declare.
    """
    from diffinv.lessons.profiles import load_profile

    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least one notebook has to run at a time.")
    notebooks, output = Path(notebooks), Path(output).resolve()
    settings = load_profile(profile)
    chosen = find_notebooks(notebooks, only)
    given = {path.stem: _parameters(path, profile, parameters or {}) for path in chosen}
    keys = {path.stem: notebook_key(path, given[path.stem]) for path in chosen}
    manifest = Manifest(output)
    manifest.keep_only({path.stem for path in find_notebooks(notebooks)})
    manifest.write()  # an output folder that cannot be written says so now, not after an hour

    outcomes, todo = {}, []
    for path in chosen:
        if not force and manifest.is_up_to_date(path.stem, keys[path.stem]):
            executed = output / "executed" / path.name
            outcomes[path.stem] = Outcome(path, "up to date", executed, manifest.figures_of(path.stem), 0.0)
        else:
            todo.append(_job(path, output, given[path.stem], settings.time_limit_seconds))
    # The quickstart first, to have something to look at; then the longest, by what they took the last time,
    # so that no process waits for one that began late.
    took = {path.stem: manifest.notebooks.get(path.stem, {"wall_seconds": float("inf")}) for path in chosen}
    longest = {name: (record.get("cold") or record)["wall_seconds"] for name, record in took.items()}
    todo.sort(key=lambda job: (not job.name.startswith("00"), -longest[job.name]))
    if outcomes:
        log.info("up to date: %s", ", ".join(outcomes))
    log.info("to run, %d at a time: %s", jobs, ", ".join(job.name for job in todo) or "nothing")
    shared = run_record(settings, notebooks)
    cold = not any(default_cache_dir().glob("*"))
    try:
        # The embedded U-Net says nothing about how fast a GPU is with a large one: nothing is measured there.
        speed = unet_calls_per_second() if todo and shared["device"] == "cpu" else None
        shared["unet_calls_per_second"] = speed
        expected = {job.name: expected_seconds(took[job.name], _values(job), speed) for job in todo}
        with talking(todo, jobs, expected, cold) as talk:
            for job, result in _run_each(todo, jobs, talk):
                record = {"key": keys[job.name], **shared, **_job_record(job, result)}
                record["cold"] = _cold_run(record, took[job.name], cold)
                outcomes[job.name] = _settle(manifest, job, result, record)
                talk.ends(outcomes[job.name])
    finally:
        for job in todo:
            shutil.rmtree(job.staging, ignore_errors=True)
        write_gallery(manifest.content, output, notebooks)
    log.info(table([outcomes[path.stem] for path in chosen]))
    return [outcomes[path.stem] for path in chosen]


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


def _parameters(notebook: Path, profile: str, given: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("profile", "output_dir"):
        if name not in declared_parameters(notebook):
            raise ValueError(f"{notebook.name} declares no parameter {name!r}: every notebook has to.")
        if name in given:
            option = name.removesuffix("_dir")
            raise ValueError(f"the parameter {name!r} is set by the runner: use --{option} for it.")
    return check_parameters(notebook, {"profile": profile, **given})


def _job(notebook: Path, output: Path, given: dict[str, Any], cell_timeout_seconds: int | None) -> Job:
    executed = output / "executed"
    # The figures arrive in a folder of the notebook's own: a failed run then never touches the good ones.
    staging = executed / f".{notebook.stem}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise ArtefactError(
            f"{executed} cannot be written ({error.strerror}): choose another output folder."
        ) from error
    arguments = {**given, "output_dir": str(staging)}
    return Job(notebook, executed / notebook.name, staging, arguments, cell_timeout_seconds)


def _run_each(jobs: list[Job], workers: int, talk: Talk) -> Iterator[tuple[Job, JobResult]]:
    """Run the jobs, in their order, `workers` at a time; yield each as it ends."""
    killed = []
    for job, result in _run_processes(jobs, workers, workers, talk):
        if result is None:
            killed.append(job)
            talk.is_tried_again(job)
        else:
            yield job, result
    # It may have been the memory that others took: alone, a notebook shows whether it was the culprit.
    for job, result in _run_processes(killed, 1, workers, talk):
        yield job, result or JobResult("its process was killed, most often because the memory ran out", 0.0)


def _run_processes(
    jobs: list[Job], at_a_time: int, workers: int, talk: Talk
) -> Iterator[tuple[Job, JobResult | None]]:
    """Run each job in a fresh process, whose peak memory is then the job's own; None = it was killed."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting = deque(jobs)
    running: dict[Connection, tuple[Job, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                job = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=work, args=(job, threads, theirs), daemon=True)
                process.start()
                theirs.close()  # the process alone holds that end: when it is gone, ours says so
                running[ours] = job, process
                talk.starts(job)
            ready = wait(list(running), timeout=talk.interval)
            for pipe in [pipe for pipe in running if pipe in ready]:
                job, process = running.pop(pipe)
                try:
                    result = pipe.recv()
                except EOFError:
                    result = None
                process.join()
                yield job, result
            talk.goes_on()
    finally:  # Ctrl-C included: nobody is left running
        for _, process in running.values():
            process.terminate()
            process.join()


def _settle(manifest: Manifest, job: Job, result: JobResult, record: dict[str, Any]) -> Outcome:
    error = result.error
    if error is None:
        try:
            manifest.accept(job.name, job.staging, record)
        except ArtefactError as refusal:
            error = str(refusal)
    if error is not None:
        return Outcome(job.notebook, "failed", job.executed, (), result.wall_seconds, error)
    return Outcome(job.notebook, "done", job.executed, manifest.figures_of(job.name), result.wall_seconds)


def _job_record(job: Job, result: JobResult) -> dict[str, Any]:
    return {
        "parameters": _values(job),
        "wall_seconds": result.wall_seconds,
        "peak_memory_mib": result.peak_memory_mib,
    }


def _values(job: Job) -> dict[str, Any]:
    values = {**declared_parameters(job.notebook), **job.parameters}
    del values["output_dir"]  # where the files lie says it better
    return values


def _cold_run(record: dict[str, Any], before: dict[str, Any], cold: bool) -> dict[str, Any] | None:
    """What the notebook takes with an empty cache: a run with a filled one knows it from an earlier run."""
    if cold:
        return {name: record[name] for name in ("wall_seconds", "unet_calls_per_second")}
    return before.get("cold") if before.get("parameters") == record["parameters"] else None
