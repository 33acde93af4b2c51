"""Choose each method's settings on validation images: python -m benchmarks.settings_search --help.

Every try is cached, so that a search goes on where it was stopped. The rows go into
`diffinv/assets/settings_search.csv`, which the lessons show; what they chose is written by hand into
`diffinv/lessons/dataset_settings.py`.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffinv.artefacts.keys import default_cache_dir
from diffinv.artefacts.writing import claimed, write_atomically
from diffinv.datasets import LabelledImages, load_dataset
from diffinv.foundation import ASSETS
from diffinv.lessons import methods
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import PROFILES, load_profile
from diffinv.method.cached import inversion_path
from diffinv.models.clip import load_clip
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.studies.search import chosen_settings, search
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.lecf.lecf import lowered

SEEDS = (0, 1)  # each with real images of its own
IMAGES_PER_REAL = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Search for the datasets and methods that are asked for, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="tiny")
    parser.add_argument("--datasets", nargs="+", default=["icons10", "novel10", "mnist5k", "emoji6"])
    parser.add_argument("--methods", nargs="+", choices=methods.SEARCHED, default=list(methods.SEARCHED))
    parser.add_argument("--images-per-real", type=int, default=IMAGES_PER_REAL)
    parser.add_argument("--output", type=Path, default=ASSETS / "settings_search.csv")
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile)
    diffusion = load_diffusion(profile.model, device=profile.device, dtype=profile.torch_dtype)
    clip = load_clip(profile.clip, device=profile.device)
    for dataset in options.datasets:
        settings = profile.for_dataset(dataset)
        for method in options.methods:
            started = time.perf_counter()
            rows = search_one(method, dataset, settings, diffusion, clip, options.images_per_real)
            rows.insert(0, "dataset", dataset)
            rows.insert(1, "method", method)
            write_rows(options.output, rows)
            if method == "GAN":  # GAN inversion inverts the one that was chosen
                settings = settings.changed(chosen_settings(rows))
            took = time.perf_counter() - started
            print(f"{dataset}, {method}: {chosen_settings(rows)} in {took:.0f} s", flush=True)


def search_one(
    method: str, dataset: str, settings: Profile, diffusion, clip, images_per_real: int
) -> pd.DataFrame:
    """The rows of one method on one dataset."""
    counts = settings.classifier_lesson
    pool = load_dataset(dataset, split="train").per_class(counts.pool_per_class, seed=0)
    real_per_class = counts.number_real_per_class
    if method == "DI from the prompt":
        settings = methods.from_prompt(settings)
    if stops := methods.SEARCHED[method].get("inversion.steps_per_image"):  # one path gives all of them
        for seed in SEEDS:
            learn_path(diffusion, pool.per_class(real_per_class, seed=seed), settings, stops)

    def build(chosen) -> Synthesizer:
        own = settings.changed(chosen)
        if method != "LECF":
            return {
                "DI": lambda: methods.diffusion_inversion(own, diffusion),
                "DI from the prompt": lambda: methods.diffusion_inversion(own, diffusion),
                "GAN": lambda: methods.gan(own),
                "GAN inversion": lambda: methods.gan_inversion(own),
                "KNN": lambda: methods.knn(own, clip),
            }[method]()
        recipe = methods.lecf(own, dataset, diffusion, clip)
        # Its filter is as strict as leaves a sample of each class.
        real = pool.per_class(real_per_class, seed=0)
        return lowered(recipe, dict.fromkeys(SEEDS, real), images_per_real=images_per_real)[0]

    return search(
        methods.SEARCHED[method],
        build,
        train=pool,
        validation=load_dataset(dataset, split="validation"),
        training=settings.training_for(dataset),
        seeds=SEEDS,
        images_per_real=images_per_real,
        real_per_class=real_per_class,
        dataset=dataset,
    )


def learn_path(
    diffusion: FrozenDiffusion, real: LabelledImages, settings: Profile, stops: Sequence[int]
) -> None:
    """Put the vectors after each of these numbers of updates into the cache, learned in one go."""
    resized = real.resize(settings.sampling.resolution or real.resolution)
    inversion_path(diffusion, resized, settings.inversion, stops)


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Put the rows of one dataset and method in the place of those that the file had."""
    words = [value if isinstance(value, str) else f"{value:g}" for value in rows["value"]]
    rows = rows.assign(value=words)
    # Another process may search for another dataset; a lock beside the file would be one of the assets.
    for _ in claimed([default_cache_dir() / "settings_search" / path.name]):
        if path.exists():
            before = pd.read_csv(path)
            same = (before["dataset"] == rows["dataset"][0]) & (before["method"] == rows["method"][0])
            rows = pd.concat([before[~same], rows], ignore_index=True)
        with write_atomically(path, "w") as file:
            rows.to_csv(file, index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main()
