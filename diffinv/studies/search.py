"""Choose every method's settings by what a classifier learns on validation images, with the same effort."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffinv.classifiers.training import Training
from diffinv.datasets import LabelledImages
from diffinv.studies.grid import Condition, run_study
from diffinv.synthesizers.base import Synthesizer

Settings = Mapping[str, Any]


def search(
    grid: Mapping[str, Sequence[Any]],
    build: Callable[[Settings], Synthesizer],
    *,
    train: LabelledImages,
    validation: LabelledImages,
    training: Training,
    seeds: Sequence[int],
    images_per_real: int,
    real_per_class: int | None = None,
    cache_dir: str | Path | None = None,
    dataset: str = "icons10",
) -> pd.DataFrame:
    """Try the values of one setting after the other; one row for each try, and all of them cached.

    `grid` has the values of each setting, the cheapest or the usual one first; a setting has its first value
    until its turn comes. `build` makes the synthesizer of one value for each. Of each setting, all values are
    tried with the first seed, and the better half of those that are left with each further one (halving). A
    try trains two classifiers, on the samples alone and on real images too, and its score is the mean of
    their accuracies on `validation`. Chosen is the first value, in the grid's order, that is as good as the
    best (`first_as_good`). The columns are setting, value, settings (all of them, as
    JSON), seed, "alone", "with real", score and chosen. ValueError where a setting has no value.
    """
    if empty := [setting for setting, values in grid.items() if not values]:
        raise ValueError(f"there is no value of {empty[0]} to try: give at least one.")
    current = {setting: values[0] for setting, values in grid.items()}
    tries = []
    for number, (setting, values) in enumerate(grid.items()):
        left, standing = list(values), values[0]
        scores: dict[Any, list[float]] = {value: [] for value in values}
        for seed in seeds:
            # All values in one study, whose cells an engine then shares.
            pairs = [
                _conditions(build({**current, setting: value}), training, images_per_real, real_per_class)
                for value in left
            ]
            rows = run_study(
                [condition for pair in pairs for condition in pair],
                train=train,
                test=validation,
                seeds=[seed],
                cache_dir=cache_dir,
                dataset=dataset,
                progress=False,
            )
            for place, value in enumerate(left):
                settings = {**current, setting: value}
                found = rows.iloc[2 * place : 2 * place + 2].set_index("condition")["accuracy"]
                scores[value].append(float(found.mean()))
                tried = {"setting": setting, "value": value, "settings": json.dumps(settings), "seed": seed}
                tries.append({**tried, **found.to_dict(), "score": scores[value][-1]})
            if seed != seeds[-1]:
                ranked = sorted(left, key=lambda value: -sum(scores[value]))  # of equals, the first
                left = ranked[: math.ceil(len(ranked) / 2)]
                if number and standing not in left:
                    left.append(standing)  # what stands was tried with every seed before, and costs nothing
        means = {value: sum(scores[value]) / len(seeds) for value in values if value in left}
        current[setting] = first_as_good(means, len(validation))
    rows = pd.DataFrame(tries)
    return rows.assign(chosen=[current[row.setting] == row.value for row in rows.itertuples()])


def first_as_good(scores: Mapping[Any, float], images: int) -> Any:
    """The first value whose score, from 0 to 1, is within one standard error of the best.

    That of a share of so many images (Breiman et al. 1984): what cannot be told apart is not worth its cost.
    """
    best = max(scores.values())
    error = math.sqrt(best * (1 - best) / images)
    return next(value for value, score in scores.items() if score >= best - error)


def count_candidates(grid: Mapping[str, Sequence[Any]]) -> int:
    """How many different settings of a method a search tries: equal for all that are to be compared."""
    return 1 + sum(len(values) - 1 for values in grid.values())


def chosen_settings(rows: pd.DataFrame) -> dict[str, Any]:
    """The value of each setting that a search has chosen."""
    return rows[rows["chosen"]].groupby("setting", sort=False)["value"].first().to_dict()


def _conditions(
    synthesizer: Synthesizer, training: Training, images_per_real: int, real_per_class: int | None
) -> list[Condition]:
    shared = (synthesizer, training, images_per_real, real_per_class)
    return [Condition("alone", *shared), Condition("with real", *shared, with_real=True)]
