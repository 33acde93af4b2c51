"""Every number a notebook runs with: smoke for tests, tiny for two CPU cores, colab and paper for a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from diffinv.classifiers.training import Training
from diffinv.inversion import Inversion
from diffinv.lessons import (
    ClassifierLesson,
    InversionLesson,
    PretrainingLesson,
    Quickstart,
    SamplingLesson,
)
from diffinv.perturbation import Perturbation
from diffinv.sampling import Sampling


@dataclass(frozen=True)
class Profile:
    """One scale at which all lessons run: models, settings of each stage, seeds and counts."""

    name: str
    model: str = "tinysd"
    dtype: str = "float32"
    device: str | None = None  # None = the fastest one found
    datasets: tuple[str, ...] = ("icons10", "novel10", "mnist5k")
    inversion: Inversion = field(default_factory=Inversion)
    perturbation: Perturbation = field(default_factory=Perturbation)
    sampling: Sampling = field(default_factory=Sampling)
    training: Training = field(default_factory=Training)
    seeds: tuple[int, ...] = (0, 1, 2)
    quickstart: Quickstart = field(default_factory=Quickstart)
    inversion_lesson: InversionLesson = field(default_factory=InversionLesson)
    sampling_lesson: SamplingLesson = field(default_factory=SamplingLesson)
    classifier_lesson: ClassifierLesson = field(default_factory=ClassifierLesson)
    pretraining_lesson: PretrainingLesson = field(default_factory=PretrainingLesson)
    time_limit_seconds: int = 1200  # of one cell; one that runs longer is stopped

    clip: str = "tinysd"  # whose features measure fidelity and diversity

    def training_for(self, dataset: str) -> Training:
        """How classifiers of a dataset are trained: a mirrored digit is another digit, or none."""
        return replace(self.training, augmentation="crop") if dataset == "mnist5k" else self.training

    def using(self, model: str, resolution: int) -> Profile:
        """The same scale with another checkpoint at the side it takes; "" and 0 keep the profile's own."""
        sampling = replace(self.sampling, resolution=resolution or self.sampling.resolution)
        return replace(self, model=model or self.model, sampling=sampling)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        return getattr(torch, self.dtype)


TINY = Profile(
    name="tiny",
    device="cpu",
    # Chosen on validation images, by the share of samples that keep their image's class: TinySD's text
    # vectors vary by 2, new ones by 0.1, so that a higher rate serves; twice the updates kept no more.
    inversion=Inversion(steps_per_image=100, learning_rate=0.1),
    sampling=Sampling(guidance_scale=3.0, num_inference_steps=10, resolution=32),
    training=Training(architecture="resnet10_narrow", optimiser_steps=150, batch_size=64, warmup_steps=15),
)

SMOKE = replace(
    TINY,
    name="smoke",
    datasets=("icons10", "mnist5k"),
    inversion=replace(TINY.inversion, steps_per_image=8),
    sampling=replace(TINY.sampling, num_inference_steps=3),
    training=replace(TINY.training, optimiser_steps=4, batch_size=16, warmup_steps=1),
    seeds=(0, 1),
    quickstart=Quickstart(real_per_class=2, images_per_real=2),
    inversion_lesson=InversionLesson(
        num_images=4, updates_grid=(4, 12), tokens_grid=(1, 2), loss_every=2, held_out_draws=4
    ),
    sampling_lesson=SamplingLesson(
        real_per_class=2,
        gallery_rows=3,
        gallery_copies=2,
        interpolated_pairs=2,
        interpolation_weights=(0, 0.5, 1),
        guidance_grid=(1, 2),
        noise_grid=(0, 0.4),
        weight_grid=(0, 0.3),
        sweep_originals=4,
        sweep_copies=2,
    ),
    classifier_lesson=ClassifierLesson(
        number_real_per_class=2, images_per_real_grid=(1, 2), real_per_class_grid=(2, 3), images_per_real=2
    ),
    pretraining_lesson=PretrainingLesson(
        shown_concepts=10,
        shown_captions=3,
        shown_images=2,
        trajectory_prompts=1,
        trajectory_columns=3,
        guidance_grid=(1, 4),
        guidance_rows=2,
        composed_colours=2,
        composed_concepts=2,
        inference_steps=3,
        train_minutes=0.05,
    ),
    time_limit_seconds=120,
)

# A free Colab GPU: Stable Diffusion itself, at the paper's resolution for 32 px data, with few images.
COLAB = replace(
    TINY,
    name="colab",
    model="CompVis/stable-diffusion-v1-4",
    dtype="float16",
    device="cuda",
    inversion=Inversion(steps_per_image=300, batch_size=50),
    sampling=Sampling(num_inference_steps=50, resolution=128, batch_size=64),
    training=Training(optimiser_steps=2000, warmup_steps=100),
    time_limit_seconds=7200,
)

# The paper's settings: upstream's documented ones, and its defaults for 32 px data.
PAPER = replace(
    COLAB,
    name="paper",
    inversion=Inversion(
        num_tokens=5,
        steps_per_image=3000,
        learning_rate=0.03,
        weight_decay=0.01,
        batch_size=50,
        timestep_sampling="uniform",
    ),
    perturbation=Perturbation(noise_std=0.1, interpolation_weight=0.1, unconditional="mean"),
    sampling=Sampling(
        guidance_scale=2.0, num_inference_steps=100, scheduler="PNDMScheduler", batch_size=64, resolution=128
    ),
    training=Training(
        architecture="resnet18",
        optimiser_steps=50_000,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        warmup_steps=1000,
        augmentation="crop_flip",
    ),
    seeds=(0, 1, 2, 3, 4),
    quickstart=Quickstart(real_per_class=60),
    inversion_lesson=InversionLesson(updates_grid=(50, 100, 200, 400, 1000, 3000)),
    sampling_lesson=SamplingLesson(real_per_class=60, sweep_originals=100, sweep_copies=10),
    classifier_lesson=ClassifierLesson(
        number_real_per_class=60,
        images_per_real_grid=(1, 2, 5, 10, 20, 45),
        real_per_class_grid=(5, 10, 20, 40, 60),
    ),
    time_limit_seconds=7 * 24 * 3600,
)

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (SMOKE, TINY, COLAB, PAPER)}


PROMPTS: Mapping[str, str] = {
    "icons10": "a {} icon",
    "novel10": "a {} icon",
    "mnist5k": "the handwritten digit {}",
}


def prompt_for(dataset: str, class_name: str) -> str:
    """The sentence that names a class of the dataset, for a comparison with learned vectors."""
    return PROMPTS.get(dataset, "a {}").replace("{}", class_name.replace("_", " "))


def load_profile(name: str) -> Profile:
    """The profile of that name, or ValueError listing the names.

    Under nbval, which cannot inject parameters into a notebook, the variable DIFFINV_PROFILE decides instead.
    """
    if ".ipynb::" in os.environ.get("PYTEST_CURRENT_TEST", ""):
        name = os.environ.get("DIFFINV_PROFILE", name)
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
