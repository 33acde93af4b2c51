"""Real images through the autoencoder and back: what every sample of the generator loses (table 1)."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.foundation.randomness import sample_streams
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.synthesizers.base import check_request, describe_model, synthesize

Posterior = Literal["mean", "sample"]


@dataclass(frozen=True)
class Autoencode:
    """Encodes and decodes every real image at a resolution, and saves it at its own side.

    Resolution None is the real images' own side. The U-Net and the text encoder are not used.
    """

    diffusion: FrozenDiffusion
    resolution: int | None = None
    posterior: Posterior = "mean"  # of the latents given the image, or a draw from it, as inversion sees them
    batch_size: int = 64  # changes the speed, not the images

    def __post_init__(self) -> None:
        check_fields(self, counts=("batch_size",))
        if self.resolution is not None:
            self._check_resolution(self.resolution)

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Encode and decode, or find in the cache; ValueError for copies that would all be the same."""
        check_request(real, images_per_real)
        if self.posterior == "mean" and images_per_real > 1:
            raise ValueError(
                f"images_per_real is {images_per_real} but the posterior's mean gives the same image each "
                "time: choose 1, or posterior='sample'."
            )
        resolution = self.resolution or real.resolution
        self._check_resolution(resolution)

        def draw(sources: list[int], copies: list[int]) -> np.ndarray:
            # A shard may hold several copies of an image, which is resized and encoded once.
            rows, places = np.unique(sources, return_inverse=True)
            images = real.subset(rows).resize(resolution).images
            mean, std = self.diffusion.latent_moments(images, batch_size=self.batch_size)
            latents = mean[places]
            if self.posterior == "sample":
                streams = sample_streams(seed, "autoencode", real.ids, sources, copies)
                noise = [torch.randn(latents.shape[1:], generator=own) for own in streams]
                latents = latents + std[places] * torch.stack(noise)
            return self.diffusion.decode(latents, batch_size=self.batch_size)

        # The mean is the same for every seed, and so is made once for all of them.
        seed = seed if self.posterior == "sample" else 0
        return synthesize(real, draw, self.describe(), images_per_real=images_per_real, seed=seed)

    def describe(self) -> dict[str, Any]:
        return {
            "synthesizer": "Autoencode",
            "model": describe_model(self.diffusion),
            "resolution": self.resolution,
            "posterior": self.posterior,
        }

    def _check_resolution(self, resolution: int) -> None:
        # Less strict than the model's own check: only the autoencoder has to take the images.
        multiple = self.diffusion.downsampling_factor
        if resolution < 1 or resolution % multiple:
            raise ValueError(
                f"resolution {resolution} does not suit the autoencoder of {self.diffusion.name!r}: choose a "
                f"multiple of {multiple}, for instance {multiple * max(1, -(-resolution // multiple))}."
            )
