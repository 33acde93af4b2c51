"""Cross-validation, where there are too few real images for a test split, and what its rows decide."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from diffinv.artefacts.engine import Engine, on_engine
from diffinv.artefacts.keys import content_key
from diffinv.artefacts.parts import end_of_part, only_part, own
from diffinv.datasets import LabelledImages
from diffinv.foundation.progress import progress as progress_bar
from diffinv.studies.grid import Condition, run_study
from diffinv.studies.statistics import paired_difference, points_of, seeds_needed

MOST_FOLDS = 1000  # in all repetitions; more than these are not asked of anybody


def folds_of(
    real: LabelledImages, num_folds: int, *, seed: int, groups: Int[np.ndarray, " image"] | None = None
) -> Int[np.ndarray, " image"]:
    """The fold, from 0, of every image; each class is shared out as evenly as it can be.

    Images of one group and class, such as near-duplicates, are in one fold: no copy of a training image is
    tested on. The folds depend on ids and seed, not on the order of the images.
    """
    groups = np.arange(len(real)) if groups is None else groups
    folds = np.zeros(len(real), np.int64)
    for label in np.unique(real.labels):
        members = np.flatnonzero(real.labels == label)
        together = [members[groups[members] == group] for group in np.unique(groups[members])]
        keys = [content_key("fold", seed, sorted(real.ids[row] for row in rows)) for rows in together]
        # Large groups first: the small ones then even out what these leave.
        order = sorted(range(len(keys)), key=lambda at: (-len(together[at]), keys[at]))
        sizes = np.zeros(num_folds, np.int64)
        for rows in (together[at] for at in order):
            # Classes begin at different folds, so that what is left over of each does not pile up in one.
            fold = (int(np.roll(sizes, -int(label)).argmin()) + int(label)) % num_folds
            folds[rows], sizes[fold] = fold, sizes[fold] + len(rows)
    return folds


def cross_validate(
    conditions: Sequence[Condition],
    real: LabelledImages,
    *,
    num_folds: int,
    repetitions: int = 1,
    seed: int = 0,
    groups: Int[np.ndarray, " image"] | None = None,
    dataset: str = "icons10",
    by_class: bool = False,
    progress: bool = True,
    engine: Engine | str | None = None,
) -> pd.DataFrame:
    """The rows of `run_study` for each fold of each repetition, tested on it and trained on all others.

    Synthetic images are made from the training part alone. Each repetition has its own folds, and each fold
    its own seed, by which the rows of two conditions are paired.
    """
    drawn = [folds_of(real, num_folds, seed=seed + number, groups=groups) for number in range(repetitions)]
    how: dict[str, Any] = {"dataset": dataset, "by_class": by_class, "progress": False}
    return on_engine(engine, _each_fold, conditions, real, drawn, num_folds, seed, progress, how)


def _each_fold(
    conditions: Sequence[Condition],
    real: LabelledImages,
    drawn: Sequence[Int[np.ndarray, " image"]],
    num_folds: int,
    seed: int,
    progress: bool,
    how: dict[str, Any],
) -> pd.DataFrame:
    pairs = [(number, fold) for number in range(len(drawn)) for fold in range(num_folds)]
    found, mine = [], own(pairs, lambda: 0)  # the study of a fold says itself what it lacks
    for number, fold in progress_bar(mine, total=len(mine), desc="folds", enabled=progress):
        with only_part(None):
            rows = run_study(
                conditions,
                train=real.subset(drawn[number] != fold),
                test=real.subset(drawn[number] == fold),
                seeds=[seed + number * num_folds + fold],
                **how,
            )
        found.append(rows.assign(repetition=number, fold=fold))
    end_of_part(pairs, lambda: True)
    return pd.concat(found, ignore_index=True)


def gain_over_folds(rows: pd.DataFrame, a: str, b: str, value: str = "accuracy") -> pd.DataFrame:
    """How much `a` exceeds `b`, as `paired_difference` says it, with the interval of a cross-validation.

    Folds share most of their training images, so that their differences are not independent and a plain
    t-interval is too short. Its variance is raised by the number of test images per training image (Nadeau
    and Bengio 2003, section 4.2; Bouckaert and Frank 2004 for repetitions).
    """
    return paired_difference(rows, a, b, value=value, overlap=overlap_of(rows))


def overlap_of(rows: pd.DataFrame) -> float:
    """Test images per training image of a cross-validation."""
    return 1 / (rows["fold"].nunique() - 1)


def sentence_on_gain(gain: pd.DataFrame, num_images: int, num_folds: int) -> str:
    """Helps, does not help, or not decided and what would decide it; in points of accuracy."""
    row = gain.iloc[0]
    said = points_of(gain)
    if row["low"] > 0:
        return f"Helps: {said}."
    if row["high"] < 0:
        return f"Does not help: {said}."
    needed = seeds_needed(row["difference"], row["std"], most=MOST_FOLDS, overlap=1 / (num_folds - 1))
    if needed < MOST_FOLDS:
        return f"Not decided: {said}; {math.ceil(needed / num_folds)} repetitions would, if this went on."
    # The deviation of a share falls with the root of the number of images that it is of.
    share = (row["high"] - row["difference"]) / max(abs(row["difference"]), 1e-6)
    more = num_images * (share**2 - 1)
    count = f"about {math.ceil(more):,}" if more < 1e6 else "more than a million"
    return f"Not decided: {said}; {count} more real images would, if this went on."
