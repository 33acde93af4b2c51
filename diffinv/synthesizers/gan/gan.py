"""A class-conditional GAN trained on the real images alone: what a generator makes that saw nothing else."""

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.foundation.randomness import sample_streams
from diffinv.synthesizers.base import check_request, synthesize
from diffinv.synthesizers.gan.frozen import FrozenGAN, train_gan
from diffinv.synthesizers.gan.training import GANCollapsed, GANTraining

OnCollapse = Literal["raise", "warn"]


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
        check_fields(self)

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Train and draw, or find in the cache; GANCollapsed if the training came to nothing."""
        check_request(real, images_per_real)
        gan = self.trained(real, seed)

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
            stages=[gan.stage],
            gan=gan.provenance,
        )

    def trained(self, real: LabelledImages, seed: int) -> FrozenGAN:
        """The GAN that makes the samples of this seed; GANCollapsed, or a warning, if it came to nothing."""
        own = seed if self.training_seed is None else self.training_seed
        gan = train_gan(real, self.training, seed=own, device=self.device)
        if gan.collapsed and self.on_collapse == "raise":
            raise GANCollapsed(gan.collapsed)
        if gan.collapsed:
            warnings.warn(gan.collapsed, stacklevel=3)
        return gan

    def describe(self) -> dict[str, Any]:
        return {"synthesizer": "GAN", "training": asdict(self.training), "training_seed": self.training_seed}
