"""What synthetic images cost to make, cached or not: seconds and updates, from their own records."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from diffinv.datasets import LabelledImages
from diffinv.synthesizers.base import Stage

COLUMNS = (
    "method", "spent once on", "seconds once", "image updates", "samples", "seconds per sample",
    "seconds in all",
)  # fmt: skip


def compute_table(made: Mapping[str, LabelledImages | Sequence[LabelledImages]]) -> pd.DataFrame:
    """One row per method: what was spent once, the time of a sample, and both together.

    Each value is the images of a method, or those of several seeds, whose costs are averaged. Real images
    cost nothing. Times are those of the runs that did the work, not of this one, which may have found all of
    it in the cache; what the generator or CLIP cost before anybody used them is not counted. A time that is
    not known is NaN. ValueError for images that do not say what they cost.
    """
    rows = []
    for method, sets in made.items():
        sets = [sets] if isinstance(sets, LabelledImages) else list(sets)
        if not sets:
            raise ValueError(f'there are no images of "{method}": give the set of at least one seed.')
        own = pd.DataFrame([_row(method, images) for images in sets], columns=COLUMNS)
        rows.append({**own.iloc[0].to_dict(), **own[list(COLUMNS[2:])].mean(skipna=False).to_dict()})
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"image updates": int, "samples": int})


def _row(method: str, images: LabelledImages) -> tuple[Any, ...]:
    if "synthesizer" not in images.provenance:
        return (method, "", 0.0, 0, 0, 0.0, 0.0)
    cost = images.provenance.get("cost")
    if cost is None:
        raise ValueError(f'the images of "{method}" do not say what they cost: make them again.')
    stages = [Stage(**stage) for stage in cost["stages"]]
    once = sum(_known(stage.seconds) for stage in stages)
    each = cost["seconds_per_sample"]
    names, updates = " + ".join(stage.name for stage in stages), sum(stage.image_updates for stage in stages)
    return (method, names, once, updates, len(images), each, once + len(images) * each)


def _known(seconds: float | None) -> float:
    return float("nan") if seconds is None else float(seconds)
