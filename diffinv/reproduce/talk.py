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

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffinv.foundation import ASSETS
from diffinv.reproduce.job import Job, Outcome

log = logging.getLogger(__name__)

LIVE_SECONDS = 1.0  # between two refreshes of the live line on a terminal
LOG_SECONDS = 60.0  # the longest silence of a log


@lru_cache
def unet_calls_per_second() -> float:
    """How often per second one thread of this machine runs the embedded U-Net on eight images.

    That is where the lessons spend most of their time. Nothing of ours may run meanwhile, so it is measured
    before the first notebook starts: four seconds, most of them for imports.
    """
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(ASSETS / "tinysd", subfolder="unet")
    side, threads = unet.config.sample_size, torch.get_num_threads()
    latents = torch.zeros(8, unet.config.in_channels, side, side)
    embeddings = torch.zeros(8, 8, unet.config.cross_attention_dim)
    seconds: list[float] = []
    torch.set_num_threads(1)
    try:
        while sum(seconds) < 2:
            started = time.perf_counter()
            with torch.inference_mode():
                unet(latents, 0, embeddings)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    # The fastest: what else the machine did in these two seconds says little about the next minutes.
    return round(1 / min(seconds), 2)


def expected_seconds(record: Mapping[str, Any], parameters: Mapping[str, Any], speed: float | None) -> float:
    """How long a notebook takes here with an empty cache, by its record in a manifest; NaN = not known.

    A run with other parameters or with results in the cache says nothing about it.
    """
    cold = record.get("cold") or {}
    if not speed or not cold.get("unet_calls_per_second") or record["parameters"] != parameters:
        return math.nan
    return cold["wall_seconds"] * cold["unet_calls_per_second"] / speed


@contextmanager
def talking(todo: Sequence[Job], workers: int, expected: Mapping[str, float], cold: bool) -> Iterator["Talk"]:
    """Report a run to the log, and on a terminal in a live line below it.

    `expected` are the seconds of each notebook with an empty cache, NaN = not known; `cold` says that it is.
    """
    # tqdm knows how wide the terminal is, and how other lines get above its own. Where a terminal does not
    # tell its width, tqdm writes nothing: that one is served as a log.
    stream = sys.stderr
    live = stream is not None and stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    bar = tqdm(bar_format="{desc}", dynamic_ncols=True, leave=False, disable=not live)
    with bar, logging_redirect_tqdm() if live else nullcontext():
        talk = Talk(bar, [job.name for job in todo], workers, expected, "" if cold else "at most ")
        talk.opens()
        yield talk


@dataclass
class Talk:
    """What has been said, and what will be, about the notebooks of a run."""

    bar: tqdm
    waiting: list[str]
    workers: int
    expected: Mapping[str, float]
    bound: str  # put before a time that is only a limit
    running: dict[str, tuple[Path, float]] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)  # the seconds that each took
    began: float = field(default_factory=time.time)
    spoke: float = field(default_factory=time.time)

    @property
    def interval(self) -> float:
        return LOG_SECONDS if self.bar.disable else LIVE_SECONDS

    def opens(self) -> None:
        if unknown := [name for name in self.waiting if math.isnan(self.expected[name])]:
            source = "it comes from a run on a CPU with the same parameters and an empty cache"
            names = f" of {', '.join(unknown)}" if len(unknown) < len(self.waiting) else ""
            self._say(f"expected time: not known yet{names} ({source})")
        elif self.waiting:
            less = ", less where the cache already holds results" if self.bound else ""
            self._say(f"expected time: {self.bound}about {duration(self.seconds_to_go())}{less}")

    def starts(self, job: Job) -> None:
        self.waiting.remove(job.name)
        self.running[job.name] = job.executed, time.time()
        seconds = self.expected[job.name]
        known = "" if math.isnan(seconds) else f", {self.bound}about {duration(seconds)} expected"
        self._say(f"{job.name} starts{known}")

    def is_tried_again(self, job: Job) -> None:
        del self.running[job.name]
        self.waiting.append(job.name)
        self._say(f"{job.name}: its process was killed; it is tried again at the end, alone")

    def ends(self, outcome: Outcome) -> None:
        name = outcome.notebook.stem
        del self.running[name]
        self.ended[name] = outcome.wall_seconds
        level, what = logging.INFO, f"done in {outcome.wall_seconds:.0f} s, {len(outcome.figures)} figures"
        if outcome.error is not None:
            self.ended[name] = self.expected[name]  # how soon it failed says nothing about the others
            level, what = logging.ERROR, f"failed: {outcome.error}; its partial copy is {outcome.executed}"
        self._say(f"{self._count()} {name} {what}; {self._time()}", level)
        if name.startswith("00"):  # the first to run: there is something to look at while the others do
            for figure in outcome.figures:
                self._say(f"    look: {outcome.executed.parents[1] / figure}")

    def goes_on(self) -> None:
        """Say what is running, if it is time to."""
        now = time.time()
        if now - self.spoke < 0.9 * self.interval:
            return
        live = not self.bar.disable
        runs = (
            f"{name[:2] if live else name} for {duration(now - since)}{_cell(executed, since)}"
            for name, (executed, since) in self.running.items()
        )
        line = "; ".join([f"{self._count()} {self._time()}", *runs])
        if live:
            self.bar.set_description_str(line)
        else:
            self._say(line)

    def _say(self, line: str, level: int = logging.INFO) -> None:
        self.spoke = time.time()
        self.bar.set_description_str("", refresh=False)  # what it says may no longer be so
        log.log(level, line)

    def _count(self) -> str:
        return f"[{len(self.ended)}/{len(self.waiting) + len(self.running) + len(self.ended)}]"

    def _time(self) -> str:
        elapsed = f"{duration(time.time() - self.began)} elapsed"
        if not (left := len(self.waiting) + len(self.running)):
            return elapsed
        to_go = self.seconds_to_go()
        known = f"{self.bound}about {duration(to_go)} to go" if to_go >= 1 else "longer than expected"
        return f"{left} left, {elapsed}, {'time to go not known yet' if math.isnan(to_go) else known}"

    def seconds_to_go(self) -> float:
        """The expected seconds until all have ended; NaN if that of any notebook is not known."""
        if any(math.isnan(self.expected[name]) for name in (*self.waiting, *self.running)):
            return math.nan
        since = {name: time.time() - started for name, (_, started) in self.running.items()}
        # What has run so far took so many times what was expected of it; so will the rest.
        ran = {**self.ended, **since}
        planned = {name: min(self.expected[name], since.get(name, math.inf)) for name in ran}
        planned = {name: seconds for name, seconds in planned.items() if seconds > 0}
        pace = sum(ran[name] for name in planned) / sum(planned.values()) if planned else 1.0
        free = [max(0.0, pace * self.expected[name] - seconds) for name, seconds in since.items()]
        free += [0.0] * (self.workers - len(free))
        for name in self.waiting:  # each goes to the process that is free first
            free[free.index(min(free))] += pace * self.expected[name]
        return max(free)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _cell(executed: Path, since: float) -> str:
    # papermill saves the copy at every cell. To count is cheaper than to parse, and a copy that is being
    # written does no harm; one that is older than the run is the last run's.
    try:
        if executed.stat().st_mtime < since:
            return ""
        text = executed.read_bytes()
    except OSError:
        return ""
    done, cells = text.count(b'"status": "completed"'), text.count(b'"status": "')
    return f", cell {min(done + 1, cells)}/{cells}" if cells else ""


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table in plain text."""
    rows = [("notebook", "status", "seconds", "figures")]
    for outcome in outcomes:
        seconds = f"{outcome.wall_seconds:.0f}" if outcome.status != "up to date" else "-"
        rows.append((outcome.notebook.stem, outcome.status, seconds, str(len(outcome.figures))))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{a:{width}}  {b:10}  {c:>7}  {d:>7}" for a, b, c, d in rows)
