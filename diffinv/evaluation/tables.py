"""The tables and the notes of an evaluation card, out of what was measured."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from diffinv.datasets import LabelledImages
from diffinv.evaluation.evidence import REAL, SYNTHETIC, TEST, Evidence
from diffinv.evaluation.gain import MEASURES
from diffinv.metrics.copies import Closeness
from diffinv.metrics.distances import (
    diversity,
    diversity_between,
    frechet_distance,
    gaussian_distance,
    kernel_distance,
)
from diffinv.metrics.neighbours import Features

#: Each row of the card: which way is better, and what it says; {} is the quantile of copies and leaks.
MEANINGS = {
    "accuracy": ("higher", "test accuracy of classifiers trained on the set alone (CAS)"),
    "balanced accuracy": ("higher", "the mean of the accuracies of the classes, large or small"),
    "Fréchet distance": ("lower", "between the features of the set and of the training images (FID)"),
    "KID": ("lower", "as the Fréchet distance, for few images too; about 0 for images of one kind"),
    "CMMD": ("lower", "as KID, by a kernel that no difference escapes; it is meant for features of CLIP"),
    "precision": ("higher", "share of the set that lies among training images"),
    "recall": ("higher", "share of the training images that lie among those of the set"),
    "density": ("near 1", "how densely training images lie about one of the set"),
    "coverage": ("higher", "share of the training images with one of the set near by"),
    "diversity within originals": ("higher", "mean distance of two samples of one original"),
    "diversity between originals": ("as real", "mean distance of samples of two originals of one class"),
    "authenticity": ("as real", "share further from a training image than that is from any other (AuthPct)"),
    "copies": ("as real", "share as near to a training image as the nearest {} of those to each other"),
    "leaks": ("as real", "share as near to a test image as the nearest {} of those to each other"),
}
SCATTER = "KID and CMMD are right on average, but scatter the more the fewer the images."


def least_images(width: int) -> int:
    """Images that a Fréchet distance of features of that many numbers needs on each side.

    With fewer the fitted Gaussians are flat in some direction, and their distance says more about the number
    of images than about the images.
    """
    return width + 1


def metric_rows(found: Evidence, scores: pd.DataFrame | None) -> pd.DataFrame:
    """One row a metric: its value for the synthetic set, what real images score, and what it says."""
    features = found.features
    own = {
        **_accuracies(scores, SYNTHETIC),
        **_distances(features[REAL], features[SYNTHETIC]),
        **found.on_manifolds.values(),
        "diversity within originals": _within(found.synthetic, features[SYNTHETIC]),
        "diversity between originals": _between(found.synthetic, features[SYNTHETIC]).mean(),
        "authenticity": _mean(found.authentic),
        "copies": _share(found.copies),
        "leaks": _share(found.leaks),
    }
    expected = {
        **_accuracies(scores, REAL),
        "diversity between originals": _between(found.real, features[REAL]).mean(),
        "authenticity": _mean(found.test_authentic),
        "copies": _share(found.test_copies),
        "leaks": _share(found.real_leaks),
    }
    if found.test_on_manifolds is not None:
        expected |= found.test_on_manifolds.values()
        expected |= _distances(features[REAL], features[TEST])
    table = pd.DataFrame({SYNTHETIC: own, REAL: expected}, index=pd.Index(MEANINGS, name="metric"))
    nearest = f"{100 * found.copies.quantile:g}\u00a0%"
    table["better"] = [better for better, _ in MEANINGS.values()]
    table["meaning"] = [meaning.format(nearest) for _, meaning in MEANINGS.values()]
    return table.reset_index()


def class_rows(found: Evidence, scores: pd.DataFrame | None) -> pd.DataFrame:
    """One row per class: numbers of images, and the metrics of the class's own among all images."""
    features, names = found.features[SYNTHETIC], found.real.class_names
    accuracies = pd.DataFrame(_scores(scores, SYNTHETIC, "by_class"), columns=names, dtype=float).mean()
    between = _between(found.synthetic, features)
    rows = []
    for label, name in enumerate(names):
        of_real = np.flatnonzero(found.real.labels == label)
        of_synthetic = np.flatnonzero(found.synthetic.labels == label)
        rows.append(
            {
                "class": name,
                "real images": len(of_real),
                "synthetic images": len(of_synthetic),
                "accuracy": accuracies[name],
                **found.on_manifolds.values(of_synthetic, of_real),
                "diversity within originals": _within(found.synthetic, features, of_synthetic),
                "diversity between originals": between[label],
                "authenticity": _mean(found.authentic, of_synthetic),
                "copies": _share(found.copies, of_synthetic),
                "leaks": _share(found.leaks, of_synthetic),
            }
        )
    return pd.DataFrame(rows)


def notes(found: Evidence, scores: pd.DataFrame | None) -> Iterator[str]:
    """What a reader of the numbers has to know, a sentence each: what is missing, and why."""
    real, fakes, test = found.real, found.synthetic, found.test
    width = found.features[REAL].shape[1]
    if min(len(real), len(fakes)) < least_images(width):
        yield (
            f"There is no Fréchet distance: features of {width} numbers need at least {least_images(width)} "
            f"images on each side, and there are {len(real)} real and {len(fakes)} synthetic ones. {SCATTER}"
        )
    elif test is not None and len(test) < least_images(width):
        yield (
            f"There is no Fréchet distance of the test images: features of {width} numbers need at least "
            f"{least_images(width)} of them, and there are {len(test)}. {SCATTER}"
        )
    if test is None:
        yield "There were no test images: leaks were not looked for, and nothing says what real images score."
    elif len(test) != len(fakes):
        yield (
            f"Recall, coverage and the Fréchet distance change with the number of images: {len(fakes)} "
            f"synthetic ones stand beside {len(test)} test images."
        )
    if scores is None:
        yield "No classifier was trained: there is no accuracy."
    elif test is None:
        yield "The classifiers were judged on the training images: on others they would be less accurate."
    if missing := [name for name, count in fakes.class_counts().items() if count == 0]:
        yield f"There is no synthetic image of {', '.join(missing)}."
    if math.isnan(_within(fakes, found.features[SYNTHETIC])):
        yield "No original has two samples that name it: there is no diversity within originals."
    yield from _notes_on_closeness("training", found.copies)
    if found.leaks is not None:
        yield from _notes_on_closeness("test", found.leaks)


def _notes_on_closeness(role: str, found: Closeness) -> Iterator[str]:
    count = len(found.own_ratios)
    if found.num_duplicates:
        yield (
            f"{found.num_duplicates} of {count + found.num_duplicates} {role} images have a copy among "
            "themselves, which the distances between them leave out."
        )
    if count * found.quantile < 1:
        yield (
            f"The nearest {100 * found.quantile:g} % of {count} {role} images is less than one: the nearest "
            f"pair is taken, and at least {math.ceil(1 / found.quantile)} images would be better."
        )


def frechet_or_nan(a: Features, b: Features) -> float:
    """The Fréchet distance; NaN where a side has too few images for it."""
    return frechet_distance(a, b) if min(len(a), len(b)) >= least_images(a.shape[1]) else math.nan


def _originals(images: LabelledImages) -> np.ndarray:
    # A set that names no sources has none in common: each image is its own.
    return np.array(images.sources or images.ids, dtype=object)


def _within(images: LabelledImages, features: Features, rows: Any = slice(None)) -> float:
    originals = _originals(images)[rows]
    shared = len(set(originals)) < len(originals)
    return diversity(features[rows], originals) if shared else math.nan


def _between(images: LabelledImages, features: Features) -> pd.Series:
    """Of each class; their mean is that of the set, since a class with many images is no more varied."""
    values = pd.Series(math.nan, index=range(images.num_classes))
    for label in values.index:
        rows = np.flatnonzero(images.labels == label)
        originals = _originals(images)[rows].tolist()
        if len(set(originals)) > 1:
            values[label] = diversity_between(features[rows], originals)
    return values


def _share(found: Closeness | None, rows: Any = slice(None)) -> float:
    return math.nan if found is None else _mean(found.is_close, rows)


def _mean(found: Tensor | None, rows: Any = slice(None)) -> float:
    return math.nan if found is None else float(found[rows].double().mean())


def _distances(a: Features, b: Features) -> dict[str, float]:
    return {
        "Fréchet distance": frechet_or_nan(a, b),
        "KID": 1000 * kernel_distance(a, b),  # as it is usually given
        "CMMD": gaussian_distance(a, b),
    }


def _accuracies(scores: pd.DataFrame | None, condition: str) -> dict[str, float]:
    found = {value: pd.Series(_scores(scores, condition, value), dtype=float).mean() for value in MEASURES}
    return {value.replace("_", " "): mean for value, mean in found.items()}


def _scores(scores: pd.DataFrame | None, condition: str, column: str) -> list[Any]:
    return [] if scores is None else scores.loc[scores["condition"] == condition, column].tolist()
