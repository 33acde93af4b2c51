"""Ray against local processes, and memory against the number of images: `python -m benchmarks.engines`.

Both engines do the same parts, in turns, so that whatever else the machine does slows both. A worker's time
counts from the beginning of its first part, when it has its model, to the end of its last one; overhead is
what it waits in that time, for each part.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.bench import random_images
from benchmarks.large_sets import build, go_through, sizes_up_to
from diffinv.artefacts.engine import Engine, EngineError, run_parts
from diffinv.artefacts.parts import Part
from diffinv.artefacts.writing import write_atomically
from diffinv.datasets import LabelledImages
from diffinv.foundation.networks import device_name
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion

GOAL = 0.9  # Ray's throughput, as a share of that of local processes
SIDE = 32


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__.split(":")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--updates", type=int, default=40, help="of 16 images, in each part")
    parser.add_argument("--repeats", type=int, default=5, help="of each engine")
    parser.add_argument("--engines", nargs="+", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--images", type=int, default=100_000, help="the largest set; 1000 is the smallest")
    parser.add_argument("--output", type=Path, default=Path("figures/engines.csv"))
    chosen = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for row in chain(throughput(chosen), memory(chosen.images)):
        rows.append(row)
        table = pd.DataFrame(rows)
        with write_atomically(chosen.output, "w") as file:
            table.to_csv(file, index=False)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    speeds = table[table["measure"] == "parts per second"].groupby("engine")["value"].median()
    if {"local", "ray"} <= set(speeds.index):
        print(
            f"Ray makes {speeds['ray'] / speeds['local']:.2f} of the parts of local processes; goal {GOAL}."
        )
    return 0


def throughput(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Parts per second and overhead of each engine; the order is turned round in every other repeat."""
    diffusion = load_diffusion("tinysd", device="cpu")
    work = partial(update, diffusion, random_images(16, SIDE), chosen.updates)
    for repeat in range(chosen.repeats):
        for name in chosen.engines[:: 1 if repeat % 2 == 0 else -1]:
            began = time.time()
            try:
                spans = pd.DataFrame(run_parts(work, Engine(name, chosen.workers, gpus=False)))
            except (EngineError, ValueError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            spans["busy"] = spans["ended"] - spans["started"]
            own = spans.groupby("worker")
            taken = own["ended"].max() - own["started"].min()
            where = {"engine": name, "count": chosen.workers, "repeat": repeat}
            where["device"] = device_name(diffusion.device)
            for measure, value in {
                "parts per second": (own.size() / taken).sum(),
                "overhead per part, ms": 1000 * (taken - own["busy"].sum()).sum() / len(spans),
                "seconds before the first part": own["started"].min().max() - began,
            }.items():
                yield {"measure": measure, "value": round(float(value), 3), **where}


def update(diffusion: FrozenDiffusion, images: LabelledImages, updates: int, part: Part) -> dict[str, float]:
    """Some updates of the vectors of a few images; who made them, when they began and ended."""
    started = time.time()
    deque(islice(inversion_steps(diffusion, images, Inversion(steps_per_image=updates)), updates), maxlen=0)
    return {"worker": os.getpid(), "started": started, "ended": time.time()}


def memory(most: int) -> Iterator[dict[str, Any]]:
    """Peak memory of a process that goes through a store, of a driver, and of a worker, for more and more."""
    for count in sizes_up_to(most):
        for what in ("store", "driver", "worker"):
            told = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    f"import benchmarks.engines as e; print(e.peak_of('{what}', {count}))",
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            value = float(told.stdout.split()[-1])
            yield {"measure": "peak memory, MiB", "value": round(value), "engine": what, "count": count}


def peak_of(what: str, count: int) -> float:
    """MiB that this process, or its worker, has at most used; images of 8 px, and vectors of 32 numbers."""
    with tempfile.TemporaryDirectory() as folder:
        if what == "store":
            go_through(build(count, Path(folder) / "store", tokens=2, width=16), Path(folder) / "images")
            return peak_mib()
        images = np.zeros((count, 8, 8, 3), np.uint8)
        peaks = run_parts(partial(look_at, images), Engine("local", 1, gpus=False))
    return peak_mib() if what == "driver" else max(peaks)


def look_at(images: np.ndarray, part: Part) -> float:
    """Read the images of a part, and say how much memory this process has used."""
    assert not images[part.number - 1 :: part.of].any()
    return peak_mib()


def peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    from benchmarks import engines  # under its own name, by which workers import what they are sent

    raise SystemExit(engines.main())
