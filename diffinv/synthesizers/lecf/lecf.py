"""LECF: sentences about each class, images of the sentences, and a CLIP filter (arXiv 2210.07574)."""

import math
import time
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.writing import read_json, write_atomically, write_json
from diffinv.datasets import LabelledImages
from diffinv.datasets.decoding import to_square
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
    describe_settings,
    labelled,
    numbered,
    sample_record,
)
from diffinv.synthesizers.lecf.filter import FilterError, Selection, keeps_nothing, select
from diffinv.synthesizers.lecf.sentences import AttributeGrammar, Sentences, spoken

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
    class_prompt: str = (
        "a {} icon"  # what CLIP compares with; {} is the class name, its underscores as spaces
    )
    sentences_per_class: int = 200
    max_draws_factor: float = 4

    def __post_init__(self) -> None:
        numbers = ("sentences_per_class", "max_draws_factor")
        check_fields(self, counts=numbers, between={"threshold": (0, 1)})
        if self.class_prompt.count("{}") != 1:
            raise ValueError(
                f"class_prompt is {self.class_prompt!r}; write {{}} once, where the class name belongs."
            )

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Draw and filter, or find in the cache; a sample's `source` is the image that it stands in for."""
        self._check(real, images_per_real)
        started = time.perf_counter()
        draws = _Draws(self, real.class_names, real.resolution, seed)
        needs = (images_per_real * np.bincount(real.labels, minlength=real.num_classes)).tolist()
        selections = self._select(draws, needs)
        sources, copies = numbered(len(real), images_per_real)
        labels = real.labels[sources]
        # The n-th sample of a class stands in for its n-th real image, copy by copy.
        numbers = np.empty(len(sources), np.int64)
        for label, selection in enumerate(selections):
            numbers[labels == label] = selection.chosen
        record = sample_record(
            real,
            self.describe(),
            images_per_real=images_per_real,
            seed=seed,
            started=started,
            # With those that the filter dropped, and with the sentences of both.
            seconds_per_sample=draws.seconds / len(sources),
            **_counts(real.class_names, selections),
        )
        return labelled(real, draws.images(labels, numbers), sources, copies, record)

    def describe(self) -> dict[str, Any]:
        return {
            **self._describe_draws(),
            "threshold": self.threshold,
            "max_draws_factor": self.max_draws_factor,
        }

    def _describe_draws(self) -> dict[str, Any]:
        return {
            "synthesizer": "LECF",
            "recipe": RECIPE,
            "model": describe_model(self.diffusion),
            "clip": self.clip.fingerprint,
            "sentences": self.sentences.describe(),
            "sentences_per_class": self.sentences_per_class,
            "class_prompt": self.class_prompt,
            # Not None, which stood for the model's native side in earlier versions.
            "sampling": {
                **describe_settings(self.sampling),
                "resolution": self.sampling.resolution or "that of the real images",
            },
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
            selections = [
                select(draws.confidences(label)[:limit], need, self.threshold)
                for label, (need, limit) in enumerate(zip(needs, limits, strict=True))
            ]
            wanted = [
                block
                for label, (selection, need, limit) in enumerate(zip(selections, needs, limits, strict=True))
                for block in draws.next_blocks(label, _estimate(selection, need, limit))
            ]
            if not wanted:
                break
            draws.extend(wanted)
        for label, (selection, need, limit) in enumerate(zip(selections, needs, limits, strict=True)):
            if need and not selection.passed:
                raise keeps_nothing(
                    draws.class_names[label], draws.confidences(label)[:limit], self.threshold
                )
        return selections


def lowered(
    recipe: LECF, real: LabelledImages, *, images_per_real: int, seeds: Sequence[int]
) -> tuple[LECF, tuple[str, ...]]:
    """The recipe, its threshold lowered as each FilterError advises until every seed has a sample of each
    class; and what the errors said.

    Where CLIP has no word for the classes, the alternative is no comparison. Larger sets need no check of
    their own: their draws begin with these.
    """
    said: list[str] = []
    for seed in seeds:
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
    seconds: float  # NaN where no record was kept


class _Draws:
    """The numbered samples of each class with CLIP's probability for it, block by block through the cache."""

    def __init__(self, recipe: LECF, class_names: tuple[str, ...], resolution: int, seed: int) -> None:
        self.recipe, self.class_names, self.resolution, self.seed = recipe, class_names, resolution, seed
        key = content_key(recipe._describe_draws(), class_names, resolution, seed)
        self.folder = default_cache_dir() / "lecf" / key
        self._found: list[list[np.ndarray]] = [[] for _ in class_names]
        self.seconds = 0.0  # that all the draws looked at took when they were drawn
        self._sampling = replace(recipe.sampling, resolution=recipe.sampling.resolution or resolution)

    def confidences(self, label: int) -> Float[np.ndarray, " draw"]:
        """CLIP's probability of the class for each of its samples so far."""
        return np.concatenate([np.empty(0, np.float32), *self._found[label]])

    def next_blocks(self, label: int, count: int) -> list[tuple[int, int]]:
        """The blocks, as label and number, with which a class would have `count` more samples."""
        first = len(self._found[label])
        return [(label, first + number) for number in range(math.ceil(count / BLOCK_SIZE))]

    def extend(self, blocks: Sequence[tuple[int, int]]) -> None:
        """Draw the blocks that are not on disk, those of several classes side by side."""
        missing = [block for block in blocks if self._read(block) is None]
        at_once = max(1, SAMPLES_PER_SHARD // BLOCK_SIZE)
        starts = range(0, len(missing), at_once)
        for start in progress(starts, total=len(starts), desc="samples", enabled=bool(missing)):
            self._draw(missing[start : start + at_once])
        for block in blocks:
            stored = self._stored(block)
            self._found[block[0]].append(stored.confidences)
            self.seconds += stored.seconds

    def images(
        self, labels: Int[np.ndarray, " sample"], numbers: Int[np.ndarray, " sample"]
    ) -> UInt8[np.ndarray, "sample side side 3"]:
        """The samples of these classes and numbers."""
        images = np.empty((len(labels), self.resolution, self.resolution, 3), np.uint8)
        rows_of = defaultdict(list)
        for row, (label, number) in enumerate(zip(labels.tolist(), numbers.tolist(), strict=True)):
            rows_of[label, number // BLOCK_SIZE].append(row)
        for block, rows in rows_of.items():
            images[rows] = self._stored(block).images[numbers[rows] % BLOCK_SIZE]
        return images

    def _draw(self, blocks: Sequence[tuple[int, int]]) -> list["_Block"]:
        started = time.perf_counter()
        drawn = [
            (label, number)
            for label, block in blocks
            for number in range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
        ]
        diffusion, clip = self.recipe.diffusion, self.recipe.clip
        sentences = {label: self._sentences(label) for label, _ in blocks}
        prompts = [sentences[label][number % len(sentences[label])] for label, number in drawn]
        streams = [stream(self.seed, "lecf", self.class_names[label], number) for label, number in drawn]
        images = sample(
            diffusion, diffusion.encode_prompt(prompts), self._empty_prompt, self._sampling, streams
        )
        names = [self.recipe.class_prompt.replace("{}", spoken(name)) for name in self.class_names]
        probabilities = clip.zero_shot(images, names).numpy()
        own = probabilities[np.arange(len(drawn)), [label for label, _ in drawn]]
        small = np.stack([to_square(Image.fromarray(image), self.resolution, "a sample") for image in images])
        seconds = (time.perf_counter() - started) / len(blocks)
        made = []
        for number, block in enumerate(blocks):
            part = slice(number * BLOCK_SIZE, (number + 1) * BLOCK_SIZE)
            made.append(_Block(small[part], own[part], seconds))
            with write_atomically(self._path(block)) as file:
                np.savez(file, images=small[part], confidences=own[part], seconds=seconds)
        return made

    @cached_property
    def _empty_prompt(self) -> Any:
        return self.recipe.diffusion.encode_prompt([""])

    def _sentences(self, label: int) -> list[str]:
        path = self.folder / f"{label:05d}.json"
        if not path.is_file():
            count = self.recipe.sentences_per_class
            write_json(path, self.recipe.sentences(self.class_names[label], count, self.seed))
        return read_json(path)

    def _path(self, block: tuple[int, int]) -> Path:
        return self.folder / "{:05d}-{:06d}.npz".format(*block)

    def _read(self, block: tuple[int, int]) -> "_Block | None":
        try:
            with np.load(self._path(block), allow_pickle=False) as stored:
                seconds = float(stored["seconds"]) if "seconds" in stored else math.nan
                return _Block(stored["images"], stored["confidences"], seconds)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None  # absent or damaged: drawing it again gives the same images

    def _stored(self, block: tuple[int, int]) -> "_Block":
        found = self._read(block)
        return self._draw([block])[0] if found is None else found  # drawn again if gone since it was found


def _estimate(selection: Selection, need: int, limit: int) -> int:
    """How many more draws fill a class if they pass as often as those so far; never beyond the limit."""
    missing = need - selection.passed
    if missing <= 0:
        return 0
    rate = max(selection.passed, 1) / max(selection.drawn, 1)
    return max(0, min(math.ceil(missing / rate), limit - selection.drawn))


def _counts(class_names: Sequence[str], selections: Sequence[Selection]) -> dict[str, Any]:
    """For each class: samples looked at, those that the filter dropped, and those used nevertheless."""
    by_class = list(zip(class_names, selections, strict=True))
    return {
        "drawn": {name: each.drawn for name, each in by_class},
        "dropped": {name: each.drawn - each.passed for name, each in by_class},
        "used_below_threshold": {name: len(each.chosen) - each.passed for name, each in by_class},
    }
