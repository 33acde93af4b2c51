"""What every lesson begins and ends with: settings, model and data in one call, and what the lesson spent."""

import ast
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import pandas as pd

from diffinv.datasets import LabelledImages, load_dataset
from diffinv.figures.style import use_style
from diffinv.foundation.checks import check_names
from diffinv.foundation.progress import ipython_shell
from diffinv.lessons import SPENT
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import load_profile
from diffinv.method.cached import invert
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion, NetworkCalls, load_diffusion


@dataclass(frozen=True)
class Lesson:
    """A profile with its model loaded and its datasets at hand."""

    settings: Profile
    diffusion: FrozenDiffusion
    started: float = field(default_factory=time.perf_counter)

    @property
    def datasets(self) -> tuple[str, ...]:
        return self.settings.datasets

    def datasets_but(self, left_out: Sequence[str]) -> list[str]:
        """The datasets without those that a lesson leaves out, unless one of these alone was asked for."""
        return [name for name in self.datasets if name not in left_out] or list(self.datasets)

    @cached_property
    def own(self) -> Mapping[str, Profile]:
        """The profile as each dataset has it, those of the figure on when samples pay included.

        A folder may have fewer real images per class than the profile asks for.
        """
        names = (*self.datasets, *self.settings.classifier_lesson.further_datasets)
        own = {name: self.settings.for_dataset(name) for name in names}
        for name in filter(os.path.isdir, names):
            most = min(load_dataset(name, split="train").class_counts().values())
            own[name] = replace(own[name], classifier_lesson=own[name].classifier_lesson.within(most))
        return own

    def pool(self, dataset: str, *, seed: int) -> LabelledImages:
        """The real images that are inverted, as many per class as the smallest class has at most.

        Every seed of a study takes its own among them.
        """
        images = load_dataset(dataset, split="train")
        most = self.own[dataset].classifier_lesson.pool_per_class
        return images.per_class(few_of(images, most), seed=seed)

    def inverted(self, dataset: str, pool: LabelledImages) -> tuple[LabelledImages, EmbeddingStore]:
        """A pool at the side that the model works at, and its vectors."""
        profile = self.own[dataset]
        resized = pool.resize(profile.sampling.resolution or pool.resolution)
        return resized, invert(self.diffusion, resized, profile.inversion)

    @property
    def spent(self) -> "Spent":
        """What the lesson took until now; show it last."""
        return Spent(time.perf_counter() - self.started, self.diffusion.calls)


@dataclass(frozen=True)
class Spent:
    """Seconds, and images that went through the U-Net: a measure of work that holds on every machine."""

    seconds: float
    calls: NetworkCalls

    def __str__(self) -> str:
        images, learning = self.calls.images, self.calls.with_gradient
        return (
            f"{self.seconds:.0f} s; {images:,} images went through the U-Net, {learning:,} of them with a "
            "gradient. What was in the cache cost nothing."
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": str(self), SPENT: {"unet_images": self.calls.images}}


def few_of(images: LabelledImages, wanted: int) -> int:
    """So many images per class, or as many as the smallest class has."""
    return min(wanted, *images.class_counts().values())


def opening(profile: str, *, dataset: str = "", model: str = "", resolution: int = 0) -> Lesson:
    """Load a profile and its model, and set the look of figures and tables.

    The arguments are the parameters of a lesson: `dataset` is one name or folder, "" those of the profile;
    `model` another checkpoint, and `resolution` the side that it works at. Raises as `load_profile` and
    `load_diffusion` do, and for a parameter that papermill was given and the lesson does not have.
    """
    _refuse_unknown_parameters()
    settings = load_profile(profile).using(model, resolution).for_dataset(dataset)
    use_style()
    pd.set_option("display.max_colwidth", None)  # tables hold sentences
    diffusion = load_diffusion(
        settings.model,
        device=settings.device,
        dtype=settings.torch_dtype,
        memory=settings.memory_request,
        fast=settings.fast,
    )
    return Lesson(settings, diffusion)


def _refuse_unknown_parameters() -> None:
    """ValueError for a name that papermill was given and that is no parameter: it only warns.

    papermill puts a cell of plain assignments behind the annotated ones of the parameters cell.
    """
    shell = ipython_shell()
    cells = [] if shell is None else shell.user_ns.get("In", [])
    injected = [pair for pair in pairwise(cells) if pair[1].startswith("# Parameters\n")]
    for declaring, giving in injected[-1:]:
        declared = [node.target for node in ast.parse(declaring).body if isinstance(node, ast.AnnAssign)]
        given = [node.targets[0] for node in ast.parse(giving).body if isinstance(node, ast.Assign)]
        if declared:
            check_names(map(ast.unparse, given), [*map(ast.unparse, declared)], "this lesson")
