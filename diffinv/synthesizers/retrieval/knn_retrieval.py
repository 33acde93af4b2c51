"""KNN retrieval: for each real image the most similar images of a large pool, under its label (table 3)."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffinv.artefacts.keys import content_key
from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.foundation.randomness import numpy_stream
from diffinv.models.clip import FrozenClip
from diffinv.synthesizers.base import Stage, check_request, labelled, sample_record
from diffinv.synthesizers.retrieval.index import Neighbours, build_index, embed
from diffinv.synthesizers.retrieval.pools import EMBEDDED_POOL, MemoryPool, Pool, open_pool

RECIPE = 1  # part of every cache key: to be raised when the same settings would give other images


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
        check_fields(self, counts=("k",))

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Retrieve; ValueError if images_per_real is above k, DatasetError if the pool is smaller than k."""
        check_request(real, images_per_real)
        if images_per_real > self.k:
            raise ValueError(
                f"images_per_real is {images_per_real}, but only the k={self.k} nearest images of the pool "
                f"are drawn from; choose k of at least {images_per_real}."
            )
        index = build_index(self.pool, self.clip)
        started = time.perf_counter()
        neighbours = self.neighbours(real)
        orders = [numpy_stream(seed, "retrieved", name).permutation(self.k) for name in real.ids]
        # Each copy goes on in a real image's row of candidates where the one before it stopped.
        candidates = [iter(rows[order].tolist()) for rows, order in zip(neighbours.rows, orders, strict=True)]
        picture = cache(lambda row: index.pool.images([row], real.resolution)[0])  # each is read once
        pixels = cache(lambda row: content_key(picture(row)))
        drawn: dict[tuple[int, int], int] = {}  # copy and source -> row
        taken: set[str] = set()
        for copy in range(images_per_real):
            # Where pictures run out, no real image, and so no class, is always the first to choose.
            for source in numpy_stream(seed, "turn", copy).permutation(len(real)).tolist():
                for row in candidates[source]:
                    if self.duplicates == "keep" or pixels(row) not in taken:
                        taken.add(pixels(row))
                        drawn[copy, source] = row
                        break
        copies, sources = zip(*sorted(drawn), strict=True)  # by copy first, as those of every synthesizer
        rows = [drawn[place] for place in sorted(drawn)]
        seconds = time.perf_counter() - started
        record = sample_record(
            real,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            started=started,
            seconds_per_sample=seconds / len(rows),
            stages=[Stage("index", index.seconds)],
            pool_images=len(index.pool.ids),
            mean_cosine=round(float(neighbours.cosines.mean()), 4),
            distinct_images=len(set(rows)),
            distinct_pixels=len(taken),
            **_counts(real, images_per_real, sources, [pixels(row) for row in rows]),
        )
        return labelled(real, np.stack([picture(row) for row in rows]), sources, copies, record)

    def neighbours(self, real: LabelledImages) -> Neighbours:
        """The k nearest images of the pool for each real one, at rows of its `ids`."""
        queries = embed(MemoryPool(real), range(len(real)), self.clip)
        return build_index(self.pool, self.clip).search(queries, self.k)

    def describe(self) -> dict[str, Any]:
        return {
            "synthesizer": "KNNRetrieval",
            "recipe": RECIPE,
            "clip": self.clip.fingerprint,
            "pool": open_pool(self.pool).fingerprint,
            "k": self.k,
            "duplicates": self.duplicates,
        }


def _counts(
    real: LabelledImages, images_per_real: int, sources: Sequence[int], pixels: Sequence[str]
) -> dict[str, Any]:
    """What is to be said of the pictures, known by their pixels, that were drawn for these sources."""
    labels = real.labels[list(sources)]
    wanted, found = (np.bincount(each, minlength=real.num_classes) for each in (real.labels, labels))
    missing = (images_per_real * wanted - found).tolist()
    classes = Counter(key for key, _ in set(zip(pixels, labels.tolist(), strict=True)))
    own = {content_key(image) for image in real.images}
    return {
        "in_several_classes": sum(count > 1 for count in classes.values()),
        "equal_to_a_real_image": sum(key in own for key in pixels),
        "missing": dict(zip(real.class_names, missing, strict=True)),
    }
