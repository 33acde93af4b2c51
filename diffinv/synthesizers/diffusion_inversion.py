"""Diffusion Inversion: invert every real image, perturb its vectors, sample from them (section 3)."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diffinv.artefacts.engine import Engine, on_engine, using
from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import sample_streams
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion
from diffinv.method.perturbation import (
    Perturbation,
    conditioning_for,
    require_partners,
    unconditional_embedding,
)
from diffinv.method.sampling import Sampling, prepare_scheduler, sample
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.synthesizers.base import (
    Originals,
    Stage,
    check_request,
    describe_model,
    describe_settings,
    synthesize,
)


@dataclass(frozen=True)
class DiffusionInversion:
    """The paper's synthesizer: a sample has the label of the image that it came from.

    Vectors are learned, and samples drawn, at `sampling.resolution`; None stands for the real images' own
    side. Samples are saved at the real images' side. A sample depends on the model, the settings, the seed,
    its source and its copy number and, through partners and the mean vector, on the whole set of real images;
    never on batch sizes or on how many other samples are drawn.
    """

    diffusion: FrozenDiffusion
    inversion: Inversion = field(default_factory=Inversion)
    perturbation: Perturbation = field(default_factory=Perturbation)
    sampling: Sampling = field(default_factory=Sampling)
    store: EmbeddingStore | None = None  # vectors learned before, see `from_store`; None = learn them

    @classmethod
    def from_store(
        cls,
        diffusion: FrozenDiffusion,
        store: EmbeddingStore,
        perturbation: Perturbation | None = None,
        sampling: Sampling | None = None,
    ) -> "DiffusionInversion":
        """Stage 2 alone, from vectors that were learned before: it is called without the real images.

        Samples are drawn at the side at which the vectors were learned, for which they are meant. They are
        those of the whole method, for the same real images, settings and seed. ValueError unless the vectors
        were learned for this very checkpoint.
        """
        sampling = replace(sampling or Sampling(), resolution=store.provenance.get("resolution"))
        return cls(diffusion, perturbation=perturbation or Perturbation(), sampling=sampling, store=store)

    def __post_init__(self) -> None:
        if self.store is not None:
            self.store.check_matches(self.diffusion)
            if self.sampling.resolution != self.store.resolution:
                raise ValueError(f"the store's vectors are for {self.store.resolution} px: use from_store.")

    def __call__(
        self,
        real: LabelledImages | None = None,
        *,
        images_per_real: int = 1,
        seed: int = 0,
        engine: Engine | str | None = None,
    ) -> LabelledImages:
        """Invert and sample, or find in the cache; ValueError before any work that could not be used.

        Real images are given unless there is a store; beside a store they choose whose vectors are used. An
        `engine` shares both stages among its workers (`artefacts.engine`).
        """
        originals: Originals | None = self.store if real is None else real
        if originals is None:
            raise ValueError("there are no real images to invert; give them, or use from_store.")
        if real is None and self.sampling.strength < 1:
            raise ValueError(f"strength is {self.sampling.strength} and needs the real images: give them.")
        self.check(originals, images_per_real)
        with using(engine):
            store = self._vectors(real)
            return on_engine(None, _drawn, self, originals, store, images_per_real, seed)

    def check(self, real: Originals, images_per_real: int) -> None:
        """Refuse, as a call does, what could not be carried out; nothing is learned or drawn."""
        check_request(real, images_per_real)
        prepare_scheduler(self.diffusion, self.sampling)
        if self.store is None:
            assert isinstance(real, LabelledImages)
            self.diffusion.check_resolution(self.sampling.resolution or real.resolution)
        if self.perturbation.interpolation_weight > 0:
            labels = np.asarray(real.labels)
            require_partners(labels, labels, real.class_names)

    def _vectors(self, real: LabelledImages | None) -> EmbeddingStore:
        if self.store is not None:
            return self.store if real is None else self.store.of(real)
        assert real is not None, "refused before"
        resized = real.resize(self.sampling.resolution or real.resolution)
        return invert(self.diffusion, resized, self.inversion)

    def describe(self) -> dict[str, Any]:
        learned: dict[str, Any] = {"inversion": describe_settings(self.inversion)}
        if self.store is not None:
            learned = {"vectors": [self.store.fingerprint, list(self.store.ids)]}
        return {
            "synthesizer": "DiffusionInversion",
            "model": describe_model(self.diffusion),
            **learned,
            "perturbation": describe_settings(self.perturbation),
            "sampling": describe_settings(self.sampling),
        }


def _drawn(
    recipe: DiffusionInversion, originals: Originals, store: EmbeddingStore, images_per_real: int, seed: int
) -> LabelledImages:
    perturbation, sampling = recipe.perturbation, replace(recipe.sampling, resolution=store.resolution)
    updates = store.provenance["settings"]["steps_per_image"] * len(store)
    stages = [Stage("inversion", store.provenance.get("learning_seconds"), updates)]
    noised = None
    if sampling.strength < 1:
        assert isinstance(originals, LabelledImages)
        noised = originals.resize(store.resolution)

    def draw(sources: list[int], copies: list[int]) -> np.ndarray:
        kind, labels = perturbation.unconditional, store.labels[sources]
        conditioning = conditioning_for(store, sources, copies, perturbation, seed)
        unconditional = unconditional_embedding(store, kind, recipe.diffusion, labels)
        streams = sample_streams(seed, "sample", store.ids, sources, copies)
        latents = None if noised is None else recipe.diffusion.latent_moments(noised.images[sources])[0]
        return sample(recipe.diffusion, conditioning, unconditional, sampling, streams, latents)

    request = {"images_per_real": images_per_real, "seed": seed}
    return synthesize(originals, draw, recipe.describe(), **request, stages=stages)
