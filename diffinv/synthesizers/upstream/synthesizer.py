"""Stage 2 as upstream does it: partners, mean vectors and random streams by the group of images."""

import functools
import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from diffinv.artefacts.keys import content_key
from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import numpy_stream, sample_streams, stream
from diffinv.method.cached import groups_of
from diffinv.method.perturbation import (
    add_noise,
    interpolate,
    partners,
    require_partners,
    unconditional_embedding,
)
from diffinv.method.sampling import Sampling, prepare_scheduler, sample
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.synthesizers.base import Draw, check_request, describe_model, sample_record, synthesize
from diffinv.synthesizers.upstream.inversion import invert_as_upstream
from diffinv.synthesizers.upstream.settings import Upstream


@dataclass(frozen=True)
class UpstreamInversion:
    """`DiffusionInversion` with upstream's switches; with none of them it draws the same samples.

    With switches a sample depends on what they say: on its group of `switches.group_size` consecutive images
    (partners, mean vector), on `images_per_real` (partners), and, where the streams are shared, on all the
    samples drawn before it in its group; with a scheduler that adds noise, then on the batch size too.
    """

    diffusion: FrozenDiffusion
    settings: Upstream
    everything: LabelledImages | None = None  # with samples="all": the real images that all samples are of

    def __post_init__(self) -> None:
        if self.settings.switches.samples == "all" and self.everything is None:
            raise ValueError("samples='all' needs the whole set of real images: give it as everything.")

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Invert and sample group by group, or find in the cache; ValueError before any unusable work."""
        started, switches = time.perf_counter(), self.settings.switches
        if switches.samples == "all" and self.everything is not None:
            real = self.everything
        resolution = self.settings.sampling.resolution or real.resolution
        run = _Run(real, images_per_real, seed, resolution)
        self._check(run)
        resized = real.resize(resolution)
        store = invert_as_upstream(self.diffusion, resized, self.settings.inversion, switches)
        # The whole set is in the key of every group, for the partners and means that are not the group's.
        description = {
            **self.describe(),
            "images_per_real": images_per_real,
            "whole": content_key(real.fingerprint, list(real.ids)),
        }
        made = [
            synthesize(
                real.subset(group),
                self._draw(run, store, group, number),
                {**description, "group": number},
                images_per_real=images_per_real,
                seed=seed,
            )
            for number, group in enumerate(groups_of(len(real), switches.group_size))
        ]
        seconds = sum(
            len(part) * (part.provenance["cost"]["seconds_per_sample"] or math.nan) for part in made
        )
        record = sample_record(
            real,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            started=started,
            seconds_per_sample=seconds / (images_per_real * len(real)),
        )
        return replace(_copy_by_copy(made, images_per_real), provenance=record)

    def describe(self) -> dict[str, Any]:
        # With the batch sizes, which leave a trace under some switches; without what concerns the classifier.
        settings = asdict(self.settings)
        del settings["training"], settings["switches"]["selection"]
        whole = self.everything if self.settings.switches.samples == "all" else None
        return {
            "synthesizer": "UpstreamInversion",
            "model": describe_model(self.diffusion),
            **settings,
            "everything": None if whole is None else content_key(whole.fingerprint, list(whole.ids)),
        }

    def _draw(self, run: "_Run", store: EmbeddingStore, group: range, number: int) -> Draw:
        """Make a function that looks up samples; its first call draws the group, in upstream's order."""

        @functools.cache
        def drawn() -> UInt8[np.ndarray, "sample height width 3"]:
            sources = np.repeat(group, run.images_per_real).tolist()
            copies = np.tile(np.arange(run.images_per_real), len(group)).tolist()
            if self.settings.switches.independent_streams:
                noise, latents = (
                    sample_streams(run.seed, key, store.ids, sources, copies)
                    for key in ("embedding noise", "sample")
                )
            else:
                # Each group is a run of upstream's script: the noise of the embeddings goes on at random,
                # the generator of the latents starts from the same seed again.
                noise = [stream(run.seed, "upstream embedding noise", number)] * len(sources)
                latents = [stream(run.seed, "upstream latents")] * len(sources)
            conditioning = self._mixed(run, store, group, number, sources, copies)
            conditioning = add_noise(conditioning, self.settings.perturbation.noise_std, noise)
            unconditional = self._unconditional(store, group, sources)
            return sample(
                self.diffusion, conditioning, unconditional, self._sampling(run.resolution), latents
            )

        def look_up(sources: list[int], copies: list[int]) -> np.ndarray:
            return drawn()[np.array(sources) * run.images_per_real + np.array(copies)]

        return look_up

    def _mixed(
        self,
        run: "_Run",
        store: EmbeddingStore,
        group: range,
        number: int,
        sources: list[int],
        copies: list[int],
    ) -> Float[Tensor, "sample token channel"]:
        embeddings, weight = store.embeddings[sources], self.settings.perturbation.interpolation_weight
        if weight == 0:
            return embeddings
        if self.settings.switches.partners == "group":
            chosen = [group[row] for own in run.group_partners(group, number) for row in own]
        else:
            chosen = partners(store, sources, copies, run.seed)
        return interpolate(embeddings, store.embeddings[chosen], weight)

    def _unconditional(
        self, store: EmbeddingStore, group: range, sources: list[int]
    ) -> Float[Tensor, "one_or_sample unconditional_token channel"]:
        if self.settings.switches.unconditional == "group_mean":
            return store.embeddings[list(group)].mean(dim=0, keepdim=True)
        kind = self.settings.perturbation.unconditional
        return unconditional_embedding(store, kind, self.diffusion, store.labels[sources])

    def _sampling(self, resolution: int) -> Sampling:
        sampling = replace(self.settings.sampling, resolution=resolution)
        if self.settings.switches.on_unused_eta == "ignore":
            scheduler = prepare_scheduler(self.diffusion, replace(sampling, eta=0.0))
            if "eta" not in inspect.signature(scheduler.step).parameters:
                return replace(sampling, eta=0.0)
        return sampling

    def _check(self, run: "_Run") -> None:
        check_request(run.real, run.images_per_real)
        self.diffusion.check_resolution(run.resolution)
        prepare_scheduler(self.diffusion, self._sampling(run.resolution))
        switches = self.settings.switches
        if self.settings.perturbation.interpolation_weight == 0:
            return
        if switches.partners == "classmates":
            require_partners(run.real.labels, run.real.labels, run.real.class_names)
            return
        for number, group in enumerate(groups_of(len(run.real), switches.group_size)):
            run.group_partners(group, number)


def _copy_by_copy(groups: Sequence[LabelledImages], images_per_real: int) -> LabelledImages:
    """Join the samples of the groups in the order of every other synthesizer: by copy, then by image."""
    counts = [len(group) // images_per_real for group in groups]
    copies = np.concatenate([np.repeat(np.arange(images_per_real), count) for count in counts])
    return LabelledImages.concatenate(*groups).subset(np.argsort(copies, kind="stable"))


@dataclass(frozen=True)
class _Run:
    """What was asked for in one call."""

    real: LabelledImages
    images_per_real: int
    seed: int
    resolution: int

    def group_partners(self, group: range, number: int) -> list[list[int]]:
        labels = self.real.labels[list(group)].tolist()
        generator = numpy_stream(self.seed, "upstream partners", number)
        return group_partners(labels, self.images_per_real, generator)


def group_partners(
    labels: Sequence[int], images_per_real: int, generator: np.random.Generator
) -> list[list[int]]:
    """Draw the partners of each image's samples from its group by upstream's rule, as rows of the group.

    The partners of one image are distinct. Where its class has enough others, they are drawn from the class,
    itself included; where it has not, they are all the others of the class, then images of other classes.
    ValueError where the group has too few of these.
    """
    rows = np.arange(len(labels))
    chosen = []
    for row, label in enumerate(labels):
        same = np.asarray(labels) == label
        others = rows[same & (rows != row)].tolist()
        if len(others) >= images_per_real:
            chosen.append(generator.choice(rows[same], images_per_real, replace=False).tolist())
            continue
        missing = images_per_real - len(others)
        if missing > np.count_nonzero(~same):
            raise ValueError(
                f"a group of {len(labels)} images has no {images_per_real} distinct partners for its image "
                f"{row}: make images_per_real smaller or group_size larger."
            )
        chosen.append([*others, *generator.choice(rows[~same], missing, replace=False).tolist()])
    return chosen
