"""Every number a notebook runs with: smoke for tests, tiny for two CPU cores, all others for a GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from diffinv.classifiers.training import Training
from diffinv.datasets import depiction
from diffinv.lessons.counts import (
    AblationsLesson,
    ArchitectureLesson,
    AugmentationLesson,
    ClassifierLesson,
    FewShotLesson,
    GeneratorLesson,
    InversionLesson,
    LECFLesson,
    OwnDataLesson,
    PretrainingLesson,
    Quickstart,
    RetrievalLesson,
    RuntimeLesson,
    SamplingLesson,
    StorageLesson,
)
from diffinv.lessons.dataset_settings import (
    COLABS_DATASETS,
    DAYS_DATASETS,
    EMBEDDED_DATASETS,
    PAPERS_DATASETS,
)
from diffinv.lessons.profile import Profile
from diffinv.method.inversion import Inversion
from diffinv.method.sampling import Sampling
from diffinv.synthesizers.gan.latent_inversion import LatentInversion
from diffinv.synthesizers.gan.training import GANTraining
from diffinv.synthesizers.upstream.settings import UPSTREAM

TINY = Profile(
    name="tiny",
    device="cpu",
    dataset_settings=EMBEDDED_DATASETS,
    # TinySD's text vectors vary by 2, new ones by 0.1, so that a higher rate serves. 16 vectors are all that
    # its prompt has, and cost no more time; they are 128 wide, so that an image still has fewer numbers than
    # the paper's 5 of 768. Updates, guidance and perturbation are those that a search on validation images
    # chose (`EMBEDDED_DATASETS`), for other images a middle number of updates.
    inversion=Inversion(num_tokens=16, steps_per_image=200, learning_rate=0.1),
    # The rows "sampler" of `benchmarks.shared_search`: with 5 steps 0.7 points more, less than one standard
    # error.
    sampling=Sampling(
        guidance_scale=1.0, scheduler="DPMSolverMultistepScheduler", num_inference_steps=3, resolution=32
    ),
    # The rows "training" and "architecture". A third less time than 300 steps of 64, and more accurate; 600
    # steps of 32 would be better still on real images (1.5 points) and on samples alone (2.6), not on both.
    training=Training(architecture="resnet8_narrow", optimiser_steps=400, batch_size=32, warmup_steps=40),
    # With five, seven rows of lessons 03 to 06 stayed undecided that eight should decide.
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    lecf_lesson=LECFLesson(images_per_real_grid=(1, 4, 16)),
    generator_lesson=GeneratorLesson(
        # The smallest with which the GAN's samples were seen to take the shapes of their classes.
        gan=GANTraining(optimiser_steps=1000, batch_size=32, channels=16, ema_decay=0.995),
        latent_inversion=LatentInversion(steps_per_image=200),
        images_per_real=16,
    ),
    # The paper's smallest k, 10, has no 16 neighbours.
    retrieval_lesson=RetrievalLesson(images_per_real=16, neighbours_grid=(16, 25, 50)),
    few_shot_lesson=FewShotLesson(images_per_real=16, left_out=("mnist5k",)),
    augmentation_lesson=AugmentationLesson(
        images_per_real=16, with_samples=("autoaugment", "mixup", "cutmix"), best_alone=("mnist5k",)
    ),
    architecture_lesson=ArchitectureLesson(two_alone=("mnist5k",)),
)

SMOKE = replace(
    TINY,
    name="smoke",
    datasets=("icons10", "mnist5k"),
    dataset_settings={},
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
        pool_per_class=4,
        number_real_per_class=2,
        images_per_real_grid=(1, 2),
        real_per_class_grid=(2, 3),
        images_per_real=2,
        real_alone_grid=(4,),
    ),
    generator_lesson=GeneratorLesson(
        real_per_class=2,
        images_per_real=2,
        gan=GANTraining(optimiser_steps=4, batch_size=8, latent_dim=8, channels=4),
        latent_inversion=LatentInversion(steps_per_image=4, candidates=2),
        gallery_classes=4,
        autoencoded_per_class=2,
    ),
    lecf_lesson=LECFLesson(
        real_per_class=2,
        images_per_real_grid=(1, 2),
        reference_per_class=8,
        gallery_rows=2,
    ),
    retrieval_lesson=RetrievalLesson(
        real_per_class=2,
        images_per_real=2,
        neighbours_grid=(10, 25),
        gallery_rows=2,
        gallery_neighbours=3,
        gallery_copies=2,
    ),
    few_shot_lesson=FewShotLesson(shots=(1, 2), images_per_real=2, left_out=("mnist5k",)),
    augmentation_lesson=AugmentationLesson(
        real_per_class=2,
        images_per_real=2,
        policies=("none", "randaugment", "cutmix"),
        best_alone=("novel10", "mnist5k"),
        gallery_columns=4,
    ),
    architecture_lesson=ArchitectureLesson(
        architectures=("resnet8_narrow", "efficientnet_narrow"),
        datasets=("icons10", "mnist5k"),
        two_alone=("mnist5k",),
        images_per_real=2,
    ),
    storage_lesson=StorageLesson(
        codecs=("float32", "int8", "pca8", "pq4"),
        images_per_real=2,
        samplers=(
            ("DDIMScheduler", 10, 2.0),
            ("DDIMScheduler", 3, 1.0),
            ("DPMSolverMultistepScheduler", 2, 1.0),
        ),
    ),
    ablations_lesson=AblationsLesson(
        real_per_class=2,
        images_per_real=1,
        updates_grid=(4,),
        guidance_grid=(1.0, 2.0),
        inference_steps_grid=(1,),
        native_updates=4,
        native_images_per_real=1,
        native_inference_steps=1,
        number_grid=(1, 2),
        weight_grid=(0, 0.3),
        share_grid=(0.5,),
        tokens_grid=(16,),
        strength_grid=(0.5,),
        drawn=2,
        hard_share=0.5,
        early_steps=2,
        confirmed=1,
    ),
    runtime_lesson=RuntimeLesson(
        images_at_once=2, repeats=3, large_network="small", counted_sides=(128, 256)
    ),
    own_data_lesson=OwnDataLesson(
        images_per_real=2,
        num_folds=3,
        repetitions=1,
        search_grid={"inversion.steps_per_image": (4, 8)},
        probe_images=4,
        probe_updates=25,
        lesson_steps=4,
        lesson_per_class=6,
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

# A free Colab GPU, a T4 with 15 GB: Stable Diffusion itself, at the paper's side for small images, with so
# few of them that a notebook is done within an hour, by benchmarks/cost_by_counts.py. Classifiers are trained
# as in `tiny`, on as few real images: large batches would flatter the samples.
COLAB = replace(
    TINY,
    name="colab",
    model="CompVis/stable-diffusion-v1-4",
    clip="openai/clip-vit-large-patch14",  # the embedded one knows icons
    seeds=TINY.few_seeds,
    dtype="float16",
    device="cuda",
    datasets=("cifar10", "eurosat", "bloodmnist"),
    dataset_settings=COLABS_DATASETS,
    inversion=Inversion(steps_per_image=200, batch_size=32),
    sampling=Sampling(num_inference_steps=20, resolution=128, batch_size=64),
    sampling_lesson=SamplingLesson(real_per_class=4, gallery_copies=4),
    classifier_lesson=ClassifierLesson(
        pool_per_class=6,
        number_real_per_class=6,
        images_per_real_grid=(1, 2, 4),
        real_per_class_grid=(2, 4, 6),
        images_per_real=2,
        real_alone_grid=(),
        further_datasets=(),
    ),
    generator_lesson=GeneratorLesson(
        real_per_class=4,
        autoencoding_grid=(64, 128, 256),
        autoencoded_per_class=20,
    ),
    lecf_lesson=LECFLesson(
        real_per_class=4,
        guidance_scale=7.5,
        sentence_model="mrm8488/t5-base-finetuned-common_gen",
    ),
    retrieval_lesson=RetrievalLesson(real_per_class=4, pool="cifar100"),
    few_shot_lesson=FewShotLesson(shots=(1, 2, 4), images_per_real=2),
    augmentation_lesson=AugmentationLesson(
        real_per_class=4,
        images_per_real=2,
        policies=("none", "autoaugment", "randaugment", "mixup", "cutmix"),
    ),
    architecture_lesson=ArchitectureLesson(
        pretrained="pretrained hf:microsoft/resnet-18", datasets=("cifar10",), images_per_real=2
    ),
    storage_lesson=StorageLesson(
        dataset="cifar10",
        codecs=("float32", "float16", "int8", "int4", "int3", "pca240", "pq192"),
        tokens_dataset="cifar10",
        tokens=1,
        images_per_real=2,
    ),
    ablations_lesson=AblationsLesson(
        real_per_class=4,
        images_per_real=2,
        updates_grid=(50, 200),
        guidance_grid=(1.0, 2.0),
        inference_steps_grid=(10,),
        native_inference_steps=0,  # at 512 px it would take as long as all the rest
        number_grid=(1, 4),
        weight_grid=(0, 0.3),
        tokens_grid=(1, 5),
        drawn=4,
        confirmed=1,
    ),
    runtime_lesson=RuntimeLesson(images_at_once=4, large_network=""),
    own_data_lesson=OwnDataLesson(
        search_grid={
            "inversion.steps_per_image": (100, 200),
            "inversion.initialisation": ("normal", "class_prompt"),
            "sampling.guidance_scale": (2, 4),
        },
        probe_images=8,
    ),
    time_limit_seconds=3600,
)

# Upstream's documented settings, which are those of STL10; what other datasets have otherwise is their own.
# Ours: an eta of 0, since the scheduler takes none; the seeds and the counts of the lessons.
PAPER = replace(
    COLAB,
    name="paper",
    dtype="float32",
    datasets=tuple(PAPERS_DATASETS),
    dataset_settings=PAPERS_DATASETS,
    inversion=UPSTREAM.inversion,
    perturbation=UPSTREAM.perturbation,
    sampling=replace(UPSTREAM.sampling, eta=0.0, batch_size=50),
    training=UPSTREAM.training,
    quickstart=Quickstart(real_per_class=60),
    inversion_lesson=InversionLesson(updates_grid=(50, 100, 200, 400, 1000, 3000)),
    sampling_lesson=SamplingLesson(real_per_class=60, sweep_originals=100, sweep_copies=10),
    classifier_lesson=ClassifierLesson(
        pool_per_class=60,
        number_real_per_class=60,
        images_per_real_grid=(1, 2, 5),
        real_per_class_grid=(5, 10, 20, 40, 60),
        images_per_real=5,
        real_alone_grid=(),
        further_datasets=(),
    ),
    generator_lesson=GeneratorLesson(
        real_per_class=60,
        images_per_real=5,
        gan=GANTraining(optimiser_steps=50_000, channels=64),
        latent_inversion=LatentInversion(steps_per_image=1000),
        autoencoding_grid=(128, 256, 512),
    ),
    lecf_lesson=replace(COLAB.lecf_lesson, real_per_class=60, images_per_real_grid=(1, 2, 5)),
    retrieval_lesson=replace(COLAB.retrieval_lesson, real_per_class=60, images_per_real=5),
    few_shot_lesson=FewShotLesson(images_per_real=5),
    augmentation_lesson=AugmentationLesson(real_per_class=60, images_per_real=5),
    architecture_lesson=ArchitectureLesson(
        architectures=(
            "resnet18",
            "vgg16",
            "mobilenetv2",
            "shufflenetv2_x05",
            "efficientnet_b0",
            "vit_tiny",
        ),
        pretrained="pretrained hf:microsoft/resnet-18",
        datasets=("cifar10", "stl10"),
        images_per_real=5,
    ),
    storage_lesson=replace(COLAB.storage_lesson, images_per_real=5),
    ablations_lesson=AblationsLesson(
        real_per_class=60,
        images_per_real=5,
        updates_grid=(100, 1000, 3000),
        guidance_grid=(1.0, 2.0, 4.0, 8.0),
        inference_steps_grid=(20, 50, 100),
        native_updates=100,
        native_images_per_real=1,
        native_inference_steps=50,
        number_grid=(1, 5, 20),
        noise_grid=(0, 0.1, 0.2, 0.4),
        weight_grid=(0, 0.1, 0.2, 0.4),
        tokens_grid=(1, 5, 20),
        drawn=20,
    ),
    time_limit_seconds=21 * 24 * 3600,
)

# The paper's questions and datasets within 24 hours of one A100 for each dataset, all lessons together, by
# `benchmarks/cost_by_counts.py`. What is less than in `paper`: updates and steps, of which more gain nothing
# on the embedded datasets (`python -m benchmarks.settings_search`; lesson 12 on samplers), real images, and
# optimiser steps, the same for all that is compared.
DAY = replace(
    PAPER,
    name="day",
    dtype="bfloat16",
    fast=True,
    dataset_settings=DAYS_DATASETS,
    inversion=replace(PAPER.inversion, steps_per_image=400, batch_size=64),
    sampling=replace(
        PAPER.sampling, scheduler="DPMSolverMultistepScheduler", num_inference_steps=20, batch_size=128
    ),
    training=replace(PAPER.training, optimiser_steps=2000, warmup_steps=100, fast=True),
    quickstart=Quickstart(real_per_class=20),
    inversion_lesson=InversionLesson(updates_grid=(50, 100, 200, 400, 1000)),
    sampling_lesson=SamplingLesson(real_per_class=20, sweep_originals=50, sweep_copies=10),
    generator_lesson=replace(
        PAPER.generator_lesson,
        real_per_class=20,
        gan=GANTraining(optimiser_steps=10_000),
        latent_inversion=LatentInversion(steps_per_image=200),
    ),
    lecf_lesson=replace(PAPER.lecf_lesson, real_per_class=20),
    retrieval_lesson=replace(PAPER.retrieval_lesson, real_per_class=20),
    augmentation_lesson=AugmentationLesson(
        real_per_class=20, images_per_real=5, with_samples=("autoaugment", "mixup", "cutmix")
    ),
    ablations_lesson=replace(
        PAPER.ablations_lesson,
        real_per_class=20,
        updates_grid=(50, 400, 1000),
        guidance_grid=(1.0, 2.0),
        inference_steps_grid=(10,),
        native_updates=50,
        native_inference_steps=10,
        number_grid=(1, 10),
        drawn=10,
    ),
    time_limit_seconds=24 * 3600,
)

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (SMOKE, TINY, COLAB, DAY, PAPER)}


def prompt_for(dataset: str, class_name: str) -> str:
    """The sentence that names a class of the dataset, for a comparison with learned vectors."""
    return depiction(dataset).prompt(class_name)


def with_article(prompt: str) -> str:
    """A prompt as a reader expects it: "an umbrella icon", but "a user icon".

    This is for showing alone: the captions of TinySD's icons have "a" before every word, and so have prompts.
    """
    return re.sub(r"\ba (?=[aeio]|u(?!s|ni)|hour)", "an ", prompt)


def load_profile(name: str) -> Profile:
    """The profile of that name, or ValueError listing the names.

    Under nbval, which cannot inject parameters into a notebook, the variable DIFFINV_PROFILE decides instead.
    """
    if ".ipynb::" in os.environ.get("PYTEST_CURRENT_TEST", ""):
        name = os.environ.get("DIFFINV_PROFILE", name)
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
