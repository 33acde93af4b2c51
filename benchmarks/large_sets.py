"""Stores and synthetic sets that are larger than memory, made of random numbers and gone through once."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffinv.artefacts import rows
from diffinv.artefacts.rows import RowsOnDisk, chunks
from diffinv.datasets import LabelledImages
from diffinv.method.perturbation import Perturbation, conditioning_for
from diffinv.method.store import IMAGES_PER_SHARD, EmbeddingStore

NUM_CLASSES, SIDE = 10, 8
SAMPLES_AT_ONCE = 256


def build(count: int, folder: Path, *, tokens: int, width: int) -> Path:
    """Save a store of so many images, whose vectors are drawn as they are written, and return its folder."""
    sizes = [
        len(range(start, min(start + IMAGES_PER_SHARD, count))) for start in range(0, count, IMAGES_PER_SHARD)
    ]
    drawn = partial(_drawn, sizes, (tokens, width))
    vectors = RowsOnDisk(drawn, range(len(sizes)), sizes, (tokens, width), np.float32, wrap=torch.from_numpy)
    store = EmbeddingStore(
        embeddings=vectors,
        labels=torch.arange(count) % NUM_CLASSES,
        class_names=tuple(map(str, range(NUM_CLASSES))),
        ids=tuple(f"{number:07d}" for number in range(count)),
        losses=torch.zeros(count),
        provenance={"resolution": SIDE},
    )
    return store.save(folder)


def _drawn(sizes: list[int], shape: tuple[int, int], number: int, wanted: list[int] | None) -> np.ndarray:
    drawn = np.random.default_rng(number).standard_normal((sizes[number], *shape), np.float32)
    return drawn if wanted is None else drawn[wanted]


def go_through(folder: Path, images: Path) -> None:
    """Open a store, iterate over it, perturb vectors for a sample of each; save and open as many images.

    The network that would draw them is left out: its time is not what this is about. All stays on disk.
    """
    rows.IN_MEMORY = 0
    store = EmbeddingStore.load(folder)
    assert store.mean().isfinite().all() and len(store.fingerprint) == 20
    perturbation = Perturbation(noise_std=0, interpolation_weight=0.1)
    for places in chunks(np.arange(len(store)), SAMPLES_AT_ONCE):
        vectors = conditioning_for(store, places.tolist(), [0] * len(places), perturbation, 0)
        assert len(vectors) == len(places)
    made = LabelledImages(
        images=RowsOnDisk(_pictures, [len(store)], [len(store)], (SIDE, SIDE, 3), np.uint8),  # type: ignore[arg-type]
        labels=store.labels.numpy(),
        class_names=store.class_names,
        ids=store.ids,
    )
    assert LabelledImages.load(made.save(images)).fingerprint == made.fingerprint


def _pictures(count: int, wanted: list[int] | None) -> np.ndarray:
    numbers = np.arange(count) if wanted is None else np.asarray(wanted)
    return np.broadcast_to(
        (numbers % 256).astype(np.uint8)[:, None, None, None], (len(numbers), SIDE, SIDE, 3)
    )


def sizes_up_to(most: int) -> Iterator[int]:
    """1000 and its tenfolds."""
    count = 1000
    while count <= most:
        yield count
        count *= 10
