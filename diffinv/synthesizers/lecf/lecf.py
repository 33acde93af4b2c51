"""LECF: sentences about each class, images of the sentences, and a CLIP filter (arXiv 2210.07574)."""

import math
import time
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.parts import groups_of
from diffinv.artefacts.writing import read_json, write_atomically, write_json
from diffinv.datasets import LabelledImages
from diffinv.datasets.catalogue import Depiction
from diffinv.datasets.decoding import resize_images
from diffinv.foundation.checks import check_fields
from diffinv.foundation.progress import progress
from diffinv.foundation.randomness import stream
from diffinv.method.sampling import Sampling, prepare_scheduler, sample
from diffinv.models.clip import FrozenClip
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.synthesizers.base import (
    SAMPLES_PER_SHARD,
    check_request,
    describe_model,
    describe_sampling,
    labelled,
    numbered,
    sample_record,
)
from diffinv.synthesizers.lecf.filter import FilterError, Selection, draws_lacking, keeps_nothing, select
from diffinv.synthesizers.lecf.sentences import AttributeGrammar, Sentences, spoken
from diffinv.synthesizers.prompts import check_template

BLOCK_SIZE = 16  # samples of one class that are drawn, and found on disk, together
RECIPE = 1  # part of every cache key: to be raised when the same settings would give other images


@dataclass(frozen=True)
class LECF:
    """Language enhancement and CLIP filtering: text-to-image samples that CLIP takes for their class.

    A sample is kept when CLIP gives its class at least `threshold` of the probability over all classes. Draws
    go on until every class has as many samples as the other methods make for it; after `max_draws_factor`
    times that number, the rejected ones of which CLIP is surest fill the rest, and the provenance says how
    many. A class of which nothing passes is a FilterError. The real images give only the classes, the numbers
    and the side at which samples are saved.

    A draw depends on the models, the sentences, the seed, its class and its number alone. All draws are
    cached, rejected ones too, whatever the threshold: another threshold draws only what is then missing.
    """

    diffusion: FrozenDiffusion
    clip: FrozenClip
    sentences: Sentences = field(default_factory=AttributeGrammar)
    sampling: Sampling = field(default_factory=Sampling)
    threshold: float = 0.5
    class_prompt: str = "a {} icon"  # what CLIP compares with; {} as in Prompts
    sentences_per_class: int = 200
    max_draws_factor: float = 4

    def __post_init__(self) -> None:
        check_fields(self, counts=("sentences_per_class", "max_draws_factor"), between={"threshold": (0, 1)})
        check_template("class_prompt", self.class_prompt)

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Draw and filter, or find in the cache; a sample's `source` is the image that it stands in for."""
        self._check(real, images_per_real)
        started = time.perf_counter()
        draws = _Draws(self, real, seed)
        needs = images_per_real * np.bincount(real.labels, minlength=real.num_classes)
        selections = self._select(draws, needs.tolist())
        sources, copies = numbered(len(real), images_per_real)
        labels = real.labels[sources]
        # The n-th sample of a class stands in for its n-th real image, copy by copy.
        numbers = np.empty(len(sources), np.int64)
        for label, selection in enumerate(selections):
            numbers[labels == label] = selection.chosen
        by_class = list(zip(real.class_names, selections, strict=True))
        record = sample_record(
            real,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            started=started,
            # With those that the filter dropped, and with the sentences of both.
            seconds_per_sample=draws.seconds / len(sources),
            # For each class: samples looked at, those that the filter dropped, and those used nevertheless.
            drawn={name: each.drawn for name, each in by_class},
            dropped={name: each.drawn - each.passed for name, each in by_class},
            used_below_threshold={name: len(each.chosen) - each.passed for name, each in by_class},
        )
        return labelled(real, draws.images(labels, numbers), sources, copies, record)

    def describe(self) -> dict[str, Any]:
        kept = {"threshold": self.threshold, "max_draws_factor": self.max_draws_factor}
        return {**self.describe_draws(), **kept}

    def describe_draws(self) -> dict[str, Any]:
        """List what a draw depends on besides its class, its number and the seed: all but the filter."""
        return {
            "synthesizer": "LECF",
            "recipe": RECIPE,
            "model": describe_model(self.diffusion),
            "clip": self.clip.fingerprint,
            "sentences": self.sentences.describe(),
            "sentences_per_class": self.sentences_per_class,
            "class_prompt": self.class_prompt,
            "sampling": describe_sampling(self.sampling),
        }

    def _check(self, real: LabelledImages, images_per_real: int) -> None:
        check_request(real, images_per_real)
        if real.num_classes < 2:
            raise ValueError("LECF's filter tells classes apart, but there is only one; use Prompts instead.")
        for label, name in enumerate(real.class_names):
            if not spoken(name).strip():
                raise ValueError(f"class {label} has no name to write sentences about; give it one.")
        self.diffusion.check_resolution(self.sampling.resolution or real.resolution)
        prepare_scheduler(self.diffusion, self.sampling)

    def _select(self, draws: "_Draws", needs: Sequence[int]) -> list[Selection]:
        """Draw until every class has what it needs, or has used up its draws."""
        limits = [math.ceil(self.max_draws_factor * need) for need in needs]
        while True:
            seen = [own[:limit] for own, limit in zip(draws.confidences, limits, strict=True)]
            selections = [select(own, need, self.threshold) for own, need in zip(seen, needs, strict=True)]
            lacking = list(map(draws_lacking, selections, needs, limits))
            if not any(lacking):
                break
            draws.extend(lacking)
        for name, need, selection, own in zip(draws.class_names, needs, selections, seen, strict=True):
            if need and not selection.passed:
                raise keeps_nothing(name, own, self.threshold)
        return selections


def lowered(
    recipe: LECF, reals: Mapping[int, LabelledImages], *, images_per_real: int
) -> tuple[LECF, tuple[str, ...]]:
    """The recipe, its threshold lowered as each FilterError advises until every seed has a sample of each
    class of its real images; and what the errors said.

    Where CLIP has no word for the classes, the alternative is no comparison. Larger sets need no check of
    their own: their draws begin with these.
    """
    said: list[str] = []
    for seed, real in reals.items():
        while True:
            try:
                recipe(real, images_per_real=images_per_real, seed=seed)
                break
            except FilterError as error:
                said.append(str(error))
                recipe = replace(recipe, threshold=error.keeps_tenth)
    return recipe, tuple(said)


class _Block(NamedTuple):
    """Consecutive samples of a class, CLIP's probabilities for it, and the time that drawing them took."""

    images: UInt8[np.ndarray, "sample side side 3"]
    confidences: Float[np.ndarray, " sample"]
    seconds: float


_Place = tuple[int, int]  # of a block: the label of its class, and its number


class _Draws:
    """The numbered samples of each class, block by block through the cache.

    `confidences` holds CLIP's probability of the class for each of its samples so far, and `seconds` is the
    time that they took when they were drawn.
    """

    def __init__(self, recipe: LECF, real: LabelledImages, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.class_names, self.resolution = real.class_names, real.resolution
        key = content_key(recipe.describe_draws(), self.class_names, self.resolution, seed)
        self.folder = default_cache_dir() / "lecf" / key
        self.confidences = [np.empty(0, np.float32) for _ in self.class_names]
        self.seconds = 0.0

    def extend(self, counts: Sequence[int]) -> None:
        """Add so many samples to each class, or more: blocks from disk, or drawn for several at once."""
        blocks = [
            (label, len(self.confidences[label]) // BLOCK_SIZE + number)
            for label, count in enumerate(counts)
            for number in range(math.ceil(count / BLOCK_SIZE))
        ]
        missing = [block for block in blocks if self._read(block) is None]
        groups = groups_of(len(missing), SAMPLES_PER_SHARD // BLOCK_SIZE)
        for group in progress(groups, total=len(groups), desc="samples", enabled=bool(missing)):
            self._draw([missing[row] for row in group])
        for label, number in blocks:
            block = self._stored((label, number))
            self.confidences[label] = np.append(self.confidences[label], block.confidences)
            self.seconds += block.seconds

    def images(
        self, labels: Int[np.ndarray, " sample"], numbers: Int[np.ndarray, " sample"]
    ) -> UInt8[np.ndarray, "sample side side 3"]:
        """The samples of these classes and numbers."""
        images = np.empty((len(labels), self.resolution, self.resolution, 3), np.uint8)
        rows_of = defaultdict(list)
        for row, block in enumerate(zip(labels.tolist(), (numbers // BLOCK_SIZE).tolist(), strict=True)):
            rows_of[block].append(row)
        for block, rows in rows_of.items():
            images[rows] = self._stored(block).images[numbers[rows] % BLOCK_SIZE]
        return images

    def _draw(self, blocks: Sequence[_Place]) -> list[_Block]:
        started, recipe = time.perf_counter(), self.recipe
        sentences = {label: self._sentences(label) for label, _ in blocks}
        places = range(BLOCK_SIZE)
        drawn = [(label, block * BLOCK_SIZE + place) for label, block in blocks for place in places]
        prompts = [sentences[label][number % len(sentences[label])] for label, number in drawn]
        streams = [stream(self.seed, "lecf", self.class_names[label], number) for label, number in drawn]
        conditioning, empty = (recipe.diffusion.encode_prompt(each) for each in (prompts, [""]))
        sampling = replace(recipe.sampling, resolution=recipe.sampling.resolution or self.resolution)
        images = sample(recipe.diffusion, conditioning, empty, sampling, streams)
        names = [Depiction(recipe.class_prompt).prompt(name) for name in self.class_names]
        probabilities = recipe.clip.zero_shot(images, names).numpy()
        confidences = probabilities[np.arange(len(drawn)), [label for label, _ in drawn]]
        small = resize_images(images, self.resolution)
        seconds = (time.perf_counter() - started) / len(blocks)
        parts = zip(np.split(small, len(blocks)), np.split(confidences, len(blocks)), strict=True)
        made = [_Block(*part, seconds) for part in parts]
        for place, block in zip(blocks, made, strict=True):
            with write_atomically(self._path(place)) as file:
                np.savez(file, **block._asdict())
        return made

    def _sentences(self, label: int) -> list[str]:
        path = self.folder / f"{label:05d}.json"
        if not path.is_file():
            count = self.recipe.sentences_per_class
            write_json(path, self.recipe.sentences(self.class_names[label], count, self.seed))
        return read_json(path)

    def _path(self, block: _Place) -> Path:
        return self.folder / "{:05d}-{:06d}.npz".format(*block)

    def _read(self, block: _Place) -> _Block | None:
        try:
            with np.load(self._path(block), allow_pickle=False) as stored:
                return _Block(stored["images"], stored["confidences"], float(stored["seconds"]))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None  # absent or damaged: drawing it again gives the same images

    def _stored(self, block: _Place) -> _Block:
        return self._read(block) or self._draw([block])[0]  # drawn again if gone since it was found
