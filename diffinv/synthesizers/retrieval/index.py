"""Nearest neighbours of images in a pool: CLIP features in a local index on disk, made once for each pool."""

import math
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.writing import (
    provenance,
    read_cached_array,
    read_json,
    write_array,
    write_atomically,
    write_json,
)
from diffinv.datasets import DatasetError
from diffinv.foundation.progress import progress
from diffinv.foundation.randomness import numpy_stream
from diffinv.models.clip import FrozenClip
from diffinv.synthesizers.retrieval.pools import Pool, open_pool

RECIPE = 1  # part of every key: to be raised when the same pool would give another index
BATCH_SIZE = 256  # images decoded and embedded at once
SHARD_SIZE = 16_384  # images embedded between two writes: what a kill can lose
# Up to here every vector is compared, as it is. Above, a query is compared with the vectors of the 32 lists
# whose centres are nearest, some 16,000 of however many, and these are kept in 8 bits a channel: a million of
# 512 channels are 0.5 GB on disk instead of 2, and a sixtieth of them is looked at. Either way the index is
# one of inverted lists (one list, where all is compared): what faiss searches without reading it into memory.
EXACT_UP_TO = 50_000
VECTORS_PER_LIST = 512
TRAINING_VECTORS_PER_LIST = 64
PROBED_LISTS = 32
QUERIES_AT_ONCE = 1_024

Features = Float[np.ndarray, "row feature"]
Shard = Float[np.ndarray, "_ feature"]  # of as many rows as it has: shards need not be equal


class Neighbours(NamedTuple):
    """The images of a pool most like each query, nearest first."""

    rows: Int[np.ndarray, "query k"]  # in the pool
    cosines: Float[np.ndarray, "query k"]


@dataclass(frozen=True, eq=False)
class PoolIndex:
    """A pool with the index of its features, which stays on disk and is read page by page."""

    pool: Pool
    index: Any  # a faiss.IndexIVF
    seconds: float | None = None  # that embedding and indexing the pool took; None = not recorded

    def __len__(self) -> int:
        """The number of images that can be found."""
        return self.index.ntotal

    def search(self, queries: Float[np.ndarray, "query feature"], k: int) -> Neighbours:
        """The `k` nearest images; DatasetError if the pool has fewer, or features of another width."""
        if not 1 <= k <= len(self):
            remedy = f"choose k from 1 to {len(self)}, or a larger pool"
            raise DatasetError(f"the pool has {len(self)} images, and k is {k}: {remedy}.")
        if queries.shape[1] != self.index.d:
            made = f"the index has {self.index.d} channels, not {queries.shape[1]}"
            raise DatasetError(f"{made}: search it with features of the CLIP that it was built with.")
        found = [
            self._search(queries[start : start + QUERIES_AT_ONCE], k, PROBED_LISTS)
            for start in range(0, len(queries), QUERIES_AT_ONCE)
        ]
        cosines, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # The nearest lists may together hold fewer than k: those few queries look into all of them.
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            cosines[short], rows[short] = self._search(queries[short], k, self.index.nlist)
        return Neighbours(rows, cosines)

    def _search(self, queries: Features, k: int, lists: int) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = min(lists, self.index.nlist)
        return self.index.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)


def build_index(pool: Any, clip: FrozenClip) -> PoolIndex:
    """Embed a pool, or whatever `open_pool` takes, and index it; or find the index in the cache.

    Its key is the content of the CLIP and the files of the pool (names, sizes and times; of a set in memory
    the pixels), so that it is built again only when these change. A killed run continues where it was. An
    image that cannot be read is left out with a warning: among a million files from the web there always is
    one. DatasetError if none can be read.
    """
    pool = open_pool(pool)
    key = content_key(RECIPE, pool.fingerprint, clip.fingerprint)
    folder = default_cache_dir() / "retrieval" / key
    found = _open(folder, pool)
    if found is not None:
        return found
    started = time.perf_counter()
    starts = range(0, len(pool.ids), SHARD_SIZE)
    shards = [
        _cached_shard(folder / "features" / f"{start:09d}.npy", pool, start, clip)
        for start in progress(starts, total=len(starts), desc="embedding the pool")
    ]
    unreadable = [pool.ids[row] for row in np.flatnonzero(np.concatenate([_missing(s) for s in shards]))]
    if len(unreadable) == len(pool.ids):
        raise DatasetError(f"no image of the pool can be read, {unreadable[0]} for one: give another pool.")
    if unreadable:
        skipped = f"{len(unreadable)} of {len(pool.ids)} images of the pool"
        warnings.warn(f"{skipped} cannot be read, {unreadable[0]} for one; they are left out.", stacklevel=2)
    write_index(shards, folder / "index.faiss")
    seconds = round(time.perf_counter() - started, 3)  # of a run that was killed, the last part only
    facts = {"bytes": (folder / "index.faiss").stat().st_size, "unreadable": unreadable, "clip": clip.name}
    write_json(folder / "index.json", provenance(**facts, seconds=seconds))
    shutil.rmtree(folder / "features", ignore_errors=True)
    opened = _open(folder, pool)
    if opened is None:
        raise DatasetError(f"the index in {folder} cannot be read back: delete the folder and try again.")
    return opened


def write_index(shards: Sequence[Shard], path: Path) -> None:
    """Index the vectors of all shards, numbered through; rows of NaN count, but have no vector.

    At no time are more than the index, one shard and the sample that centres are learned from in memory, if
    the shards are memory maps.
    """
    import faiss

    count = sum(int((~_missing(shard)).sum()) for shard in shards)
    exact = count <= EXACT_UP_TO
    lists = 1 if exact else 2 ** round(math.log2(count / VECTORS_PER_LIST))
    kind = f"IVF{lists},{'Flat' if exact else 'SQ8'}"
    index = faiss.index_factory(shards[0].shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.train(_sample(shards, TRAINING_VECTORS_PER_LIST * lists))
    first = 0
    for shard in shards:
        rows = np.flatnonzero(~_missing(shard))
        index.add_with_ids(np.ascontiguousarray(shard[rows], np.float32), first + rows)
        first += len(shard)
    with write_atomically(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def embed(pool: Pool, indices: Sequence[int], clip: FrozenClip) -> Features:
    """CLIP's features of some images of a pool, each of length 1, in batches; NaN where one is unreadable."""
    starts = range(0, len(indices), BATCH_SIZE)
    return np.concatenate([_embed(pool, indices[start : start + BATCH_SIZE], clip) for start in starts])


def open_index(path: Path) -> Any:
    """What `write_index` wrote, left on disk: pages are read when a search comes to them."""
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)


def _open(folder: Path, pool: Pool) -> PoolIndex | None:
    path, record = folder / "index.faiss", folder / "index.json"
    if not path.is_file() or not record.is_file():
        return None
    facts = read_json(record)
    if path.stat().st_size != facts["bytes"]:  # mapping a file that was cut short would kill the process
        return None
    return PoolIndex(pool, open_index(path), facts.get("seconds"))


def _cached_shard(path: Path, pool: Pool, start: int, clip: FrozenClip) -> Features:
    indices = range(start, min(start + SHARD_SIZE, len(pool.ids)))
    found = read_cached_array(path, "r")
    if found is not None and len(found) == len(indices):
        return found
    features = embed(pool, indices, clip)
    write_array(path, features)
    # Mapped, so that memory holds one shard only. Gone again, if another process has finished the same index.
    found = read_cached_array(path, "r")
    return features if found is None else found


def _embed(pool: Pool, batch: Sequence[int], clip: FrozenClip) -> Features:
    try:
        return clip.image_features(pool.images(batch, clip.image_size)).numpy()
    except DatasetError:  # of one of them, seldom: only then they are read one by one
        if len(batch) == 1:
            return np.full((1, clip.model.config.projection_dim), np.nan, np.float32)
        return np.concatenate([_embed(pool, [index], clip) for index in batch])


def _missing(shard: Features) -> np.ndarray:
    return np.isnan(shard[:, 0])


def _sample(shards: Sequence[Shard], count: int) -> Features:
    """About `count` vectors, taken from all shards alike; the same ones every time."""
    share = min(1.0, count / sum(map(len, shards)))
    chosen = []
    for number, shard in enumerate(shards):
        rows = np.flatnonzero(~_missing(shard))
        few = math.ceil(share * len(rows))
        chosen.append(shard[np.sort(numpy_stream(0, "centres", number).permutation(rows)[:few])])
    return np.ascontiguousarray(np.concatenate(chosen), np.float32)
