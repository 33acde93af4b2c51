"""The methods that lessons compare, each made from a profile, and the values tried of their settings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from diffinv.datasets import LabelledImages, load_dataset
from diffinv.foundation import ASSETS
from diffinv.lessons.opening import few_of
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import prompt_for
from diffinv.models.clip import FrozenClip
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.studies.augmentation import augmentation_conditions
from diffinv.studies.grid import run_study
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.gan.gan import GAN
from diffinv.synthesizers.gan.gan_inversion import GANInversion
from diffinv.synthesizers.lecf.lecf import LECF, lowered
from diffinv.synthesizers.lecf.sentences import AttributeGrammar, WordToSentence
from diffinv.synthesizers.retrieval.knn_retrieval import KNNRetrieval

# What `python -m benchmarks.settings_search` tries of each method, setting after setting, and for each method
# as many candidates, those of GAN inversion with those of the GAN that it inverts. First stands the cheapest
# value, or else the usual one. "DI from the prompt" is DI as chosen, but for where its vectors start, and so
# for how many updates they need.
SEARCHED: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "DI": {
        "inversion.steps_per_image": (25, 50, 100, 200, 400),
        "sampling.guidance_scale": (1, 1.5, 2, 3),
        "perturbation.noise_std": (0.1, 0, 0.3),
        "perturbation.interpolation_weight": (0.1, 0, 0.3),
    },
    "DI from the prompt": {"inversion.steps_per_image": (10, 25, 100, 400)},
    "LECF": {
        "lecf_lesson.guidance_scale": (3, 1, 1.5, 2),
        "lecf_lesson.threshold": (0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    },
    "GAN": {"generator_lesson.gan_rate": (4e-4, 2e-4, 1e-3)},
    "GAN inversion": {
        "generator_lesson.code_noise": (0.3, 0, 0.1, 0.2, 0.4, 0.6, 0.8),
        "generator_lesson.code_weight": (0.1, 0, 0.2, 0.3),
    },
    "KNN": {"retrieval_lesson.k": (25, 16, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300)},
}
# What `python -m benchmarks.shared_search` tries of what all methods share, the usual or the cheapest first.
# The training was searched before the architecture, with "resnet10_narrow".
SHARED: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "training": {
        "training.batch_size": (64, 32, 16),
        "training.learning_rate": (0.1, 0.05, 0.2),
        "training.optimiser_steps": (300, 400, 600),
    },
    "architecture": {"training.architecture": ("resnet8_narrow", "resnet10_narrow")},
    "sampler": {"sampling.num_inference_steps": (3, 4, 5)},
}


def search_rows(method: str, datasets: Sequence[str]) -> pd.DataFrame:
    """What a search found on validation images for a method: a row for each try, value and seed."""
    rows = pd.read_csv(ASSETS / "settings_search.csv", dtype={"value": str})
    return rows[(rows["method"] == method) & rows["dataset"].isin(datasets)]


def searched(method: str, datasets: Sequence[str]) -> pd.DataFrame:
    """The validation scores (%) that a search gave the settings of a method, the chosen ones with a star.

    One row for each setting and value, one column for each of these datasets that was searched.
    """
    tried = (
        search_rows(method, datasets)
        .groupby(["setting", "value", "dataset"], sort=False)
        .agg(score=("score", "mean"), chosen=("chosen", "any"))
    )
    said = [f"{100 * row.score:.1f}{' *' if row.chosen else ''}" for row in tried.itertuples()]
    return pd.Series(said, tried.index, dtype=object).unstack("dataset", fill_value="")


def diffusion_inversion(settings: Profile, diffusion: FrozenDiffusion) -> DiffusionInversion:
    """Diffusion Inversion as a profile has it."""
    return DiffusionInversion(diffusion, settings.inversion, settings.perturbation, settings.sampling)


def from_prompt(settings: Profile) -> Profile:
    """The same, but for vectors that start from the class's prompt, with a number of updates of their own."""
    steps = settings.ablations_lesson.prompt_steps or settings.inversion.steps_per_image
    return settings.changed({"inversion.initialisation": "class_prompt", "inversion.steps_per_image": steps})


def lecf(settings: Profile, dataset: str, diffusion: FrozenDiffusion, clip: FrozenClip) -> LECF:
    """LECF with the dataset's words; as DI samples, but for the guidance."""
    counts = settings.lecf_lesson
    return LECF(
        diffusion,
        clip,
        WordToSentence(counts.sentence_model) if counts.sentence_model else AttributeGrammar(),
        replace(settings.sampling, guidance_scale=counts.guidance_scale),
        threshold=counts.threshold,
        class_prompt=prompt_for(dataset, "{}"),
        max_draws_factor=counts.max_draws_factor,
    )


def lecf_for(
    settings: Profile,
    dataset: str,
    diffusion: FrozenDiffusion,
    clip: FrozenClip,
    smallest: Mapping[int, LabelledImages],
    *,
    images_per_real: int,
) -> tuple[LECF, tuple[str, ...]]:
    """LECF with a threshold at which each seed's smallest set has a sample of every class; and what was said.

    `smallest` has the real images of each seed.
    """
    return lowered(lecf(settings, dataset, diffusion, clip), smallest, images_per_real=images_per_real)


def policies_on_validation(settings: Profile, dataset: str, pool: LabelledImages) -> pd.DataFrame:
    """Accuracies on validation images of classifiers on real images alone, under each policy."""
    counts = settings.augmentation_lesson
    conditions = augmentation_conditions(
        None,
        settings.training_for(dataset),
        images_per_real=1,
        real_per_class=few_of(pool, counts.real_per_class),
        policies=counts.policies,
    )
    validation = load_dataset(dataset, split="validation")
    seeds = settings.few_seeds[: counts.validation_seeds]
    return run_study(conditions, train=pool, test=validation, seeds=seeds, dataset=dataset)


def gan(settings: Profile) -> GAN:
    """A GAN trained anew for each seed; a collapse is a warning, and stands in the provenance."""
    counts = settings.generator_lesson
    training = replace(
        counts.gan, generator_learning_rate=counts.gan_rate, discriminator_learning_rate=counts.gan_rate
    )
    return GAN(training, on_collapse="warn", device=settings.device)


def gan_inversion(settings: Profile) -> GANInversion:
    """The inversion of the images into the GAN that `gan` trains."""
    base, counts = gan(settings), settings.generator_lesson
    return GANInversion(
        base.training,
        counts.latent_inversion,
        counts.code_noise,
        counts.code_weight,
        on_collapse=base.on_collapse,
        device=base.device,
    )


def knn(settings: Profile, clip: FrozenClip, pool: Any = None, k: int | None = None) -> KNNRetrieval:
    """Images drawn at random among the k nearest of the pool, the profile's own where none is given."""
    counts = settings.retrieval_lesson
    return KNNRetrieval(clip, counts.pool if pool is None else pool, k or counts.k)
