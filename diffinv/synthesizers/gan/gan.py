"""A class-conditional GAN trained on the real images alone: what a generator makes that saw nothing else."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import sample_streams
from diffinv.synthesizers.base import Stage, check_request, synthesize
from diffinv.synthesizers.gan.frozen import FrozenGAN, OnCollapse, check_on_collapse, train_gan
from diffinv.synthesizers.gan.training import GANTraining


@dataclass(frozen=True)
class GAN:
    """Draws samples of each real image's class from a GAN trained on the real images (figure 5).

    The seed decides the training as well as the samples, so that the spread over seeds is that of the method;
    with a `training_seed` one GAN makes the samples of all seeds. The real images give the labels and the
    number of samples: a sample's `source` is the one that it stands in for.
    """

    training: GANTraining = field(default_factory=GANTraining)
    on_collapse: OnCollapse = "raise"  # or "warn", with the sentence in the provenance
    training_seed: int | None = None  # None = the samples' own
    device: str | None = None  # None = the fastest one found

    def __post_init__(self) -> None:
        check_on_collapse(self.on_collapse)

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Train and draw, or find in the cache; GANCollapsed if the training came to nothing."""
        check_request(real, images_per_real)
        gan = train_gan(real, self.training, seed=resolve_seed(self.training_seed, seed), device=self.device)
        gan.require_success(self.on_collapse)

        def draw(sources: list[int], copies: list[int]) -> np.ndarray:
            streams = sample_streams(seed, "gan sample", real.ids, sources, copies)
            latents = [torch.randn(gan.generator.latent_dim, generator=own) for own in streams]
            return gan.images(gan.codes(torch.stack(latents), real.labels[sources]))

        return synthesize(
            real,
            draw,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            stages=[training_stage(gan)],
            gan=gan.provenance,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "synthesizer": "GAN",
            "training": asdict(self.training),
            "training_seed": self.training_seed,
        }


def resolve_seed(training_seed: int | None, seed: int) -> int:
    """The seed that a GAN is trained with, given that of the samples."""
    return seed if training_seed is None else training_seed


def training_stage(gan: FrozenGAN) -> Stage:
    """What the training cost: the discriminator sees a batch of images, the generator makes one."""
    settings = gan.provenance["settings"]
    updates = settings["optimiser_steps"] * (settings["discriminator_updates"] + 1) * settings["batch_size"]
    return Stage("GAN training", gan.provenance["training_seconds"], updates)
