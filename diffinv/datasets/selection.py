"""Which images of a dataset to take, decided from their ids and labels before any is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from diffinv.artefacts.keys import content_key
from diffinv.datasets.decoding import DatasetError, Fit
from diffinv.datasets.layout.plan import ClassLevel


@dataclass(frozen=True)
class Request:
    """What `load_dataset` is asked for: `None` is the dataset's own resolution, and all images."""

    split: str
    resolution: int | None = None
    images_per_class: int | None = None
    seed: int = 0
    fit: Fit = "crop"
    class_level: ClassLevel | None = None
    skip_damaged: bool = False


def choose_per_class(
    ids: Sequence[str],
    labels: Int[np.ndarray, " image"],
    class_names: Sequence[str],
    images_per_class: int,
    *,
    seed: int,
) -> Int[np.ndarray, " chosen"]:
    """Indices, in ascending order, of `images_per_class` random images of every class.

    Choices of one seed are nested: that of 5 images per class lies within that of 10. DatasetError if the
    number is below 1 or a class has fewer images.
    """
    if images_per_class < 1:
        raise DatasetError(f"a subset needs at least 1 image per class, not {images_per_class}.")
    for name, count in zip(class_names, np.bincount(labels, minlength=len(class_names)), strict=True):
        if count < images_per_class:
            short = f'class "{name}" has {count} images, not {images_per_class}'
            raise DatasetError(f"{short}: ask for at most {count}.")
    ranked = _ranked(ids, seed)
    by_class = [ranked[labels[ranked] == label] for label in range(len(class_names))]
    return np.sort(np.concatenate([members[:images_per_class] for members in by_class]))


def share_of_classes(
    ids: Sequence[str], labels: Int[np.ndarray, " image"], start: float, end: float
) -> Int[np.ndarray, " chosen"]:
    """Indices, in ascending order, of the share of every class from `start` to `end`, 0 to 1.

    Shares that do not overlap have no image in common, and those that cover 0 to 1 cover all images.
    """
    ranked = _ranked(ids, "split")
    by_class = [ranked[labels[ranked] == label] for label in np.unique(labels)]
    chosen = [members[round(start * len(members)) : round(end * len(members))] for members in by_class]
    return np.sort(np.concatenate([ranked[:0], *chosen]))


def _ranked(ids: Sequence[str], key: int | str) -> Int[np.ndarray, " image"]:
    # Ranked by a hash of the id, not shuffled: the choice does not depend on the order of the images.
    order = sorted(range(len(ids)), key=lambda index: content_key(key, ids[index]))
    return np.asarray(order, dtype=np.int64)
