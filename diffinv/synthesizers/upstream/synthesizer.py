"""Stage 2 as upstream does it: partners, mean vectors and random streams by the group of images."""

import functools
import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffinv.artefacts.keys import content_key, described
from diffinv.artefacts.parts import groups_of
from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import numpy_stream, sample_streams, stream
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
        check_request(real, images_per_real)
        run = _Run(self.diffusion, self.settings, real, images_per_real, seed)
        run.check()
        resized = real.resize(run.sampling.resolution or real.resolution)
        store = invert_as_upstream(self.diffusion, resized, self.settings.inversion, switches)
        # The whole set is in the key of every group, for the partners and means that are not the group's.
        whole = content_key(real.fingerprint, list(real.ids))
        description = {**self.describe(), "images_per_real": images_per_real, "whole": whole}
        made = [
            synthesize(
                real.subset(group),
                run.draw(store, number),
                {**description, "group": number},
                images_per_real=images_per_real,
                seed=seed,
            )
            for number, group in enumerate(run.groups)
        ]
        seconds = [part.provenance["cost"]["seconds_per_sample"] for part in made]
        record = sample_record(
            real,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            started=started,
            seconds_per_sample=float(np.average(seconds, weights=[len(part) for part in made])),
        )
        # By copy, then by image: the order of every other synthesizer.
        copies = np.concatenate([np.repeat(np.arange(images_per_real), len(group)) for group in run.groups])
        ordered = LabelledImages.concatenate(*made).subset(np.argsort(copies, kind="stable"))
        return replace(ordered, provenance=record)

    def describe(self) -> dict[str, Any]:
        # With the batch sizes, which leave a trace under some switches; without what concerns the classifier.
        settings = described(self.settings)
        del settings["training"], settings["switches"]["selection"]
        whole = self.everything if self.settings.switches.samples == "all" else None
        return {
            "synthesizer": "UpstreamInversion",
            "model": describe_model(self.diffusion),
            **settings,
            "everything": None if whole is None else content_key(whole.fingerprint, list(whole.ids)),
        }


@dataclass(frozen=True)
class _Run:
    """One call: what was asked for, and how each group of it is drawn."""

    diffusion: FrozenDiffusion
    settings: Upstream
    real: LabelledImages
    images_per_real: int
    seed: int

    @property
    def groups(self) -> list[range]:
        return groups_of(len(self.real), self.settings.switches.group_size)

    @property
    def sampling(self) -> Sampling:
        """With the real images' side, and without an eta that is ignored."""
        asked = self.settings.sampling
        sampling = replace(asked, resolution=asked.resolution or self.real.resolution)
        if self.settings.switches.on_unused_eta == "ignore":
            without = replace(sampling, eta=0.0)
            if "eta" not in inspect.signature(prepare_scheduler(self.diffusion, without).step).parameters:
                return without
        return sampling

    def check(self) -> None:
        """ValueError where a sample could not be drawn, or would have no partner."""
        self.diffusion.check_resolution(self.settings.sampling.resolution or self.real.resolution)
        prepare_scheduler(self.diffusion, self.sampling)
        if self.settings.perturbation.interpolation_weight == 0:
            return
        if self.settings.switches.partners == "classmates":
            require_partners(self.real.labels, self.real.labels, self.real.class_names)
            return
        for number in range(len(self.groups)):
            self.partners_in_group(number)

    def partners_in_group(self, number: int) -> list[int]:
        """The partner of every sample of a group, as rows of the whole set."""
        group, generator = self.groups[number], numpy_stream(self.seed, "upstream partners", number)
        drawn = group_partners(self.real.labels[list(group)].tolist(), self.images_per_real, generator)
        return [group[row] for own in drawn for row in own]

    def draw(self, store: EmbeddingStore, number: int) -> Draw:
        """Make a function that looks up samples; its first call draws the group, in upstream's order."""
        drawn = functools.cache(lambda: self._draw_group(store, number))

        def look_up(sources: list[int], copies: list[int]) -> np.ndarray:
            return drawn()[np.array(sources) * self.images_per_real + np.array(copies)]

        return look_up

    def _draw_group(self, store: EmbeddingStore, number: int) -> UInt8[np.ndarray, "sample height width 3"]:
        switches, perturbation = self.settings.switches, self.settings.perturbation
        group = self.groups[number]
        sources = np.repeat(group, self.images_per_real).tolist()  # by image, then by copy
        copies = np.tile(np.arange(self.images_per_real), len(group)).tolist()
        if switches.independent_streams:
            keys = ("embedding noise", "sample")
            noise, latents = (sample_streams(self.seed, key, store.ids, sources, copies) for key in keys)
        else:
            # Each group is a run of upstream's script: the noise of the embeddings goes on at random,
            # the generator of the latents starts from the same seed again.
            noise = [stream(self.seed, "upstream embedding noise", number)] * len(sources)
            latents = [stream(self.seed, "upstream latents")] * len(sources)
        conditioning, weight = store.embeddings[sources], perturbation.interpolation_weight
        if weight > 0:
            if switches.partners == "group":
                chosen = self.partners_in_group(number)
            else:
                chosen = partners(store, sources, copies, self.seed)
            conditioning = interpolate(conditioning, store.embeddings[chosen], weight)
        conditioning = add_noise(conditioning, perturbation.noise_std, noise)
        if switches.unconditional == "group_mean":
            unconditional = store.embeddings[list(group)].mean(dim=0, keepdim=True)
        else:
            kind = perturbation.unconditional
            unconditional = unconditional_embedding(store, kind, self.diffusion, store.labels[sources])
        return sample(self.diffusion, conditioning, unconditional, self.sampling, latents)


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
