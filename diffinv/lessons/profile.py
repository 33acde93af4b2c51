"""One scale at which all lessons run; `profiles` has the numbers of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from diffinv.classifiers.training import Training
from diffinv.datasets import depiction
from diffinv.lessons import counts
from diffinv.lessons.dataset_settings import DatasetSettings
from diffinv.method.inversion import Inversion
from diffinv.method.perturbation import Perturbation
from diffinv.method.sampling import Sampling
from diffinv.models.memory import MemorySettings, Workload


@dataclass(frozen=True)
class Profile:
    """One scale at which all lessons run: models, settings of each stage, seeds and counts."""

    name: str
    model: str = "tinysd"
    dtype: str = "float32"
    fast: bool = False  # networks compiled, float32 products in TF32: other low bits, less time
    device: str | None = None  # None = the fastest one found
    memory: MemorySettings | None = None  # None = as much as has to be traded for the memory found
    datasets: tuple[str, ...] = ("icons10", "novel10", "mnist5k")
    dataset_settings: Mapping[str, DatasetSettings] = field(default_factory=dict)
    inversion: Inversion = field(default_factory=Inversion)
    perturbation: Perturbation = field(default_factory=Perturbation)
    sampling: Sampling = field(default_factory=Sampling)
    training: Training = field(default_factory=Training)
    seeds: tuple[int, ...] = (0, 1, 2)  # of lessons 03 to 06, 08 and 10
    quickstart: counts.Quickstart = field(default_factory=counts.Quickstart)
    inversion_lesson: counts.InversionLesson = field(default_factory=counts.InversionLesson)
    sampling_lesson: counts.SamplingLesson = field(default_factory=counts.SamplingLesson)
    classifier_lesson: counts.ClassifierLesson = field(default_factory=counts.ClassifierLesson)
    generator_lesson: counts.GeneratorLesson = field(default_factory=counts.GeneratorLesson)
    lecf_lesson: counts.LECFLesson = field(default_factory=counts.LECFLesson)
    retrieval_lesson: counts.RetrievalLesson = field(default_factory=counts.RetrievalLesson)
    few_shot_lesson: counts.FewShotLesson = field(default_factory=counts.FewShotLesson)
    augmentation_lesson: counts.AugmentationLesson = field(default_factory=counts.AugmentationLesson)
    architecture_lesson: counts.ArchitectureLesson = field(default_factory=counts.ArchitectureLesson)
    storage_lesson: counts.StorageLesson = field(default_factory=counts.StorageLesson)
    ablations_lesson: counts.AblationsLesson = field(default_factory=counts.AblationsLesson)
    runtime_lesson: counts.RuntimeLesson = field(default_factory=counts.RuntimeLesson)
    own_data_lesson: counts.OwnDataLesson = field(default_factory=counts.OwnDataLesson)
    pretraining_lesson: counts.PretrainingLesson = field(default_factory=counts.PretrainingLesson)
    time_limit_seconds: int = 7200  # of one cell; one that runs longer is stopped

    clip: str = "tinysd"  # whose features measure fidelity and diversity

    @property
    def few_seeds(self) -> tuple[int, ...]:
        """Those of all other lessons: five at most."""
        return self.seeds[:5]

    @property
    def output_dir(self) -> str:
        """The folder of figures where none is named; those of `tiny` are the ones that are committed."""
        return "figures" if self.name == "tiny" else f"runs/{self.name}"

    def training_for(self, dataset: str) -> Training:
        """How classifiers of a dataset are trained: mirrored only where that leaves the label true."""
        mirrored = depiction(dataset).flips_keep_label
        return self.training if mirrored else replace(self.training, augmentation="crop")

    def using(self, model: str, resolution: int) -> Profile:
        """The same scale with another checkpoint at the side it takes; "" and 0 keep the profile's own."""
        if not resolution:
            return replace(self, model=model or self.model)
        sampling = replace(self.sampling, resolution=resolution)
        own = {name: settings.at(resolution) for name, settings in self.dataset_settings.items()}
        return replace(self, model=model or self.model, sampling=sampling, dataset_settings=own)

    def for_dataset(self, name: str) -> Profile:
        """The same scale for one dataset alone, with what is its own; "" keeps all as they are."""
        if not name:
            return self
        own = self.dataset_settings.get(name)
        return replace(self.changed({} if own is None else own.changes), datasets=(name,))

    def changed(self, changes: Mapping[str, Any]) -> Profile:
        """The same scale with other values of single settings, such as {"sampling.guidance_scale": 3}."""
        profile = self
        for name, value in changes.items():
            part, setting = name.split(".")
            profile = replace(profile, **{part: replace(getattr(profile, part), **{setting: value})})
        return profile

    @property
    def memory_request(self) -> MemorySettings | Workload:
        """What `load_diffusion` is to trade for memory, or for which work it is to choose that."""
        if self.memory is not None:
            return self.memory
        sides = [self.for_dataset(name).sampling.resolution for name in self.datasets]
        # None, an image's own side, is at most the model's native one where the model draws it well.
        largest = None if None in sides else max(side for side in sides if side)
        return Workload(largest, self.inversion.batch_size)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        return getattr(torch, self.dtype)
