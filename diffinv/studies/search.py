"""Choose every method's settings on the validation split, with the same effort for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from diffinv.classifiers.training import Training
from diffinv.datasets import LabelledImages
from diffinv.studies.grid import Condition, run_study
from diffinv.synthesizers.base import Synthesizer


def search(
    methods: Mapping[str, Mapping[str, Synthesizer]],
    *,
    train: LabelledImages,
    validation: LabelledImages,
    training: Training,
    seeds: Sequence[int],
    images_per_real: int = 1,
    cache_dir: str | Path | None = None,
    dataset: str = "icons10",
) -> pd.DataFrame:
    """One row for each method, candidate and seed: accuracy on `validation` after training on samples alone.

    `methods` maps a method's name to its candidates, and a candidate's name to its synthesizer. ValueError
    unless all methods have the same number of candidates: more tries would be an advantage.
    """
    sizes = {name: len(candidates) for name, candidates in methods.items()}
    if not sizes:
        raise ValueError("there is no method to choose settings for: name at least one.")
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"each method needs the same number of candidates, at least one, not {counts}.")
    conditions = []
    for method, candidates in methods.items():
        for candidate, synthesizer in candidates.items():
            name, axes = f"{method}: {candidate}", {"method": method, "candidate": candidate}
            conditions.append(Condition(name, synthesizer, training, images_per_real, axes=axes))
    return run_study(
        conditions, train=train, test=validation, seeds=seeds, cache_dir=cache_dir, dataset=dataset
    )


def choose(rows: pd.DataFrame) -> dict[str, str]:
    """The candidate of each method with the highest mean accuracy over the seeds; of equals, the first."""
    means = rows.groupby(["method", "candidate"], sort=False)["accuracy"].mean()
    return {method: means[method].idxmax() for method in rows["method"].unique()}
