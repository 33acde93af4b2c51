"""A switch for each of upstream's behaviours, the preset of all of them, and a table of the differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

from diffinv.classifiers.training import Training
from diffinv.foundation.checks import check_fields
from diffinv.method.inversion import Inversion
from diffinv.method.perturbation import Perturbation
from diffinv.method.sampling import Sampling

# Checkpoints are saved every so many optimiser steps, but named to the sampling script by updates per image:
# the script multiplies by a number of its own for each dataset.
TRAIN_STEPS_FACTOR: Mapping[str, int] = {
    **dict.fromkeys(("cifar10", "cifar100", "stl10", "imagenette"), 2),
    **dict.fromkeys(("pathmnist", "bloodmnist", "dermamnist"), 5),
    "imagenet": 20,
}


@dataclass(frozen=True)
class Switches:
    """Upstream's behaviours, each one value of a field; by default all are as in the rest of this package."""

    initialisation: Literal["ours", "linear"] = "ours"  # "linear": torch's default for a linear layer
    optimiser: Literal["per_image", "dense"] = "per_image"  # "dense": every step moves the whole group
    encoding: Literal["once", "every_step"] = "once"  # of the images by the autoencoder
    unconditional: Literal["ours", "group_mean"] = "ours"
    partners: Literal["classmates", "group"] = "classmates"  # "group": perhaps itself, or of another class
    independent_streams: bool = True  # False: the samples of a group share their noise's streams
    on_unused_eta: Literal["refuse", "ignore"] = "refuse"  # by a scheduler that takes none
    selection: Literal["last_step", "best_on_test"] = "last_step"  # of the classifier that is reported
    samples: Literal["own", "all"] = "own"  # "all": a subset of the real images gets those of every image
    group_size: int = 100  # consecutive images that share a table; without effect while no switch is set

    def __post_init__(self) -> None:
        check_fields(self, counts=("group_size",))

    def reported(self, looks: Sequence[float]) -> float:
        """The accuracy that is reported, of those at every look at the test set while a classifier trains."""
        return max(looks) if self.selection == "best_on_test" else looks[-1]


@dataclass(frozen=True)
class Upstream:
    """The settings of every stage with the switches; by default ours, with no switch set."""

    inversion: Inversion = field(default_factory=Inversion)
    perturbation: Perturbation = field(default_factory=Perturbation)
    sampling: Sampling = field(default_factory=Sampling)
    training: Training = field(default_factory=Training)
    switches: Switches = field(default_factory=Switches)


@dataclass(frozen=True)
class Difference:
    """One behaviour in which upstream and this package differ, in words and as settings."""

    topic: str
    upstream: str
    here: str
    # Stage of `Upstream` -> its fields as upstream has them; empty where there is nothing to set.
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remark: str = ""

    @property
    def switch(self) -> str:
        """The fields that flip it, as one would write them; empty where there is nothing to set."""
        return ", ".join(
            f"{stage}.{name}={value!r}"
            for stage, change in self.changes.items()
            for name, value in change.items()
        )

    def flip(self, settings: Upstream) -> Upstream:
        """The same settings but for this behaviour, which is upstream's."""
        stages = {
            stage: replace(getattr(settings, stage), **change) for stage, change in self.changes.items()
        }
        return replace(settings, **stages)


def steps_per_image(train_steps: int, dataset: str, *, group_size: int = 100, batch_size: int = 50) -> int:
    """Convert the `train_steps` of upstream's sampling script to updates of each image.

    The script takes the checkpoint of `train_steps` times 2, 5 or 20 optimiser steps, by dataset; an image
    is in one batch of every `group_size / batch_size`. With the documented sizes 3000 are 3000 for STL10,
    and 7500 for the MedMNIST sets, whose batch size is not documented. ValueError for a dataset that the
    script does not know, or a step that no image would see.
    """
    if dataset not in TRAIN_STEPS_FACTOR:
        known = ", ".join(TRAIN_STEPS_FACTOR)
        raise ValueError(f"upstream's script samples no {dataset!r}: choose one of {known}.")
    batches = -(-group_size // batch_size)
    updates = train_steps * TRAIN_STEPS_FACTOR[dataset] // batches
    if updates < 1:
        raise ValueError(f"train_steps is {train_steps}, less than one update an image: choose more.")
    return updates


def differences() -> tuple[Difference, ...]:
    """Every difference between upstream and this package that changes numbers, in the order of the stages."""
    return _DIFFERENCES


_DIFFERENCES = (
    Difference(
        "embedding table",
        "a linear layer over one-hot ids for each 100 images, from torch's default start: uniform within "
        "1 / sqrt(100), a bound that depends on the size of the group",
        "a table [image, token, channel]; each image starts from its own stream, whatever its group",
        {"switches": {"initialisation": "linear"}},
        "upstream's unused columns of a short last group, part of its mean vector, are not kept",
    ),
    Difference(
        "optimiser",
        "one AdamW over the table of a group: a step has the gradient of half its images, in turn, but moves "
        "and decays them all",
        "each image has its own updates and its own Adam state; decay is a setting, 0 by default",
        {"switches": {"optimiser": "dense"}, "inversion": {"weight_decay": 0.01, "batch_size": 50}},
    ),
    Difference(
        "timesteps",
        "uniform, independent from step to step",
        "stratified: every image meets all noise levels equally often",
        {"inversion": {"timestep_sampling": "uniform"}},
    ),
    Difference(
        "VAE",
        "encodes every image anew at every step",
        "encodes once and keeps mean and deviation; the latents are still drawn at every step",
        {"switches": {"encoding": "every_step"}},
        "the same distribution: only the time differs",
    ),
    Difference(
        "checkpoints",
        "train_steps, times 2, 5 or 20 by dataset, are optimiser steps of a group",
        "steps_per_image, the updates of each image",
        remark="steps_per_image(train_steps, dataset) converts",
    ),
    Difference(
        "unconditional vector",
        "the mean over the group of 100",
        "the mean over all images, over the class, or the empty prompt",
        {"switches": {"unconditional": "group_mean"}},
    ),
    Difference(
        "partner",
        "a new one for each sample of an image, from its group: perhaps the image itself, and images of "
        "another class where its own class does not have enough",
        "of the same class among all images, never itself",
        {"switches": {"partners": "group"}},
    ),
    Difference(
        "seeds",
        "partners from an unseeded NumPy, embedding noise from torch's global generator, and one generator "
        "for the latents of a group, the same for every group",
        "one stream for each sample, whatever else is sampled",
        {"switches": {"independent_streams": False}},
        "unseeded numbers cannot be pinned: they are drawn from seeded streams that the samples share",
    ),
    Difference(
        "eta",
        "eta = 1 is passed only to a scheduler that takes it; PNDM, the default of SD v1-4, does not",
        "an eta that the scheduler cannot honour is refused",
        {"switches": {"on_unused_eta": "ignore"}, "sampling": {"scheduler": "PNDMScheduler", "eta": 1.0}},
        "with PNDM the images are those of eta = 0",
    ),
    Difference(
        "evaluation: selection",
        "20 looks at the test set, the best of which is kept",
        "the classifier of the last step; choices are made on a validation split",
        {"switches": {"selection": "best_on_test"}},
        "`reported` picks the look; `training_steps` yields the classifiers to look at",
    ),
    Difference(
        "evaluation: subsets",
        "a subset of the real images is joined by the samples of all of them",
        "a subset gets only the samples made from it",
        {"switches": {"samples": "all"}},
        "give UpstreamInversion the whole set as everything",
    ),
    Difference(
        "README",
        "--real-bs=0 of the documented command is the batch size of a DataLoader, which refuses 0",
        "documented commands are run by the tests",
        remark="the command fails before the first step: there is nothing to switch",
    ),
)

# Every difference on top of the documented numbers, which are those of STL10 with 5 samples per image. For
# another scale, `replace(UPSTREAM, inversion=..., sampling=..., training=...)`.
UPSTREAM = reduce(
    lambda settings, difference: difference.flip(settings),
    _DIFFERENCES,
    Upstream(
        inversion=Inversion(num_tokens=5, steps_per_image=3000, learning_rate=0.03),
        perturbation=Perturbation(noise_std=0.1, interpolation_weight=0.1),
        sampling=Sampling(guidance_scale=2.0, num_inference_steps=100, batch_size=100, resolution=256),
        training=Training(
            architecture="resnet18",
            optimiser_steps=50_000,
            batch_size=128,
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            warmup_steps=1000,
            augmentation="crop_flip",
            synthetic_share=None,
        ),
    ),
)
