"""Diffusion Inversion: invert every real image, perturb its vectors, sample from them (section 3)."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import stream
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion
from diffinv.method.perturbation import (
    Perturbation,
    conditioning_for,
    require_partners,
    unconditional_embedding,
)
from diffinv.method.sampling import Sampling, prepare_scheduler, sample
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.synthesizers.base import Stage, check_request, describe_model, describe_settings, synthesize


@dataclass(frozen=True)
class DiffusionInversion:
    """The paper's synthesizer: a sample has the label of the image that it came from.

    Vectors are learned, and samples drawn, at `sampling.resolution`; None stands for the real images' own
    side, not for the model's. Samples are saved at the real images' side. A sample depends on the model, the
    settings, the seed, its source and its copy number and, through partners and the mean vector, on the whole
    set of real images; never on batch sizes or on how many other samples are drawn.
    """

    diffusion: FrozenDiffusion
    inversion: Inversion = field(default_factory=Inversion)
    perturbation: Perturbation = field(default_factory=Perturbation)
    sampling: Sampling = field(default_factory=Sampling)

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Invert and sample, or find in the cache; ValueError before any work that could not be used."""
        resolution = self.sampling.resolution or real.resolution
        self._check(real, images_per_real, resolution)
        store = invert(self.diffusion, real.resize(resolution), self.inversion)
        sampling = replace(self.sampling, resolution=resolution)

        def draw(sources: list[int], copies: list[int]) -> np.ndarray:
            conditioning = conditioning_for(store, sources, copies, self.perturbation, seed)
            unconditional = unconditional_embedding(
                store, self.perturbation.unconditional, self.diffusion, real.labels[sources]
            )
            streams = [stream(seed, "sample", real.ids[s], c) for s, c in zip(sources, copies, strict=True)]
            return sample(self.diffusion, conditioning, unconditional, sampling, streams)

        updates = self.inversion.steps_per_image * len(real)
        stage = Stage("inversion", store.provenance["learning_seconds"], updates)
        return synthesize(
            real, draw, self.describe(), images_per_real=images_per_real, seed=seed, stages=[stage]
        )

    def describe(self) -> dict[str, Any]:
        return {
            "synthesizer": "DiffusionInversion",
            "model": describe_model(self.diffusion),
            "inversion": describe_settings(self.inversion),
            "perturbation": describe_settings(self.perturbation),
            "sampling": describe_settings(self.sampling),
        }

    def _check(self, real: LabelledImages, images_per_real: int, resolution: int) -> None:
        check_request(real, images_per_real)
        self.diffusion.check_resolution(resolution)
        prepare_scheduler(self.diffusion, self.sampling)
        if self.perturbation.interpolation_weight > 0:
            require_partners(real.labels, real.labels, real.class_names)
