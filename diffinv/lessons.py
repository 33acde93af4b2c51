"""How much each notebook does at one scale: images, copies, grids; `profiles` picks the values."""

from __future__ import annotations

from dataclasses import dataclass


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
    tokens_grid: tuple[int, ...] = (1, 2, 4, 8)
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


@dataclass(frozen=True)
class ClassifierLesson:
    """Counts of 03_classifier_training."""

    number_real_per_class: int = 8  # real images a class while the number of samples grows
    images_per_real_grid: tuple[int, ...] = (1, 2, 4)
    real_per_class_grid: tuple[int, ...] = (2, 4, 8)
    images_per_real: int = 4  # samples a real image while the number of real images grows


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
