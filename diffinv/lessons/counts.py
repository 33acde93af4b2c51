"""How much each notebook does at one scale: images, copies, grids; `profiles` picks the values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from diffinv.classifiers.policies import Policy
from diffinv.foundation.checks import check_fields
from diffinv.studies.augmentation import POLICIES
from diffinv.synthesizers.gan.latent_inversion import LatentInversion
from diffinv.synthesizers.gan.training import GANTraining


@dataclass(frozen=True)
class Quickstart:
    """Counts of 00_quickstart."""

    real_per_class: int = 8
    images_per_real: int = 5


@dataclass(frozen=True)
class InversionLesson:
    """Counts of 01_inversion."""

    num_images: int = 8
    updates_grid: tuple[int, ...] = (50, 100, 200, 400)
    tokens_grid: tuple[int, ...] = (1, 2, 4, 8, 16)
    loss_every: int = 10  # updates between two points of the loss curve
    held_out_draws: int = 16  # noises and timesteps behind each point of held-out loss


@dataclass(frozen=True)
class SamplingLesson:
    """Counts of 02_sampling_diversity."""

    real_per_class: int = 8
    gallery_rows: int = 6
    gallery_copies: int = 5
    interpolated_pairs: int = 4
    interpolation_weights: tuple[float, ...] = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1)
    guidance_grid: tuple[float, ...] = (1, 1.5, 2, 4, 8)
    noise_grid: tuple[float, ...] = (0, 0.1, 0.2, 0.4, 0.8)
    weight_grid: tuple[float, ...] = (0, 0.1, 0.2, 0.3, 0.5)
    sweep_originals: int = 20
    sweep_copies: int = 4

    @property
    def sweep_samples(self) -> int:
        """Samples of all sweeps together."""
        values = len(self.guidance_grid) + len(self.noise_grid) + len(self.weight_grid)
        return values * self.sweep_originals * self.sweep_copies


@dataclass(frozen=True)
class ClassifierLesson:
    """Counts of 03_classifier_training."""

    pool_per_class: int = 24  # real images per class that are inverted; each seed takes its own among them
    number_real_per_class: int = 8  # of them, while the number of samples grows
    images_per_real_grid: tuple[int, ...] = (1, 4, 16)
    real_per_class_grid: tuple[int, ...] = (2, 4, 8, 16)
    images_per_real: int = 16  # samples per real image, while the number of real images grows
    real_alone_grid: tuple[int, ...] = (32, 60)  # more real images per class, without samples
    further_datasets: tuple[str, ...] = ("emoji6",)  # in the figure that asks when samples pay

    def within(self, most: int) -> "ClassifierLesson":
        """The same with no more real images per class than there are."""
        sizes = tuple(size for size in self.real_per_class_grid if size <= most) or (most,)
        fixed = min(self.number_real_per_class, most)
        return replace(self, number_real_per_class=fixed, real_per_class_grid=sizes)

    @property
    def samples_per_class(self) -> int:
        """Samples per class that both studies draw for each seed; fewer per real image are among more."""
        most = dict(sorted(self._points))  # the last, and so the largest, of each number of real images
        return sum(real * images_per_real for real, images_per_real in most.items())

    @property
    def classifiers_per_seed(self) -> int:
        """Classifiers of both studies: on real images, on samples (of one size), on both; each once."""
        real = {self.number_real_per_class, *self.real_per_class_grid, *self.real_alone_grid}
        return len(real) + len(self.images_per_real_grid) + len(self._points)

    @property
    def _points(self) -> set[tuple[int, int]]:
        by_number = {(self.number_real_per_class, number) for number in self.images_per_real_grid}
        return by_number | {(real, self.images_per_real) for real in self.real_per_class_grid}


@dataclass(frozen=True)
class GeneratorLesson:
    """Counts of 04_generator_quality, and the settings of its generators but DI."""

    real_per_class: int = 8
    images_per_real: int = 4
    gan: GANTraining = field(default_factory=GANTraining)
    gan_rate: float = 4e-4  # learning rate of both networks
    latent_inversion: LatentInversion = field(default_factory=LatentInversion)
    code_noise: float = 0.3  # standard deviation, of GAN inversion's codes
    code_weight: float = 0.1  # of a same-class partner in them
    collapse_steps: int = 40  # of a GAN that is made to collapse
    collapse_rate: float = 3.0  # of its generator: some thousand times too high
    gallery_classes: int = 8
    autoencoding_grid: tuple[int, ...] = (32, 64)  # sides of the images
    autoencoded_per_class: int = 60  # real images, or as many as there are


@dataclass(frozen=True)
class LECFLesson:
    """Counts of 05_lecf_comparison, and the settings of LECF."""

    real_per_class: int = 8
    images_per_real_grid: tuple[int, ...] = (1, 2, 4)
    guidance_scale: float = 3.0
    threshold: float = 0.5  # of CLIP's confidence; 0 = no filter
    max_draws_factor: float = 2  # draws of a class, in samples that it needs
    sentence_model: str = ""  # a word-to-sentence T5's hub id or folder; empty = a grammar of TinySD's words
    reference_per_class: int = 60  # real images that fidelity is measured against
    gallery_rows: int = 6
    gallery_copies: int = 2


@dataclass(frozen=True)
class RetrievalLesson:
    """Counts of 06_knn_retrieval, and the settings of retrieval."""

    real_per_class: int = 8
    images_per_real: int = 4
    k: int = 25  # neighbours that are drawn from
    neighbours_grid: tuple[int, ...] = (10, 25, 50)  # the paper's k, all of them shown
    pool: str = "icons_pool"  # or a folder of images, or a dataset, whose training split is taken
    gallery_rows: int = 4
    gallery_neighbours: int = 5
    gallery_copies: int = 3


@dataclass(frozen=True)
class FewShotLesson:
    """Counts of 07_few_shot."""

    shots: tuple[int, ...] = (1, 2, 4, 8, 16)  # real images per class
    images_per_real: int = 4
    left_out: tuple[str, ...] = ()  # datasets of the profile for which there is no time


@dataclass(frozen=True)
class AugmentationLesson:
    """Counts of 09_augmentation."""

    real_per_class: int = 8
    images_per_real: int = 4
    policies: tuple[Policy, ...] = POLICIES
    with_samples: tuple[Policy, ...] = POLICIES  # and the best, whichever it is
    validation_seeds: int = 2  # of the profile's, that choose the best policy, as in the search for settings
    best_alone: tuple[str, ...] = ()  # datasets that have crops alone and the best, and no other policy
    gallery_columns: int = 12


@dataclass(frozen=True)
class ArchitectureLesson:
    """Counts of 08_architectures; the real images are those of lesson 03."""

    architectures: tuple[str, ...] = (
        "resnet8_narrow",
        "vgg_narrow",
        "mobilenetv2_narrow",
        "shufflenetv2_narrow",
        "efficientnet_narrow",
        "vit_narrow",
    )
    pretrained: str = "frozen hf:tinysd"  # the embedded CLIP's image half; its head alone learns
    datasets: tuple[str, ...] = ("icons10", "novel10", "mnist5k")
    two_alone: tuple[str, ...] = ()  # datasets that have the first architecture and the pretrained one alone
    images_per_real: int = 16


@dataclass(frozen=True)
class StorageLesson:
    """Counts of 12_storage; the real images are those of lesson 03."""

    dataset: str = "mnist5k"  # of codecs and samplers: most test images, and so the narrowest intervals
    codecs: tuple[str, ...] = ("float32", "float16", "int8", "int3", "pca40", "pq32")
    tokens_dataset: str = "icons10"  # of fewer tokens, which are learned anew: fewest updates
    tokens: int = 4
    tokens_codec: str = "int8"
    images_per_real: int = 4
    # Upstream's way comes first: scheduler, steps, guidance scale.
    samplers: tuple[tuple[str, int, float], ...] = (
        ("DDIMScheduler", 100, 2.0),
        ("DPMSolverMultistepScheduler", 20, 2.0),
        ("DDIMScheduler", 10, 1.0),
        ("DPMSolverMultistepScheduler", 5, 1.0),
        ("DPMSolverMultistepScheduler", 3, 1.0),
        ("UniPCMultistepScheduler", 5, 1.0),
        ("EulerAncestralDiscreteScheduler", 10, 1.0),
    )
    sampler_images_per_real: int = 1  # 100 guided steps of each cost most of the lesson


@dataclass(frozen=True)
class AblationsLesson:
    """Counts of 10_ablations; the values that each setting takes."""

    real_per_class: int = 8
    images_per_real: int = 4  # of every comparison but those of Fig. 8c and 8d
    # Of these grids a figure also has the dataset's own value.
    updates_grid: tuple[int, ...] = (10,)
    guidance_grid: tuple[float, ...] = (1.0, 2.0, 4.0)
    guidance_scale: float = 2.0  # where the unconditional vector is compared: it needs guidance
    inference_steps_grid: tuple[int, ...] = (6,)
    # At the native side, where all costs several times as much. After 10 updates, no sample teaches anything.
    native_updates: int = 50
    native_images_per_real: int = 4
    native_inference_steps: int = 3  # 0 = nothing is compared there
    number_grid: tuple[int, ...] = (1, 4)  # samples per real image
    noise_grid: tuple[float, ...] = (0.4,)
    weight_grid: tuple[float, ...] = (0, 0.3)
    share_grid: tuple[float, ...] = (0.25, 0.5)
    tokens_grid: tuple[int, ...] = (4, 16)
    initialisations: tuple[str, ...] = ("class_prompt", "normal")
    prompt_steps: int = 0  # updates of vectors that start from the class's prompt; 0 = as many as all others
    guidance_intervals: tuple[tuple[float, float], ...] = ((0.25, 0.75),)  # shares of the timesteps
    strength_grid: tuple[float, ...] = (0.4, 0.7)  # 1 = from noise alone; 0.3 of 3 steps would be none
    split_batch_norm: bool = True
    drawn: int = 16  # samples per real image among which CLIP chooses; 0 = it does not
    hard_share: float = 0.375  # of each class: those that a classifier has not learned early; 0 = not tried
    early_steps: int = 30
    confirmed: int = 4  # of the largest effects, on a second dataset


@dataclass(frozen=True)
class RuntimeLesson:
    """Counts of 11_runtime."""

    images_at_once: int = 16
    repeats: int = 9
    large_network: str = "sd-v1"  # with random weights, one prediction of which is timed too; "" for none
    large_repeats: int = 1
    counted_sides: tuple[int, ...] = (128, 256, 512)  # of Stable Diffusion, by its shapes alone


@dataclass(frozen=True)
class OwnDataLesson:
    """Counts of `augment`, and of 14_your_own_data, which calls it on a small folder."""

    images_per_real: int = 4
    num_folds: int = 5
    repetitions: int = 2  # of the cross-validation, each with other folds
    # The values of each setting that are tried on validation images, the cheapest first.
    search_grid: Mapping[str, tuple[Any, ...]] = field(
        default_factory=lambda: {
            "inversion.steps_per_image": (50, 200),
            "inversion.initialisation": ("normal", "class_prompt"),
            "sampling.guidance_scale": (1, 2),
        }
    )
    policies: tuple[Policy, ...] = ("none", "randaugment")  # augmentations of the real images, tried likewise
    probe_images: int = 12  # on which the model is tried before the work
    probe_updates: int = 50
    probe_samples: int = 2  # of each of them
    lesson_steps: int = 120  # optimiser steps of the lesson's classifiers
    lesson_per_class: int = 12  # images of each class in the folder that it writes; of one class half

    def __post_init__(self) -> None:
        # With two folds, a class of as many images has one to train on, which has no partner.
        check_fields(self, counts=("images_per_real", "repetitions"), at_least={"num_folds": 3})


@dataclass(frozen=True)
class PretrainingLesson:
    """Counts of 90_pretrain_tinysd, which shows the embedded generator whatever the profile."""

    shown_concepts: int = 30
    shown_captions: int = 8  # in each of two columns
    shown_images: int = 6
    trajectory_prompts: int = 3
    trajectory_columns: int = 8
    guidance_grid: tuple[float, ...] = (1, 2, 4, 8)
    guidance_rows: int = 6
    composed_colours: int = 6
    composed_concepts: int = 8
    inference_steps: int = 20
    train_minutes: float = 0.0  # of training, where the notebook's own parameter says nothing
