"""Building and searching an index of a million vectors: `python -m benchmarks.retrieval`.

Random vectors lie about random centres, as features of pictures do about what they show. Each phase runs in a
process of its own, whose peak memory is its own; some of the queries are compared with exact search.
"""

import argparse
import multiprocessing
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffinv.artefacts.writing import provenance, write_atomically, write_json
from diffinv.foundation.randomness import numpy_stream

SHARD_SIZE = 16_384
CENTRES = 20_000
SPREAD = 0.6  # length of the noise about a centre, whose length is 1: cosines of 0.7 within a group
CHECKED_QUERIES = 200
SMALL = (100_000, 1_000)  # vectors and queries: more than are compared one by one


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--vectors", type=int, default=1_000_000, help="images of the pool")
    parser.add_argument("--width", type=int, default=512, help="numbers in a feature")
    parser.add_argument("--queries", type=int, default=10_000, help="real images")
    parser.add_argument("--k", type=int, default=50, help="neighbours of each")
    parser.add_argument(
        "--small", action="store_true", help="{:,} vectors and {:,} queries, in a minute".format(*SMALL)
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/retrieval"),
        help="holds 2.5 GB meanwhile",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench_retrieval.json"), help="record")
    chosen = parser.parse_args(arguments)
    if chosen.small:
        chosen.vectors, chosen.queries = SMALL
    phases: tuple[Callable[..., dict[str, Any]], ...] = (write_vectors, build, search, check)
    record: dict[str, Any] = {}
    try:
        for phase in phases:
            record[phase.__name__] = in_own_process(phase, chosen)
            print(f"{phase.__name__:<14} " + "  ".join(f"{k} {v}" for k, v in record[phase.__name__].items()))
    finally:
        shutil.rmtree(chosen.folder, ignore_errors=True)
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()
    }
    write_json(chosen.output, provenance(settings=settings, **record))
    print(f"written to {chosen.output}")
    return 0


def in_own_process(phase: Callable[..., dict[str, Any]], chosen: argparse.Namespace) -> dict[str, Any]:
    """What a phase returns, with its seconds, on the clock and of the processors, and its peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (phase, chosen))


def _measured(phase: Callable[..., dict[str, Any]], chosen: argparse.Namespace) -> dict[str, Any]:
    from diffinv.synthesizers.retrieval import index as retrieval  # noqa: F401  # imported before the clock starts, with torch

    clock, processors, before = time.perf_counter(), time.process_time(), peak_megabytes()
    found = phase(chosen)
    return {
        "seconds": round(time.perf_counter() - clock, 1),
        "processor_seconds": round(time.process_time() - processors, 1),
        "peak_mb": peak_megabytes(),
        "of_which_imports_mb": before,
        **found,
    }


def write_vectors(chosen: argparse.Namespace) -> dict[str, Any]:
    """What CLIP would have made of the pool, in shards as `build_index` leaves them."""
    for number, start in enumerate(range(0, chosen.vectors, SHARD_SIZE)):
        count = min(SHARD_SIZE, chosen.vectors - start)
        with write_atomically(chosen.folder / f"{number:05d}.npy") as file:
            np.save(file, vectors("pool", number, count, chosen.width), allow_pickle=False)
    return {}


def build(chosen: argparse.Namespace) -> dict[str, Any]:
    from diffinv.synthesizers.retrieval.index import write_index

    write_index(shards(chosen), chosen.folder / "index.faiss")
    return {"file_mb": round((chosen.folder / "index.faiss").stat().st_size / 2**20)}


def search(chosen: argparse.Namespace) -> dict[str, Any]:
    from diffinv.synthesizers.retrieval.index import PoolIndex, open_index

    index = PoolIndex(None, open_index(chosen.folder / "index.faiss"))  # type: ignore[arg-type]
    queries = vectors("queries", 0, chosen.queries, chosen.width)
    started = time.perf_counter()
    rows, _ = index.search(queries, chosen.k)
    seconds = time.perf_counter() - started
    with write_atomically(chosen.folder / "rows.npy") as file:
        np.save(file, rows, allow_pickle=False)
    return {"queries": len(queries), "search_seconds": round(seconds, 1)}


def check(chosen: argparse.Namespace) -> dict[str, Any]:
    """The share of the true k nearest that were found."""
    queries = vectors("queries", 0, chosen.queries, chosen.width)[:CHECKED_QUERIES]
    cosines, rows, first = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64), 0
    for shard in shards(chosen):
        cosines = np.concatenate([cosines, queries @ shard.T], axis=1)
        numbers = np.broadcast_to(np.arange(first, first + len(shard)), (len(queries), len(shard)))
        rows = np.concatenate([rows, numbers], axis=1)
        nearest = np.argsort(-cosines, axis=1)[:, : chosen.k]
        cosines, rows = (np.take_along_axis(each, nearest, axis=1) for each in (cosines, rows))
        first += len(shard)
    found = np.load(chosen.folder / "rows.npy", allow_pickle=False)[: len(queries)]
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), rows.tolist(), strict=True)]
    return {f"recall_at_{chosen.k}": round(float(np.mean(hits)) / chosen.k, 4)}


def shards(chosen: argparse.Namespace) -> list[np.ndarray]:
    paths = sorted(chosen.folder.glob("[0-9]*.npy"))
    return [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]


def vectors(what: str, number: int, count: int, width: int) -> np.ndarray:
    random = numpy_stream(0, what, number)
    centres = numpy_stream(0, "centres").standard_normal((CENTRES, width), np.float32) / width**0.5
    noise = random.standard_normal((count, width), np.float32) * (SPREAD / width**0.5)
    noisy = centres[random.integers(CENTRES, size=count)] + noise
    return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


def peak_megabytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    raise SystemExit(main())
