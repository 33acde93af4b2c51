"""What a run of the notebooks says while it goes: what runs, what has ended, how long the rest will take."""

import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffinv.foundation import ASSETS
from diffinv.reproduce.job import Job, Outcome

log = logging.getLogger(__name__)

LOG_SECONDS = 60.0  # the longest silence of a log


@lru_cache
def unet_calls_per_second() -> float:
    """How often per second one thread of this machine runs the embedded U-Net on eight images.

    That is where the lessons spend most of their time. Nothing of ours may run meanwhile, so it is measured
    before the first notebook starts: four seconds, most of them for imports.
    """
    import torch
    from diffusers import UNet2DConditionModel
    from torch.utils.benchmark import Timer

    unet = UNet2DConditionModel.from_pretrained(ASSETS / "tinysd", subfolder="unet")
    side, channels, width = (unet.config[n] for n in ("sample_size", "in_channels", "cross_attention_dim"))
    tensors = {"latents": torch.zeros(8, channels, side, side), "embeddings": torch.zeros(8, 8, width)}
    timer = Timer("unet(latents, 0, embeddings)", globals={"unet": unet, **tensors}, num_threads=1)
    with torch.inference_mode():
        measured = timer.blocked_autorange(min_run_time=2)
    # The fastest: what else the machine did in these two seconds says little about the next minutes.
    return round(1 / min(measured.times), 2)


def expected_seconds(record: Mapping[str, Any], parameters: Mapping[str, Any], speed: float | None) -> float:
    """How long a notebook takes here with an empty cache, by its record in a manifest; NaN = not known.

    A run with other parameters or with results in the cache says nothing about it.
    """
    cold = record.get("cold") or {}
    if not speed or not cold.get("unet_calls_per_second") or record["parameters"] != parameters:
        return math.nan
    return cold["wall_seconds"] * cold["unet_calls_per_second"] / speed


@contextmanager
def talking(expected: Mapping[str, float], workers: int, cold: bool) -> Iterator["Talk"]:
    """Report a run to the log, and on a terminal in a live line below it.

    `expected` are the seconds of each notebook with an empty cache, NaN = not known; `cold` says that it is.
    """
    # tqdm knows how wide the terminal is, and how other lines get above its own. Where a terminal does not
    # tell its width, tqdm writes nothing: that one is served as a log.
    stream = sys.stderr
    live = stream is not None and stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    bar = tqdm(bar_format="{desc}", dynamic_ncols=True, leave=False, disable=not live)
    with bar, logging_redirect_tqdm() if live else nullcontext():
        talk = Talk(bar, expected, workers, "" if cold else "at most ")
        talk.opens()
        yield talk


@dataclass
class Talk:
    """What has been said, and what will be, about the notebooks of a run."""

    bar: tqdm
    expected: Mapping[str, float]
    workers: int
    bound: str  # put before a time that is only a limit
    running: dict[str, tuple[Job, float]] = field(default_factory=dict)  # with the time of the start
    ended: set[str] = field(default_factory=set)
    shown: set[Path] = field(default_factory=set)
    began: float = field(default_factory=time.time)
    spoke: float = field(default_factory=time.time)

    def opens(self) -> None:
        seconds = self.seconds_to_go()
        if math.isnan(seconds):
            source = "it comes from a run on a CPU with the same parameters and an empty cache"
            self._say(f"expected time: not known yet ({source})")
        elif self.expected:
            less = ", less where the cache already holds results" if self.bound else ""
            self._say(f"expected time: {self.bound}about {duration(seconds)}{less}")

    def starts(self, job: Job) -> None:
        self.running[job.name] = job, time.time()
        seconds = self.expected[job.name]
        known = "" if math.isnan(seconds) else f", {self.bound}about {duration(seconds)} expected"
        self._say(f"{job.name} starts{known}")

    def is_tried_again(self, job: Job) -> None:
        del self.running[job.name]
        self._say(f"{job.name}: its process was killed; it is tried again at the end, alone")

    def ends(self, outcome: Outcome) -> None:
        job = outcome.job
        del self.running[job.name]
        self.ended.add(job.name)
        level, what = logging.INFO, f"done in {outcome.wall_seconds:.0f} s, {len(outcome.figures)} figures"
        if outcome.error is not None:
            level, what = logging.ERROR, f"failed: {outcome.error}; its partial copy is {job.executed}"
        self._say(f"{self._count()} {job.name} {what}; {self._time()}", level)
        for figure in outcome.figures if job.is_first else ():
            self._say(f"    look: {job.executed.parents[1] / figure}")

    def goes_on(self) -> None:
        """Say what the first notebook has drawn; and what is running, in a log once in a while."""
        for job in [job for job, _ in self.running.values() if job.is_first]:
            for picture in sorted({*job.staging.glob("*.png")} - self.shown):
                # Not yet in its last place: that may hold one of an earlier run, which a notebook that fails
                # further on must not replace.
                self._say(f"    look: {picture} (while {job.name} runs)")
                self.shown.add(picture)
        live = not self.bar.disable
        if not live and time.time() - self.spoke < LOG_SECONDS:
            return
        line = f"{self._count()} {self._time()}"
        for name, (job, since) in self.running.items():
            line += f"; {name[:2] if live else name} for {duration(time.time() - since)}{_cell(job.executed)}"
        if live:
            self.bar.set_description_str(line)
        else:
            self._say(line)

    def _say(self, line: str, level: int = logging.INFO) -> None:
        self.spoke = time.time()
        self.bar.set_description_str("", refresh=False)  # what it says may no longer be so
        log.log(level, line)

    def _count(self) -> str:
        return f"[{len(self.ended)}/{len(self.expected)}]"

    def _time(self) -> str:
        elapsed = f"{duration(time.time() - self.began)} elapsed"
        if not (left := len(self.expected) - len(self.ended)):
            return elapsed
        seconds = self.seconds_to_go()
        to_go = "longer than expected" if seconds < 1 else f"{self.bound}about {duration(seconds)} to go"
        return f"{left} left, {elapsed}, {'time to go not known yet' if math.isnan(seconds) else to_go}"

    def seconds_to_go(self) -> float:
        """The expected seconds until all have ended; NaN if that of any notebook is not known."""
        left = {name: seconds for name, seconds in self.expected.items() if name not in self.ended}
        for name, (_, since) in self.running.items():
            left[name] -= time.time() - since
        seconds = np.maximum([*left.values()], 0)  # unlike max, it keeps a NaN
        # The processes share the work as well as they can, but no two of them share a notebook.
        return float(max(seconds.sum() / self.workers, seconds.max(initial=0)))


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _cell(executed: Path) -> str:
    # papermill saves the copy at every cell. To count is cheaper than to parse, and a copy that is being
    # written does no harm.
    text = executed.read_bytes() if executed.exists() else b""
    done, cells = text.count(b'"status": "completed"'), text.count(b'"status": "')
    return f", cell {min(done + 1, cells)}/{cells}" if cells else ""


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table in plain text."""
    columns = {
        "status": [outcome.status for outcome in outcomes],
        "seconds": [round(o.wall_seconds) if o.status != "up to date" else "-" for o in outcomes],
        "cpu_seconds": [round(o.cpu_seconds) if o.cpu_seconds else "-" for o in outcomes],
        "unet_images": [o.unet_images or "-" for o in outcomes],
        "figures": [len(outcome.figures) for outcome in outcomes],
    }
    names = pd.Index([outcome.job.name for outcome in outcomes])
    return pd.DataFrame(columns, names).rename_axis(columns="notebook").to_string()
