"""Text-to-image from class names: what the generator knows of a class without seeing the real images."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diffinv.datasets import LabelledImages
from diffinv.datasets.catalogue import Depiction
from diffinv.foundation.randomness import sample_streams
from diffinv.method.sampling import Sampling, prepare_scheduler, sample
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.synthesizers.base import check_request, describe_model, describe_sampling, synthesize


@dataclass(frozen=True)
class Prompts:
    """Draws samples of each real image's class from one sentence a class, guided away from the empty prompt.

    The real images give only the labels, the number of samples and the side at which they are saved, which is
    also the side at which they are drawn where `sampling.resolution` is None. LECF (arXiv 2210.07574) without
    its sentences and its filter.
    """

    diffusion: FrozenDiffusion
    template: str = "a {} icon"  # {} is the class name, its underscores as spaces
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        check_template("template", self.template)

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        """Draw, or find in the cache; a sample's `source` is the real image that it stands in for."""
        check_request(real, images_per_real)
        prepare_scheduler(self.diffusion, self.sampling)
        sampling = replace(self.sampling, resolution=self.sampling.resolution or real.resolution)
        self.diffusion.check_resolution(sampling.resolution or 0)
        by_class = self.diffusion.encode_prompt([self.prompt(name) for name in real.class_names])
        empty = self.diffusion.encode_prompt([""])

        def draw(sources: list[int], copies: list[int]) -> np.ndarray:
            streams = sample_streams(seed, "prompted", real.ids, sources, copies)
            return sample(self.diffusion, by_class[real.labels[sources]], empty, sampling, streams)

        return synthesize(real, draw, self.describe(), images_per_real=images_per_real, seed=seed)

    def prompt(self, class_name: str) -> str:
        """Return the sentence for a class."""
        return Depiction(self.template).prompt(class_name)

    def describe(self) -> dict[str, Any]:
        return {
            "synthesizer": "Prompts",
            "model": describe_model(self.diffusion),
            "template": self.template,
            "sampling": describe_sampling(self.sampling),
        }


def check_template(name: str, template: str) -> None:
    """ValueError unless the template `name` has one place for the class name."""
    if template.count("{}") != 1:
        raise ValueError(f"{name} is {template!r}: write {{}} once, where the class name belongs.")
