"""Ablations: Diffusion Inversion with single settings changed, and with a choice among its samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import numpy as np
import pandas as pd

from diffinv.artefacts.keys import described
from diffinv.classifiers.training import Training, training_steps
from diffinv.datasets import LabelledImages
from diffinv.datasets.catalogue import Depiction
from diffinv.foundation.checks import check_fields
from diffinv.foundation.randomness import numpy_stream
from diffinv.models.clip import FrozenClip
from diffinv.studies.grid import COLUMNS, Condition
from diffinv.studies.statistics import holm, paired_difference
from diffinv.synthesizers.base import Synthesizer, check_request
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

SIGNIFICANT = 0.05  # a corrected p at most this high tells two settings apart
PARTS = ("inversion", "perturbation", "sampling", "training")


def ablate(base: Condition, grid: Mapping[str, Sequence[Any]]) -> list[Condition]:
    """The base with each combination of these values; all else stays as it is.

    `grid` has the values of each setting, such as `{"sampling.guidance_scale": (1, 2)}`, or of
    "images_per_real". A condition is named after its values, which are its axes too, under the setting's
    own name. ValueError for a setting that a Diffusion Inversion and its training do not have.
    """
    for setting in grid:
        if setting != "images_per_real" and setting.split(".")[0] not in PARTS:
            raise ValueError(f"there is no setting {setting!r}: begin it with one of {', '.join(PARTS)}.")
    return [_changed(base, dict(zip(grid, values, strict=True))) for values in product(*grid.values())]


def _changed(base: Condition, values: Mapping[str, Any]) -> Condition:
    condition, axes = base, dict(base.axes)
    for setting, value in values.items():
        part, _, name = setting.rpartition(".")
        if name not in COLUMNS:
            axes[name] = value
        if not part:
            condition = replace(condition, images_per_real=value)
        elif part == "training":
            condition = replace(condition, training=replace(condition.training, **{name: value}))
        else:
            synthesizer: Any = condition.synthesizer
            changed = replace(getattr(synthesizer, part), **{name: value})
            condition = replace(condition, synthesizer=replace(synthesizer, **{part: changed}))
    named = ", ".join(f"{setting.rpartition('.')[2]} {value}" for setting, value in values.items())
    return replace(condition, name=named, axes=axes)


@dataclass(frozen=True)
class MostConfident:
    """Of the `drawn` samples of each real image, those that CLIP is surest of: the filter of LECF on DI.

    Every image keeps equally many, so that no class and no original gets more than it would have had.
    """

    base: DiffusionInversion
    clip: FrozenClip
    class_prompt: str = "a {} icon"
    drawn: int = 16

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Draw, or find in the cache, and choose; ValueError where there is nothing to choose from."""
        if images_per_real > self.drawn:
            raise ValueError(f"{images_per_real} of {self.drawn} samples cannot be kept: raise drawn.")
        made = self.base(real, images_per_real=self.drawn, seed=seed)
        prompts = [Depiction(self.class_prompt).prompt(name) for name in real.class_names]
        sure = self.clip.zero_shot(made.images, prompts)[np.arange(len(made)), made.labels]
        by_copy = sure.numpy().reshape(self.drawn, len(real))  # samples come copy by copy
        best = np.sort(np.argsort(-by_copy, axis=0, kind="stable")[:images_per_real], axis=0)
        return made.subset((best * len(real) + np.arange(len(real))).ravel())

    def describe(self) -> dict[str, Any]:
        chosen = {"class_prompt": self.class_prompt, "drawn": self.drawn, "clip": self.clip.fingerprint}
        return {"synthesizer": "MostConfident", "base": self.base.describe(), **chosen}


@dataclass(frozen=True)
class OfSome:
    """As many samples as `base` makes, but of a share of each class's real images alone.

    Those are the ones that a classifier trained on the real images has not learned after `early_steps` (its
    probability of their label is lowest; arXiv 2505.21574 takes 30 to 40 %), or, where there is no `judge`,
    some at random, as a control. Their partners are still drawn from the whole class.
    """

    base: Synthesizer
    share: float = 0.375
    judge: Training | None = None
    early_steps: int = 30

    def __post_init__(self) -> None:
        check_fields(self, counts=("early_steps",), above_zero=("share",), between={"share": (0, 1)})

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Draw, or find in the cache, and keep the samples of the chosen images."""
        check_request(real, images_per_real)
        order = np.argsort(self._learned(real, seed), kind="stable")
        members = [order[real.labels[order] == label] for label in np.unique(real.labels)]
        chosen = [own[: max(1, round(self.share * len(own)))] for own in members]
        most = max(math.ceil(images_per_real * len(m) / len(c)) for m, c in zip(members, chosen, strict=True))
        made = self.base(real, images_per_real=most, seed=seed)
        source = np.tile(np.arange(len(real)), most)  # samples come copy by copy
        rows = [
            np.flatnonzero(np.isin(source, own))[: images_per_real * len(all_of_class)]
            for own, all_of_class in zip(chosen, members, strict=True)
        ]
        return made.subset(np.sort(np.concatenate(rows)))

    def _learned(self, real: LabelledImages, seed: int) -> np.ndarray:
        """A number per image, lowest for those to choose."""
        if self.judge is None:
            return numpy_stream(seed, "some of the images").random(len(real))
        last = list(islice(training_steps(real, self.judge, seed=seed), self.early_steps))[-1]
        probabilities = last.classifier.logits(real.images).softmax(dim=1).numpy()
        return probabilities[np.arange(len(real)), real.labels]

    def describe(self) -> dict[str, Any]:
        judge = None if self.judge is None else {**described(self.judge), "early_steps": self.early_steps}
        return {"synthesizer": "OfSome", "base": self.base.describe(), "share": self.share, "judge": judge}


@dataclass(frozen=True)
class Comparison:
    """One question of an ablation, declared before it is asked: is `a` ahead of `b`?"""

    question: str
    a: Condition
    b: Condition
    subject: str = ""  # what is asked of every dataset, whatever its own setting; "" = the question itself

    @property
    def compares(self) -> bool:
        """Whether the two differ in more than their names."""
        return replace(self.a, name="", axes={}) != replace(self.b, name="", axes={})


def compared(comparisons: Sequence[Comparison], rows: pd.DataFrame) -> pd.DataFrame:
    """What the rows of a study say of each comparison: one row each, with Holm's correction over all of them.

    `difference` is `a` minus `b` in accuracy, paired by seed, with its 95 % interval; `p_holm` is corrected;
    `choose` is the one to take, or "either" where they are not told apart.
    """
    found = [
        paired_difference(rows, each.a.name, each.b.name).assign(question=each.question)
        for each in comparisons
    ]
    effects = holm(pd.concat(found, ignore_index=True))
    ahead = np.where(
        effects["difference"] > 0, [c.a.name for c in comparisons], [c.b.name for c in comparisons]
    )
    return effects.assign(choose=np.where(effects["p_holm"] <= SIGNIFICANT, ahead, "either"))
