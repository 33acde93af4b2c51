"""Choose how the embedded datasets' classifiers are trained: python -m benchmarks.training_search --help.

On validation images, for all methods alike: a try is as good as the mean over real images, samples alone and
both, on every dataset. One setting is tried after the other; what takes too long for the lessons' budget is
tried and shown, but not chosen. The rows go into `assets/settings_search.csv` beside those of
`settings_search`, under the method "training"; what they chose is written by hand into the profile.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from benchmarks.settings_search import IMAGES_PER_REAL, write_rows
from diffinv.datasets import load_dataset
from diffinv.foundation import ASSETS
from diffinv.lessons.methods import TRAINING, diffusion_inversion
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
    parser.add_argument("--images-per-real", type=int, default=IMAGES_PER_REAL)
    parser.add_argument("--output", type=Path, default=ASSETS / "settings_search.csv")
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile)
    diffusion = load_diffusion(profile.model, device=profile.device, dtype=profile.torch_dtype)
    images = sum(len(load_dataset(dataset, split="validation")) for dataset in options.datasets)
    current = {setting: values[0] for setting, values in TRAINING.items()}
    tries = []
    for setting, values in TRAINING.items():
        rows = pd.concat(
            tried(profile, diffusion, dataset, {**current, setting: value}, options.images_per_real).assign(
                setting=setting, value=f"{value:g}"
            )
            for dataset in options.datasets
            for value in values
        )
        means = rows.groupby("value")["score"].mean()
        # The cheapest or the usual one comes first.
        affordable = [value for value in values if _images_seen({**current, setting: value}) <= MOST_IMAGES]
        current[setting] = first_as_good({value: means[f"{value:g}"] for value in affordable}, images)
        print(f"{setting}: {means.round(4).to_dict()}, chosen {current[setting]}", flush=True)
        tries.append(rows.assign(chosen=rows["value"] == f"{current[setting]:g}"))
    for _dataset, own in pd.concat(tries).groupby("dataset", sort=False):
        rows = own.reset_index(drop=True)
        rows.insert(1, "method", "training")
        write_rows(options.output, rows)


def tried(
    profile: Profile,
    diffusion: FrozenDiffusion,
    dataset: str,
    changes: Mapping[str, float],
    images_per_real: int,
) -> pd.DataFrame:
    """The accuracies of one way to train on one dataset, a row for each seed."""
    own = profile.for_dataset(dataset).changed(changes)
    training = own.training_for(dataset)
    training = replace(training, warmup_steps=training.optimiser_steps // 10)
    counts = own.classifier_lesson
    shared = (diffusion_inversion(own, diffusion), training, images_per_real, counts.number_real_per_class)
    conditions = [
        Condition("alone", *shared),
        Condition("with real", *shared, with_real=True),
        Condition("real", Real(), training, 1, counts.number_real_per_class),
    ]
    rows = run_study(
        conditions,
        train=load_dataset(dataset, split="train").per_class(counts.pool_per_class, seed=0),
        test=load_dataset(dataset, split="validation"),
        seeds=profile.few_seeds,
        dataset=dataset,
        progress=False,
    )
    found = rows.pivot(index="seed", columns="condition", values="accuracy").reset_index()
    found["score"] = found[["alone", "with real", "real"]].mean(axis=1)
    found.insert(0, "dataset", dataset)
    return found


def _images_seen(changes: Mapping[str, float]) -> float:
    return changes["training.optimiser_steps"] * changes["training.batch_size"]


if __name__ == "__main__":
    main()
