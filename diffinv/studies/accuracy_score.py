"""The classification accuracy score (Ravuri and Vinyals 2019): train on a set, test on real images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.writing import read_cached_json, write_json
from diffinv.classifiers.training import Training, train_classifier
from diffinv.datasets import LabelledImages
from diffinv.foundation.progress import progress as progress_bar

LEAST_SEEDS = 3  # with fewer, an interval says nothing


def accuracy_scores(
    sets: Mapping[str, LabelledImages],
    *,
    test: LabelledImages,
    training: Training,
    seeds: Sequence[int] = (0, 1, 2),
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """One row for each set and seed: condition, seed, accuracy on `test`, and by_class, nan without an image.

    The rows are what `studies.summarise` and `studies.paired_difference` take. Every training is cached by
    its content as soon as it is done. ValueError for fewer than 3 different seeds.
    """
    if len(set(seeds)) < max(LEAST_SEEDS, len(seeds)):
        raise ValueError(
            f"the seeds are {list(seeds)}: an interval needs at least {LEAST_SEEDS} different ones."
        )
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / "accuracy_scores"
    cells = [(name, seed) for name in sets for seed in seeds]
    rows = []
    for name, seed in progress_bar(cells, total=len(cells), desc="classifiers", enabled=progress):
        path = folder / f"{content_key(sets[name].fingerprint, test.fingerprint, training, seed)}.json"
        cell = read_cached_json(path)
        if cell is None:
            classifier = train_classifier(sets[name], training, seed=seed)
            by_class = classifier.per_class_accuracy(test)
            cell = {"accuracy": classifier.accuracy(test), "by_class": by_class}
            write_json(path, cell)
        rows.append({"condition": name, "seed": seed, **cell})
    return pd.DataFrame(rows)
