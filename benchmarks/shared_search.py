"""Choose what all methods share, the judge and the sampler: python -m benchmarks.shared_search --help.

On validation images, once for all datasets. A try is as good as the mean over samples alone, samples with
real images and, where they are trained on in another way, real images alone, on every dataset. One setting is
tried after the other; what takes too long for the lessons' budget is tried and shown, but not chosen. The
rows go into `assets/settings_search.csv` beside those of `settings_search`, under the name of the search;
what they chose is written by hand into the profile.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.settings_search import IMAGES_PER_REAL, write_rows
from diffinv.datasets import load_dataset
from diffinv.foundation import ASSETS
from diffinv.lessons.methods import SHARED, diffusion_inversion
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import PROFILES, load_profile
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.studies.grid import Condition, run_study
from diffinv.studies.search import first_as_good
from diffinv.synthesizers.real import Real

MOST_IMAGES = 12_800  # that a classifier sees in all: two thirds of 300 steps of 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Try the values of one setting after the other, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="tiny")
    parser.add_argument("--datasets", nargs="+", default=["icons10", "novel10", "mnist5k"])
    parser.add_argument("--search", choices=SHARED, default="training")
    parser.add_argument("--architecture", default="", help="of the classifiers, or that of the profile")
    parser.add_argument("--draws", type=int, default=5, help="of real images, at most as the profile has")
    parser.add_argument("--images-per-real", type=int, default=IMAGES_PER_REAL)
    parser.add_argument("--output", type=Path, default=ASSETS / "settings_search.csv")
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile)
    if options.architecture:
        profile = profile.changed({"training.architecture": options.architecture})
    profile = replace(profile, seeds=profile.few_seeds[: options.draws])
    diffusion = load_diffusion(profile.model, device=profile.device, dtype=profile.torch_dtype)
    images = sum(len(load_dataset(dataset, split="validation")) for dataset in options.datasets)
    grid = SHARED[options.search]
    current = {setting: values[0] for setting, values in grid.items()}
    tries = []
    for setting, values in grid.items():
        rows = pd.concat(
            tried(profile, diffusion, dataset, {**current, setting: value}, options.images_per_real).assign(
                setting=setting, value=value
            )
            for dataset in options.datasets
            for value in values
        )
        means = rows.groupby("value")["score"].mean()
        # The cheapest or the usual one comes first.
        affordable = [value for value in values if _images_seen({**current, setting: value}) <= MOST_IMAGES]
        current[setting] = first_as_good({value: means[value] for value in affordable}, images)
        print(f"{setting}: {means.round(4).to_dict()}, chosen {current[setting]}", flush=True)
        tries.append(rows.assign(chosen=rows["value"] == current[setting]))
    for _dataset, own in pd.concat(tries).groupby("dataset", sort=False):
        rows = own.reset_index(drop=True)
        rows.insert(1, "method", options.search)
        write_rows(options.output, rows)


def tried(
    profile: Profile,
    diffusion: FrozenDiffusion,
    dataset: str,
    changes: Mapping[str, Any],
    images_per_real: int,
) -> pd.DataFrame:
    """The accuracies of one try on one dataset, a row for each seed."""
    own = profile.for_dataset(dataset).changed(changes)
    training = own.training_for(dataset)
    training = replace(training, warmup_steps=training.optimiser_steps // 10)
    counts = own.classifier_lesson
    shared = (diffusion_inversion(own, diffusion), training, images_per_real, counts.number_real_per_class)
    conditions = [
        Condition("alone", *shared),
        Condition("with real", *shared, with_real=True),
    ]
    if any(setting.startswith("training.") for setting in changes):
        conditions.append(Condition("real", Real(), training, 1, counts.number_real_per_class))
    rows = run_study(
        conditions,
        train=load_dataset(dataset, split="train").per_class(counts.pool_per_class, seed=0),
        test=load_dataset(dataset, split="validation"),
        seeds=profile.few_seeds,
        dataset=dataset,
        progress=False,
    )
    found = rows.pivot(index="seed", columns="condition", values="accuracy").reset_index()
    found["score"] = found.drop(columns="seed").mean(axis=1)
    found.insert(0, "dataset", dataset)
    return found


def _images_seen(changes: Mapping[str, Any]) -> float:
    return changes.get("training.optimiser_steps", 0) * changes.get("training.batch_size", 0)


if __name__ == "__main__":
    main()
