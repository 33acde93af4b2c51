"""How close to real images the sets of several methods are, that of each seed for itself (table 2)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from diffinv.datasets import LabelledImages
from diffinv.evaluation.evidence import compare, measure
from diffinv.evaluation.tables import MEANINGS, frechet_or_nan, least_images

#: Which way is better, for a table.
BETTER = {
    metric: MEANINGS[metric][0]
    for metric in ("Fréchet distance", "precision", "recall", "density", "coverage")
}


def fidelity_rows(
    real: LabelledImages, sets: Mapping[str, Mapping[int, LabelledImages]], *, clip: Any, k: int = 5
) -> pd.DataFrame:
    """One row for each condition, seed and metric of `BETTER`: how the set of that seed lies about `real`.

    `sets[condition][seed]` are images. The Fréchet distance is NaN where a side has too few images for it,
    which `fidelity_notes` says. ValueError unless all sets have the same number of images, with which nearly
    all of the metrics change.
    """
    sizes = {name: sorted({len(images) for images in of_seed.values()}) for name, of_seed in sets.items()}
    if len({size for found in sizes.values() for size in found}) != 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"each set needs the same number of images, not {found}.")
    reference = measure(real, clip, k, "real")
    rows = []
    for condition, of_seed in sets.items():
        for seed, images in of_seed.items():
            other = measure(images, clip, k, condition)
            values = {"Fréchet distance": frechet_or_nan(reference.features, other.features)}
            values |= compare(reference, other, k).values()
            names = {"condition": condition, "seed": seed}
            rows += [{**names, "metric": metric, "value": values[metric]} for metric in BETTER]
    return pd.DataFrame(rows)


def fidelity_notes(num_real: int, num_images: int, width: int) -> list[str]:
    """What a reader of the rows has to know, a sentence each; `width` is the length of a feature."""
    least = least_images(width)
    notes = [f"Sets of {num_images} against {num_real} real images: compare them with no others."]
    if min(num_images, num_real) < least:
        notes.append(
            f"There is no Fréchet distance: features of {width} numbers need {least} images on each side."
        )
    return notes
