"""GAN inversion: codes that reproduce each real image under a GAN trained on them, then varied (figure 5)."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.method.perturbation import Perturbation, conditioning_for, require_partners
from diffinv.synthesizers.base import Stage, check_request, describe_settings, synthesize
from diffinv.synthesizers.gan.gan import GAN, OnCollapse
from diffinv.synthesizers.gan.latent_inversion import LatentInversion, invert_latents, render
from diffinv.synthesizers.gan.training import GANTraining


@dataclass(frozen=True)
class GANInversion:
    """Inverts every real image into the GAN that was trained on them, and varies its codes.

    The GAN is that of `GAN` with the same training and seed, which is also that of the inversion.
    A sample depends on it, the settings, the seed, its source, its copy number and, through its partner, on
    the other images of its class.
    """

    training: GANTraining = field(default_factory=GANTraining)
    inversion: LatentInversion = field(default_factory=LatentInversion)
    noise_std: float = 0.3  # of the noise on the codes, whose prior has a deviation of about 1; 0 = none
    interpolation_weight: float = 0.1  # of the same-class partner; 0 = the image itself
    on_collapse: OnCollapse = "raise"  # or "warn", with the sentence in the provenance
    training_seed: int | None = None  # None = the samples' own
    device: str | None = None  # None = the fastest one found

    def __post_init__(self) -> None:
        check_fields(self, at_least={"noise_std": 0}, between={"interpolation_weight": (0, 1)})

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Train, invert and draw, or find in the cache; ValueError before any work that could not be used."""
        check_request(real, images_per_real)
        if self.interpolation_weight > 0:
            require_partners(real.labels, real.labels, real.class_names)
        gan = GAN(self.training, self.on_collapse, self.training_seed, self.device).trained(real, seed)
        store = invert_latents(gan, real, self.inversion, seed=gan.provenance["seed"])
        perturbation = Perturbation(self.noise_std, self.interpolation_weight)

        def draw(sources: list[int], copies: list[int]) -> np.ndarray:
            codes = conditioning_for(store, sources, copies, perturbation, seed)
            return render(gan, codes, real.labels[sources], self.inversion.space)

        updates = self.inversion.steps_per_image * len(real)
        inversion = Stage("latent inversion", store.provenance["learning_seconds"], updates)
        return synthesize(
            real,
            draw,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            stages=[gan.stage, inversion],
            gan=gan.provenance,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "synthesizer": "GANInversion",
            "training": asdict(self.training),
            "inversion": describe_settings(self.inversion),
            "noise_std": self.noise_std,
            "interpolation_weight": self.interpolation_weight,
            "training_seed": self.training_seed,
        }
