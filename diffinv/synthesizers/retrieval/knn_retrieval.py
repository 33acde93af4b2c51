"""KNN retrieval: for each real image the most similar images of a large pool, under its label (table 3)."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from diffinv.artefacts.keys import content_key
from diffinv.datasets import DatasetError, LabelledImages
from diffinv.foundation.randomness import numpy_stream
from diffinv.models.clip import FrozenClip
from diffinv.synthesizers.base import Stage, check_request, labelled, sample_record
from diffinv.synthesizers.retrieval.index import build_index, embed
from diffinv.synthesizers.retrieval.pools import EMBEDDED_POOL, MemoryPool, Pool, open_pool

RECIPE = (
    1  # part of the description, hence of every cache key: raised when the same settings give other images
)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest images of the pool for each real image, nearest first."""

    rows: Int[np.ndarray, "image k"]  # in the pool
    cosines: Float[np.ndarray, "image k"]


@dataclass(frozen=True)
class KNNRetrieval:
    """Draws images at random among the k of the pool that CLIP finds nearest to each real image.

    The paper searched LAION-5B through a public service that is gone; here a local index over any pool is
    searched: "icons_pool", a folder, a set of images. No image is drawn twice for the same real image, but it
    may be for several, and pools hold copies. "keep" counts such duplicates in the provenance and always
    gives `images_per_real` images for each real one, as other methods do. "remove" uses no picture twice: it
    goes on to the next of the k, and counts in the provenance what is missing where all k are taken.
    A sample depends on the pool, the CLIP, k, the seed and its real image alone; under "remove" also on the
    other real images.
    """

    clip: FrozenClip
    pool: Pool | LabelledImages | str | Path = EMBEDDED_POOL
    k: int = 10  # the paper has 10, 25 and 50
    duplicates: Literal["keep", "remove"] = "keep"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; choose at least 1.")
        if self.duplicates not in ("keep", "remove"):
            raise ValueError(f'duplicates is {self.duplicates!r}; choose "keep" or "remove".')

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Retrieve; ValueError if images_per_real is above k, DatasetError if the pool is smaller than k."""
        check_request(real, images_per_real)
        if images_per_real > self.k:
            raise ValueError(
                f"images_per_real is {images_per_real}, but only the k={self.k} nearest images of the pool "
                f"are drawn from; choose k of at least {images_per_real}."
            )
        pool, index = open_pool(self.pool), build_index(self.pool, self.clip)
        started = time.perf_counter()
        neighbours = self.neighbours(real)
        drawing = _Drawing(pool, real, distinct=self.duplicates == "remove")
        for copy in range(images_per_real):
            # Where pictures run out, no real image, and so no class, is always the first to choose.
            for source in numpy_stream(seed, "turn", copy).permutation(len(real)).tolist():
                order = numpy_stream(seed, "retrieved", real.ids[source]).permutation(self.k)
                drawing.draw(source, copy, neighbours.rows[source, order].tolist())
        seconds = time.perf_counter() - started
        record = sample_record(
            real,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            started=started,
            seconds_per_sample=seconds / max(1, len(drawing.drawn)),
            stages=[Stage("index", index.seconds)],
            pool_images=len(pool.ids),
            mean_cosine=round(float(neighbours.cosines.mean()), 4),
            **drawing.counts(images_per_real),
        )
        drawn = sorted(drawing.drawn)  # by copy first, as those of every synthesizer
        images = drawing.images([drawing.drawn[key] for key in drawn])
        return labelled(real, images, [source for _, source in drawn], [copy for copy, _ in drawn], record)

    def neighbours(self, real: LabelledImages) -> Neighbours:
        """The k nearest images of the pool for each real one, at rows of its `ids`."""
        index = build_index(self.pool, self.clip)
        if len(index) < self.k:
            raise DatasetError(
                f"the pool has {len(index)} images, fewer than k={self.k}; "
                "choose a smaller k or a larger pool."
            )
        queries = embed(MemoryPool(real), range(len(real)), self.clip)
        return Neighbours(*index.search(queries, self.k))

    def describe(self) -> dict[str, Any]:
        return {
            "synthesizer": "KNNRetrieval",
            "recipe": RECIPE,
            "clip": self.clip.fingerprint,
            "pool": open_pool(self.pool).fingerprint,
            "k": self.k,
            "duplicates": self.duplicates,
        }


class _Drawing:
    """The pictures drawn so far: each is read once, and known by its pixels."""

    def __init__(self, pool: Pool, real: LabelledImages, *, distinct: bool) -> None:
        self.pool, self.real, self.distinct = pool, real, distinct
        self.drawn: dict[tuple[int, int], int] = {}  # copy and source -> row
        self._next = [0] * len(real)
        self._images: dict[int, UInt8[np.ndarray, "side side 3"]] = {}
        self._pixels: dict[int, str] = {}
        self._taken: set[str] = set()

    def draw(self, source: int, copy: int, candidates: list[int]) -> None:
        """Take the source's next candidate; if pictures must be distinct, the next whose own is free."""
        while self._next[source] < len(candidates):
            row = candidates[self._next[source]]
            self._next[source] += 1
            pixels = self._pixels_of(row)
            if not (self.distinct and pixels in self._taken):
                self._taken.add(pixels)
                self.drawn[copy, source] = row
                return

    def images(self, rows: list[int]) -> UInt8[np.ndarray, "image side side 3"]:
        """Pictures that were drawn."""
        empty = np.empty((0, *self.real.images.shape[1:]), np.uint8)
        return np.stack([self._images[row] for row in rows]) if rows else empty

    def counts(self, images_per_real: int) -> dict[str, Any]:
        """What is to be said of all that was drawn."""
        labels = self.real.labels[[source for _, source in self.drawn]]
        pixels = [self._pixels[row] for row in self.drawn.values()]
        wanted, found = (
            np.bincount(each, minlength=self.real.num_classes) for each in (self.real.labels, labels)
        )
        missing = (images_per_real * wanted - found).tolist()
        classes = Counter(key for key, _ in set(zip(pixels, labels.tolist(), strict=True)))
        own = {content_key(image) for image in self.real.images}
        return {
            "distinct_images": len(set(self.drawn.values())),
            "distinct_pixels": len(self._taken),
            "in_several_classes": sum(count > 1 for count in classes.values()),
            "equal_to_a_real_image": sum(key in own for key in pixels),
            "missing": dict(zip(self.real.class_names, missing, strict=True)),
        }

    def _pixels_of(self, row: int) -> str:
        if row not in self._pixels:
            (self._images[row],) = self.pool.images([row], self.real.resolution)
            self._pixels[row] = content_key(self._images[row])
        return self._pixels[row]
