"""One notebook as a job: what it may be given, and running it headless in a process of its own."""

import ast
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from diffinv.artefacts.engine import end_with_parent
from diffinv.artefacts.work import VARIABLE
from diffinv.foundation.checks import check_names
from diffinv.lessons import SPENT

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_WORDS = {"true": "True", "false": "False", "none": "None", "null": "None"}


@dataclass(frozen=True)
class Job:
    """A notebook to run: `staging` is the folder that takes its figures until it has succeeded."""

    notebook: Path
    executed: Path
    staging: Path
    parameters: dict[str, Any]  # all but output_dir, which is `staging`, and results_dir
    cell_timeout_seconds: int | None
    results: Path | None = None  # of a notebook that reads what the others wrote, as its results_dir
    engine: str | None = None  # that shares its work, as `Engine.parse` takes it; no part of its key

    @property
    def name(self) -> str:
        return self.notebook.stem

    @property
    def is_first(self) -> bool:
        """Whether it is the quickstart, whose figures are something to look at while the others run."""
        return self.name.startswith("00")


@dataclass(frozen=True)
class Outcome:
    """What became of a notebook: `figures` are paths inside the output folder, `error` a sentence or None."""

    job: Job
    status: Literal["done", "up to date", "failed"]
    figures: tuple[str, ...] = ()
    wall_seconds: float = 0.0
    error: str | None = None
    cpu_seconds: float | None = None  # of all its processes: what it takes, whatever else the machine does
    peak_memory_mib: int | None = None
    unet_images: int | None = None  # that went through the U-Net; None where the notebook does not say it

    @property
    def measured(self) -> dict[str, Any]:
        """What a record says about this run of the notebook."""
        took = ("wall_seconds", "cpu_seconds", "peak_memory_mib", "unet_images")
        return {"parameters": self.job.parameters, **{name: getattr(self, name) for name in took}}


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """The names that a notebook's parameters cell assigns, with their default values, which are literals."""
    import papermill

    declared = {}
    for name, parameter in papermill.inspect_notebook(notebook).items():
        try:
            declared[name] = ast.literal_eval(parameter["default"])
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"the default of {name!r} in {notebook} is not a literal: write one.") from error
    return declared


def check_parameters(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of the notebook: those given in the types that it declares, the others by default.

    A text such as "false" becomes what it says. ValueError for a name that the notebook does not declare
    (papermill would only warn) and for a wrong type.
    """
    declared = declared_parameters(notebook)
    check_names(given, declared, notebook.name)
    return declared | {name: _converted(name, value, declared[name]) for name, value in given.items()}


def _converted(name: str, value: Any, default: Any) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        with suppress(SyntaxError, ValueError):  # what is no literal stays a text
            value = ast.literal_eval(_WORDS.get(value.lower(), value))
    if default is None or value is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    kind = type(default).__name__
    raise ValueError(f"the parameter {name!r} is of type {kind}, such as {default!r}: {value!r} is not.")


def work(job: Job, threads: int, outcomes: Connection) -> None:
    """Run one notebook in a fresh process, which stops when asked to, or when its parent is gone."""
    # A terminal sends Ctrl-C to everyone; the parent alone answers it, and asks its workers to stop. Nothing
    # has to be put in order here then: a kernel whose parent is gone ends within a second, the executed copy
    # is saved at every cell, and whatever the notebook keeps it writes whole or not at all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    asked = [int(os.environ[name]) for name in _THREAD_VARIABLES if os.environ.get(name, "").isdigit()]
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(min([threads, *asked]))))
    os.environ["DIFFINV_HEADLESS"] = "1"
    if cache := os.environ.get("DIFFINV_CACHE"):  # the notebooks run in a folder of their own
        os.environ["DIFFINV_CACHE"] = str(Path(cache).expanduser().resolve())
    if job.engine is not None:
        os.environ[VARIABLE] = job.engine
    os.environ.pop("DIFFINV_PROFILE", None)  # the profile is a parameter here, and nothing else may change it
    outcomes.send(run_job(job))


def run_job(job: Job) -> Outcome:
    """Execute the notebook, keeping the executed copy whatever happens; errors come back as a sentence."""
    started = time.perf_counter()
    error = _execute(job)
    if error is not None and "Kernel died before replying" in error:
        # It happens on a busy machine, before any cell has run, and says nothing about the notebook.
        error = _execute(job)
    seconds = round(time.perf_counter() - started, 1)
    status: Literal["done", "failed"] = "done" if error is None else "failed"
    return Outcome(job, status, (), seconds, error, *_taken_by_children(), _unet_images(job.executed))


def _unet_images(executed: Path) -> int | None:
    """What the last `Lesson.spent` that the executed notebook shows says of the U-Net's work."""
    if not executed.exists():
        return None
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    shown = [output.get("data", {}).get(SPENT) for cell in cells for output in cell.get("outputs", ())]
    return next((said["unet_images"] for said in reversed(shown) if said), None)


def _execute(job: Job) -> str | None:
    import papermill
    from jupyter_client import AsyncKernelManager
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    class KernelManager(AsyncKernelManager):
        # Elsewhere an interrupt comes first. Here no cell runs any more that it could stop (one that took too
        # long is stopped by the signals that follow), and a kernel that it meets while it ends its last
        # reply prints it as an error.
        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]
            await self.request_shutdown(restart)
            await self.finish_shutdown(restart=restart)

    folders = {"output_dir": str(job.staging)}
    if job.results is not None:
        folders["results_dir"] = str(job.results)
    try:
        papermill.execute_notebook(
            job.notebook,
            job.executed,
            parameters={**job.parameters, **folders},
            kernel_name="python3",
            cwd=Path.cwd(),  # a relative path among the parameters means what its giver meant
            start_timeout=120,
            execution_timeout=job.cell_timeout_seconds,
            progress_bar=False,
            kernel_manager_class=KernelManager,
            # Silences ipykernel's warning that its sockets are not encrypted.
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except PapermillExecutionError as error:
        reason = str(error.evalue).strip().split("\n")[0]
        return f"its cell In [{error.exec_count}] raised {error.ename}: {reason}".rstrip(": ")
    except CellTimeoutError:
        return f"a cell ran longer than the profile's {job.cell_timeout_seconds} seconds"
    except DeadKernelError:
        return (
            "its kernel died, most often because the memory ran out: close other programs or use fewer jobs"
        )
    except Exception as error:  # whatever it is, it is this notebook's: the others still run
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _taken_by_children() -> tuple[float | None, int | None]:
    """Seconds of computing, and the most MiB of memory."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None, None
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    mib = taken.ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)
    return round(taken.ru_utime + taken.ru_stime, 1), mib or None
