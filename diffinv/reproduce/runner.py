"""Runs the notebooks headless, in order, resuming where an earlier run ended; collects their figures."""

import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffinv.artefacts.writing import ArtefactError
from diffinv.reproduce.job import (
    Job,
    JobResult,
    check_parameters,
    declared_parameters,
    prepare_worker,
    run_job,
)
from diffinv.reproduce.manifest import Manifest, notebook_key, run_record
from diffinv.reproduce.site import write_gallery

log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"\d\d_\w+")


@dataclass(frozen=True)
class Outcome:
    """What became of a notebook: `figures` are paths inside the output folder, `error` a sentence or None."""

    notebook: Path
    status: Literal["done", "up to date", "failed"]
    executed: Path
    figures: tuple[str, ...]
    wall_seconds: float
    error: str | None = None


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
            outcomes[path.stem] = _up_to_date(manifest, path)
        else:
            todo.append(_job(path, output, given[path.stem], settings.time_limit_seconds))
    # The longest first, by what they took last time, so that no process waits for one that began late.
    took = manifest.notebooks
    todo.sort(key=lambda job: -took.get(job.name, {}).get("wall_seconds", float("inf")))
    shared = run_record(settings, notebooks)
    try:
        for job, result in _run_each(todo, jobs):
            record = {"key": keys[job.name], **shared, **_job_record(job, result)}
            outcomes[job.name] = _settle(manifest, job, result, record)
    finally:
        for job in todo:
            shutil.rmtree(job.staging, ignore_errors=True)
        write_gallery(manifest.content, output, notebooks)
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


def _run_each(jobs: list[Job], workers: int) -> Iterator[tuple[Job, JobResult]]:
    """Run the jobs, in their order, `workers` at a time; yield each as it ends."""
    broken = []
    for job, result in _run_pool(jobs, workers):
        if result is None:
            broken.append(job)
        else:
            yield job, result
    # A killed process breaks the whole pool: alone, each of its notebooks shows whether it was the culprit.
    for job in broken:
        for _, result in _run_pool([job], 1):
            yield (
                job,
                result or JobResult("its process was killed, most often because the memory ran out", 0.0),
            )


def _run_pool(jobs: list[Job], workers: int) -> Iterator[tuple[Job, JobResult | None]]:
    if not jobs:
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=prepare_worker,
        initargs=(threads,),
        max_tasks_per_child=1,  # a fresh process a notebook: its peak memory is then its own
    ) as pool:
        futures = {pool.submit(run_job, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                killed = isinstance(future.exception(), BrokenProcessPool)
                yield futures[future], None if killed else future.result()
        except BaseException:  # Ctrl-C included: nobody is left running
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _settle(manifest: Manifest, job: Job, result: JobResult, record: dict[str, Any]) -> Outcome:
    error = result.error
    if error is None:
        try:
            manifest.accept(job.name, job.staging, record)
        except ArtefactError as refusal:
            error = str(refusal)
    if error is not None:
        log.error("%s failed: %s; its partial copy is %s", job.name, error, job.executed)
        return Outcome(job.notebook, "failed", job.executed, (), result.wall_seconds, error)
    figures = manifest.figures_of(job.name)
    log.info("%s done in %.0f s, %d figures", job.name, result.wall_seconds, len(figures))
    return Outcome(job.notebook, "done", job.executed, figures, result.wall_seconds)


def _up_to_date(manifest: Manifest, notebook: Path) -> Outcome:
    log.info("%s is up to date", notebook.stem)
    executed = manifest.output / "executed" / notebook.name
    return Outcome(notebook, "up to date", executed, manifest.figures_of(notebook.stem), 0.0)


def _job_record(job: Job, result: JobResult) -> dict[str, Any]:
    values = {**declared_parameters(job.notebook), **job.parameters}
    del values["output_dir"]  # where the files lie says it better
    return {
        "parameters": values,
        "wall_seconds": result.wall_seconds,
        "peak_memory_mib": result.peak_memory_mib,
    }
