"""Classifiers trained on a grid of (synthesizer, settings, seed), or on given sets: tidy rows, all cached."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from diffinv.artefacts.engine import Engine, on_engine
from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.parts import end_of_part, only_part, own
from diffinv.artefacts.writing import claimed, read_cached_json, write_cached_json
from diffinv.classifiers.architectures import check_images
from diffinv.classifiers.libraries import checkpoint_key
from diffinv.classifiers.training import Training, train_classifier
from diffinv.datasets import LabelledImages
from diffinv.datasets.labelled_images import check_alike
from diffinv.foundation.progress import progress as progress_bar
from diffinv.studies import LEAST_SEEDS
from diffinv.synthesizers.base import Synthesizer, check_request

COLUMNS = (
    "condition", "dataset", "seed", "accuracy", "num_real", "num_training_images", "images_per_real",
    "real_per_class", "with_real", "optimiser_steps", "wall_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One line of a comparison: where the training images come from, and how the classifier is trained."""

    name: str
    synthesizer: Synthesizer
    training: Training
    images_per_real: int = 1
    real_per_class: int | None = None  # None = every real image; the subsets of one seed are nested
    with_real: bool = False  # train on the real images as well as on those made from them
    axes: Mapping[str, Any] = field(default_factory=dict)  # more columns for the plots

    def __post_init__(self) -> None:
        if taken := sorted(set(self.axes) & set(COLUMNS)):
            raise ValueError(f'axis "{taken[0]}" of condition "{self.name}" is a column already: rename it.')


def run_study(
    conditions: Sequence[Condition],
    *,
    train: LabelledImages,
    test: LabelledImages,
    seeds: Sequence[int],
    cache_dir: str | Path | None = None,
    dataset: str = "icons10",
    by_class: bool = False,
    progress: bool = True,
    engine: Engine | str | None = None,
) -> pd.DataFrame:
    """One row for each condition and seed: the final-step accuracy on `test`, and what went into it.

    The seed decides the real subset, the synthetic images and the classifier. Every cell is cached by its
    content as soon as it is done, so that a run killed at any time continues, and a cell that two figures
    share is computed once. `by_class` adds two columns: the accuracies `by_class`, and `balanced_accuracy`,
    their mean. An `engine` shares the cells among its workers (`artefacts.engine`). ValueError where a
    comparison would not be fair: unequal numbers of optimiser steps, other classes or another resolution to
    test on.

    # differs from upstream: a subset of the real images gets only the samples made from it.
    """
    _check(conditions, train, test, seeds)
    cells = [(condition, seed) for condition in conditions for seed in seeds]
    computed = on_engine(
        engine,
        _each_cached,
        _cache_of("studies", cache_dir),
        [_cell_key(condition, train, test, seed) for condition, seed in cells],
        [partial(_compute_cell, condition, train, test, seed) for condition, seed in cells],
        desc="study",
        progress=progress,
    )
    rows = [
        {"condition": condition.name, "dataset": dataset, **cell, **condition.axes}
        for (condition, _), cell in zip(cells, computed, strict=True)
    ]
    axes = list(dict.fromkeys(axis for condition in conditions for axis in condition.axes))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *axes, *(["by_class"] if by_class else [])])
    return _with_balanced(table) if by_class else table


def accuracy_scores(
    sets: Mapping[str, LabelledImages],
    *,
    test: LabelledImages,
    training: Training,
    seeds: Sequence[int] = (0, 1, 2),
    cache_dir: str | Path | None = None,
    progress: bool = True,
    engine: Engine | str | None = None,
) -> pd.DataFrame:
    """The classification accuracy score (Ravuri and Vinyals 2019): train on a set, test on real images.

    One row for each set and seed, as `summarise` and `paired_difference` take them: condition, seed, accuracy
    on `test`, by_class, nan without an image, and balanced_accuracy, their mean. ValueError for fewer than 3
    different seeds.
    """
    if len(set(seeds)) < max(LEAST_SEEDS, len(seeds)):
        raise ValueError(f"the seeds are {list(seeds)}: give at least {LEAST_SEEDS} different ones.")
    check_images(training.architecture, test.num_classes, test.resolution)
    cells = [(name, seed) for name in sets for seed in seeds]
    computed = on_engine(
        engine,
        _each_cached,
        _cache_of("accuracy_scores", cache_dir),
        [
            # The sources count: they tell samples from real images, and so decide the batches.
            content_key(
                sets[name].fingerprint,
                sets[name].sources,
                test.fingerprint,
                training,
                seed,
                *checkpoint_key(training.architecture),
            )
            for name, seed in cells
        ],
        [partial(_score, sets[name], test, training, seed) for name, seed in cells],
        desc="classifiers",
        progress=progress,
    )
    rows = [
        {"condition": name, "seed": seed, **cell} for (name, seed), cell in zip(cells, computed, strict=True)
    ]
    return _with_balanced(pd.DataFrame(rows))


def _with_balanced(rows: pd.DataFrame) -> pd.DataFrame:
    of_classes = pd.DataFrame(rows["by_class"].tolist(), index=rows.index, dtype=float)
    return rows.assign(balanced_accuracy=of_classes.mean(axis=1))  # of the classes with a test image


def _cache_of(kind: str, cache_dir: str | Path | None) -> Path:
    return (default_cache_dir() if cache_dir is None else Path(cache_dir)) / kind


def _each_cached(
    folder: Path,
    keys: Sequence[str],
    computations: Sequence[Callable[[], dict[str, Any]]],
    *,
    desc: str,
    progress: bool,
) -> list[dict[str, Any]]:
    """The cell of each key, from the cache or computed; each once, however many have its key or want it."""
    wanted = {folder / f"{key}.json": compute for key, compute in zip(keys, computations, strict=True)}

    def lacking() -> int:
        return sum(read_cached_json(path) is None for path in wanted)

    cells, mine = {}, own(list(wanted), lacking)
    for path in progress_bar(claimed(mine), total=len(mine), desc=desc, enabled=progress, alike=False):
        if (cell := read_cached_json(path)) is None:
            with only_part(None):  # a cell needs all of its samples
                cell = wanted[path]()
            write_cached_json(path, cell)
        cells[path] = cell
    end_of_part(list(wanted), lambda: lacking() > 0)
    return [cells[folder / f"{key}.json"] for key in keys]


def _score(images: LabelledImages, test: LabelledImages, training: Training, seed: int) -> dict[str, Any]:
    accuracy, by_class = train_classifier(images, training, seed=seed).accuracies(test)
    return {"accuracy": accuracy, "by_class": by_class}


def _compute_cell(
    condition: Condition, train: LabelledImages, test: LabelledImages, seed: int
) -> dict[str, Any]:
    started = time.perf_counter()
    count = condition.real_per_class
    real = train if count is None else train.per_class(count, seed=seed)
    made = condition.synthesizer(real, images_per_real=condition.images_per_real, seed=seed)
    images = made
    if condition.with_real:
        if set(real.ids) & set(made.ids):
            raise ValueError(f'condition "{condition.name}" holds the real images already: drop with_real.')
        images = LabelledImages.concatenate(real, made)
    return {
        "seed": seed,
        **_score(images, test, condition.training, seed),
        "num_real": len(real),
        "num_training_images": len(images),
        "images_per_real": condition.images_per_real,
        "real_per_class": count,
        "with_real": condition.with_real,
        "optimiser_steps": condition.training.optimiser_steps,
        "wall_seconds": round(time.perf_counter() - started, 3),
    }


def _cell_key(condition: Condition, train: LabelledImages, test: LabelledImages, seed: int) -> str:
    # Names of conditions and axes are not part of it: they say how a cell is drawn, not what it is.
    settings = [condition.images_per_real, condition.real_per_class, condition.with_real, condition.training]
    # The ids count: they decide the subset and the random streams.
    data = [train.fingerprint, train.ids, test.fingerprint]
    checkpoint = checkpoint_key(condition.training.architecture)
    return content_key("study cell", condition.synthesizer.describe(), settings, data, seed, *checkpoint)


def _check(
    conditions: Sequence[Condition], train: LabelledImages, test: LabelledImages, seeds: Sequence[int]
) -> None:
    if not conditions or not seeds:
        raise ValueError("a study needs at least one condition and one seed.")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"the seeds {list(seeds)} hold one twice: a repetition is no new evidence.")
    steps = {condition.training.optimiser_steps for condition in conditions}
    if len(steps) > 1:
        found = ", ".join(str(number) for number in sorted(steps))
        raise ValueError(f"the conditions train for {found} optimiser_steps: give all the same number.")
    check_alike(training=train, test=test)
    for condition in conditions:
        check_images(condition.training.architecture, train.num_classes, train.resolution)
        count = condition.real_per_class
        real = train if count is None else train.per_class(count, seed=seeds[0])
        check = getattr(condition.synthesizer, "check", check_request)  # of its own, where it has more to ask
        check(real, condition.images_per_real)
