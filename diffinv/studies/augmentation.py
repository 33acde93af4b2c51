"""Augmentations beside samples (Table 4): the same classifier on real images and on both, under each policy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pandas as pd

from diffinv.classifiers.policies import Policy
from diffinv.classifiers.training import Training
from diffinv.studies.grid import Condition
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.real import Real

POLICIES: tuple[Policy, ...] = get_args(Policy)
NAMES: dict[Policy, str] = {
    "none": "crops alone",
    "cutout": "Cutout",
    "autoaugment": "AutoAugment",
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugment",
    "augmix": "AugMix",
    "mixup": "MixUp",
    "cutmix": "CutMix",
}  # fmt: skip


def augmentation_conditions(
    synthesizer: Synthesizer | None,
    training: Training,
    *,
    images_per_real: int,
    real_per_class: int,
    policies: Sequence[Policy] = POLICIES,
) -> list[Condition]:
    """Real images under each policy, and with samples where there is a synthesizer; the axis is `policy`.

    Crops, and flips where `training` has them, come before every policy.
    """
    conditions = []
    for policy in policies:
        own, axes = replace(training, policy=policy), {"policy": policy}
        conditions.append(Condition("real", Real(), own, 1, real_per_class, axes=axes))
        if synthesizer is not None:
            shared = (synthesizer, own, images_per_real, real_per_class)
            conditions.append(Condition("real + DI", *shared, with_real=True, axes=axes))
    return conditions


def best_policy(validation: pd.DataFrame) -> Policy:
    """The policy, crops alone apart, whose classifiers on real images have the highest mean accuracy."""
    rows = validation[(validation["condition"] == "real") & (validation["policy"] != "none")]
    return rows.groupby("policy", sort=False)["accuracy"].mean().idxmax()
