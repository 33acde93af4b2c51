"""The settings in which a dataset differs from the rest of its profile, and whose numbers they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class DatasetSettings:
    """The numbers of one dataset."""

    # By upstream; or chosen here because nobody documents them; or by a search on validation images.
    origin: Literal["documented", "ours", "searched"]
    # A profile's settings that this dataset has otherwise, such as "sampling.guidance_scale".
    changes: Mapping[str, Any] = field(default_factory=dict)

    def at(self, resolution: int) -> DatasetSettings:
        """The same numbers at another side."""
        return replace(self, changes={**self.changes, "sampling.resolution": resolution})


def _sizes(*real_per_class: int) -> Mapping[str, Any]:
    most = dict.fromkeys(("pool_per_class", "number_real_per_class"), max(real_per_class))
    grid = {"real_per_class_grid": real_per_class, **most}
    return {f"classifier_lesson.{name}": value for name, value in grid.items()}


def _ours(resolution: int, *changes: Mapping[str, Any]) -> DatasetSettings:
    together = {name: value for change in changes for name, value in change.items()}
    return DatasetSettings("ours", together).at(resolution)


# Chosen on validation images, by `python -m benchmarks.settings_search`: its rows are in
# assets/settings_search.csv, and lessons 03 to 06 show them. What was chosen for all stands in the profile.
# Up to 64 samples per image are drawn where that takes least time.
EMBEDDED_DATASETS: Mapping[str, DatasetSettings] = {
    "icons10": DatasetSettings(
        "searched",
        {
            "inversion.steps_per_image": 200,
            "lecf_lesson.guidance_scale": 1.5,
            "lecf_lesson.threshold": 0,
            "generator_lesson.gan_rate": 1e-3,
            "generator_lesson.code_noise": 0.6,
            "retrieval_lesson.k": 16,
            "ablations_lesson.prompt_steps": 10,
            "classifier_lesson.images_per_real_grid": (1, 4, 16, 64),
        },
    ),
    "novel10": DatasetSettings(
        "searched",
        {
            "inversion.steps_per_image": 400,
            "lecf_lesson.guidance_scale": 1.5,
            "lecf_lesson.threshold": 0,
            "generator_lesson.gan_rate": 1e-3,
            "ablations_lesson.prompt_steps": 100,
        },
    ),
    "mnist5k": DatasetSettings(
        "searched",
        {
            "inversion.steps_per_image": 400,
            "lecf_lesson.guidance_scale": 1,
            "lecf_lesson.threshold": 0,
            "generator_lesson.gan_rate": 1e-3,
            "generator_lesson.code_noise": 0,
            "retrieval_lesson.k": 16,
        },
    ),
    "emoji6": DatasetSettings("searched", {"inversion.steps_per_image": 50}),
}

# Of 8 classes: 6 images of each, 240 vectors, are too few for the 256 centroids of lesson 12.
COLABS_DATASETS: Mapping[str, DatasetSettings] = {
    "bloodmnist": DatasetSettings("ours", {"classifier_lesson.pool_per_class": 7}),
}

# Only STL10 is documented, and its settings are the profile's own. The sides of the others are the paper's:
# 128 px for images of 28 and 32, 256 px for those of 96 and above. For 32 px the scripts default to 200
# sampling steps and no noise. All else is carried over from STL10. The sizes are ours for every dataset: at
# most as many images as each class has, and so few that one A100 is done in about two weeks. So is the length
# of the training on ImageNette, whose images take a classifier 64 times the work of one of 32 px.
_OF_32_PX: Mapping[str, Any] = {"sampling.num_inference_steps": 200, "perturbation.noise_std": 0.0}
PAPERS_DATASETS: Mapping[str, DatasetSettings] = {
    "cifar10": _ours(128, _sizes(100, 300, 1000), _OF_32_PX),
    "cifar100": _ours(128, _sizes(10, 30, 100), _OF_32_PX),
    "stl10": DatasetSettings("documented", _sizes(50, 150, 450)),
    "imagenette": _ours(256, _sizes(50, 150, 450), {"training.optimiser_steps": 10_000}),
    "eurosat": _ours(128, _sizes(2, 4, 8, 16)),  # few shots, as in the paper; one alone has no partner
    "pathmnist": _ours(128, _sizes(100, 300, 1000)),
    "bloodmnist": _ours(128, _sizes(80, 240, 800)),
    "dermamnist": _ours(128, _sizes(8, 24, 80)),
}

# The same datasets within a day of one A100: fewer real images, and for those of 64 px and above the smallest
# of the paper's networks, since ResNet18 takes hours there.
_SMALL: Mapping[str, Any] = {"training.architecture": "shufflenetv2_x05"}
DAYS_DATASETS: Mapping[str, DatasetSettings] = {
    "cifar10": _ours(128, _sizes(20, 60, 200)),
    "cifar100": _ours(128, _sizes(5, 10, 20), {"ablations_lesson.real_per_class": 2}),
    "stl10": _ours(256, _sizes(10, 30, 60), _SMALL),
    "imagenette": _ours(256, _sizes(10, 30, 60), _SMALL, {"training.optimiser_steps": 1000}),
    "eurosat": _ours(128, _sizes(2, 4, 8, 16), _SMALL),
    "pathmnist": _ours(128, _sizes(20, 60, 200)),
    "bloodmnist": _ours(128, _sizes(20, 60, 200)),
    "dermamnist": _ours(128, _sizes(8, 24, 80)),
}
