"""What a dataset takes otherwise than the rest of its profile, and whose numbers they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class DatasetSettings:
    """The numbers of one dataset."""

    origin: Literal["documented", "ours"]  # by upstream, or chosen here because nobody documents them
    # Field of a profile -> its fields as this dataset has them.
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def at(self, resolution: int) -> DatasetSettings:
        """The same numbers at another side."""
        sampling = {**self.changes.get("sampling", {}), "resolution": resolution}
        return replace(self, changes={**self.changes, "sampling": sampling})


def _sizes(*real_per_class: int) -> Mapping[str, Any]:
    return {"real_per_class_grid": real_per_class, "number_real_per_class": max(real_per_class)}


def _ours(
    resolution: int, classifier_lesson: Mapping[str, Any], **changes: Mapping[str, Any]
) -> DatasetSettings:
    changes = {**changes, "classifier_lesson": classifier_lesson}
    return DatasetSettings("ours", changes).at(resolution)


# Only STL10 is documented, and its settings are the profile's own. The sides of the others are the paper's:
# 128 px for images of 28 and 32, 256 px for those of 96 and above. For 32 px the scripts default to 200
# sampling steps and no noise. All else is carried over from STL10. The sizes are ours for every dataset: at
# most as many images as each class has, and so few that one A100 is done within two weeks. So is the length
# of the training on ImageNette, whose images take a classifier 64 times the work of one of 32 px.
_OF_32_PX: Mapping[str, Mapping[str, Any]] = {
    "sampling": {"num_inference_steps": 200},
    "perturbation": {"noise_std": 0.0},
}
PAPERS_DATASETS: Mapping[str, DatasetSettings] = {
    "cifar10": _ours(128, _sizes(100, 300, 1000), **_OF_32_PX),
    "cifar100": _ours(128, _sizes(10, 30, 100), **_OF_32_PX),
    "stl10": DatasetSettings("documented", {"classifier_lesson": _sizes(50, 150, 450)}),
    "imagenette": _ours(256, _sizes(50, 150, 450), training={"optimiser_steps": 10_000}),
    "eurosat": _ours(128, _sizes(2, 4, 8, 16)),  # few shots, as in the paper; one alone has no partner
    "pathmnist": _ours(128, _sizes(100, 300, 1000)),
    "bloodmnist": _ours(128, _sizes(80, 240, 800)),
    "dermamnist": _ours(128, _sizes(8, 24, 80)),
}
