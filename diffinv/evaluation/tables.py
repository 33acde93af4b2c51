"""The tables and the notes of an evaluation card, out of what was measured."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from diffinv.evaluation.evidence import REAL, SYNTHETIC, Evidence, Measured
from diffinv.metrics.copies import Closeness
from diffinv.metrics.distances import diversity, diversity_between, frechet_distance

#: Each row of the card: which way is better, and what it says; {} is the quantile of copies and leaks.
MEANINGS = {
    "accuracy": ("higher", "test accuracy of classifiers trained on the set alone (CAS)"),
    "Fréchet distance": ("lower", "between the features of the set and of the training images (FID)"),
    "precision": ("higher", "share of the set that lies among training images"),
    "recall": ("higher", "share of the training images that lie among those of the set"),
    "density": ("near 1", "how densely training images lie about one of the set"),
    "coverage": ("higher", "share of the training images with one of the set near by"),
    "diversity within originals": ("higher", "mean distance of two samples of one original"),
    "diversity between originals": ("as real", "mean distance of samples of two originals of one class"),
    "copies": ("as real", "share as near to a training image as the nearest {} of those to each other"),
    "leaks": ("as real", "share as near to a test image as the nearest {} of those to each other"),
}


def least_images(width: int) -> int:
    """Images that a Fréchet distance of features of that many numbers needs on each side.

    With fewer the fitted Gaussians are flat in some direction, and their distance says more about the number
    of images than about the images.
    """
    return width + 1


def metric_rows(found: Evidence, scores: pd.DataFrame | None) -> pd.DataFrame:
    """One row a metric: its value for the synthetic set, what real images score, and what it says."""
    fakes, real, test = found.synthetic, found.real, found.test
    own = {
        "accuracy": _mean_accuracy(scores, SYNTHETIC),
        "Fréchet distance": frechet_or_nan(real, fakes),
        **found.on_manifolds.values(),
        "diversity within originals": _within(fakes),
        "diversity between originals": _between(fakes),
        "copies": found.copies.share,
        "leaks": math.nan if found.leaks is None else found.leaks.share,
    }
    expected = {"accuracy": _mean_accuracy(scores, REAL), "diversity between originals": _between(real)}
    if test is not None and found.test_copies and found.real_leaks and found.test_on_manifolds:
        expected |= found.test_on_manifolds.values()
        expected |= {"Fréchet distance": frechet_or_nan(real, test)}
        expected |= {"copies": found.test_copies.share, "leaks": found.real_leaks.share}
    rows = []
    for metric, (better, meaning) in MEANINGS.items():
        values = {SYNTHETIC: own[metric], REAL: expected.get(metric, math.nan)}
        words = {"better": better, "meaning": meaning.format(f"{100 * found.copies.quantile:g}\u00a0%")}
        rows.append({"metric": metric, **values, **words})
    return pd.DataFrame(rows)


def class_rows(found: Evidence, scores: pd.DataFrame | None) -> pd.DataFrame:
    """One row a class: numbers of images, and the metrics of the class's own among all images."""
    rows = []
    for label, name in enumerate(found.real.images.class_names):
        of_real = np.flatnonzero(found.real.images.labels == label)
        of_synthetic = np.flatnonzero(found.synthetic.images.labels == label)
        rows.append(
            {
                "class": name,
                "real images": len(of_real),
                "synthetic images": len(of_synthetic),
                "accuracy": math.nan if scores is None else _accuracies(scores, SYNTHETIC)[name],
                **found.on_manifolds.values(of_synthetic, of_real),
                "diversity within originals": _within(found.synthetic, of_synthetic),
                "diversity between originals": _between_of_class(found.synthetic, of_synthetic),
                "copies": _share(found.copies, of_synthetic),
                "leaks": _share(found.leaks, of_synthetic),
            }
        )
    return pd.DataFrame(rows)


def notes(found: Evidence, scores: pd.DataFrame | None) -> Iterator[str]:
    """What a reader of the numbers has to know, a sentence each: what is missing, and why."""
    real, fakes = found.real.images, found.synthetic.images
    test = None if found.test is None else found.test.images
    width = found.real.features.shape[1]
    if min(len(real), len(fakes)) < least_images(width):
        yield (
            f"There is no Fréchet distance: features of {width} numbers need at least {least_images(width)} "
            f"images on each side, and there are {len(real)} real and {len(fakes)} synthetic ones."
        )
    elif test is not None and len(test) < least_images(width):
        yield (
            f"There is no Fréchet distance of the test images: features of {width} numbers need at least "
            f"{least_images(width)} of them, and there are {len(test)}."
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
    if math.isnan(_within(found.synthetic)):
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


def frechet_or_nan(real: Measured, other: Measured) -> float:
    """The Fréchet distance; NaN where a side has too few images for it."""
    least = least_images(real.features.shape[1])
    if min(len(real.features), len(other.features)) < least:
        return math.nan
    return frechet_distance(real.features, other.features)


def _originals(side: Measured) -> np.ndarray:
    # A set that names no sources has none in common: each image is its own.
    return np.array(side.images.sources or side.images.ids, dtype=object)


def _within(side: Measured, rows: Any = slice(None)) -> float:
    originals = _originals(side)[rows]
    if side.images.sources is None or len(set(originals)) == len(originals):
        return math.nan
    return diversity(side.features[rows], originals)


def _between(side: Measured) -> float:
    """Mean over the classes: a class with many images is no more varied for that."""
    labels = side.images.labels
    of_class = [_between_of_class(side, np.flatnonzero(labels == n)) for n in range(side.images.num_classes)]
    known = [value for value in of_class if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _between_of_class(side: Measured, rows: np.ndarray) -> float:
    originals = _originals(side)[rows]
    return diversity_between(side.features[rows], originals) if len(set(originals)) > 1 else math.nan


def _share(found: Closeness | None, rows: np.ndarray) -> float:
    return math.nan if found is None else float(found.is_close[rows].double().mean())


def _mean_accuracy(scores: pd.DataFrame | None, condition: str) -> float:
    if scores is None:
        return math.nan
    return float(scores.loc[scores["condition"] == condition, "accuracy"].mean())


def _accuracies(scores: pd.DataFrame, condition: str) -> pd.Series:
    return pd.DataFrame(scores.loc[scores["condition"] == condition, "by_class"].tolist()).mean()
