"""Augmentations beside samples (Table 4): classifiers on real images and on both, under each policy."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import pandas as pd

from diffinv.classifiers.policies import Policy
from diffinv.classifiers.training import Training
from diffinv.studies.grid import Condition
from diffinv.studies.statistics import holm, paired_difference
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.real import Real

POLICIES: tuple[Policy, ...] = get_args(Policy)
NAMES: dict[Policy, str] = {
    "none": "crop (and flip)",
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
    real_per_class: int | None = None,
    policies: Sequence[Policy] = POLICIES,
    with_samples: Sequence[Policy] = POLICIES,
) -> list[Condition]:
    """Real images under each policy, and with samples under some, where there is a synthesizer.

    The axis is `policy`. Crops, and flips where `training` has them, come before every policy.
    """
    conditions = []
    for policy in policies:
        own, axes = replace(training, policy=policy), {"policy": policy}
        conditions.append(Condition("real", Real(), own, 1, real_per_class, axes=axes))
        if synthesizer is not None and policy in with_samples:
            shared = (synthesizer, own, images_per_real, real_per_class)
            conditions.append(Condition("real + DI", *shared, with_real=True, axes=axes))
    return conditions


def best_policy(validation: pd.DataFrame) -> Policy:
    """The policy, crops alone apart, whose classifiers on real images have the highest mean accuracy."""
    rows = validation[(validation["condition"] == "real") & (validation["policy"] != "none")]
    return rows.groupby("policy", sort=False)["accuracy"].mean().idxmax()


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """What samples are worth against each augmentation and on top of it, for each dataset, in `difference`.

    `question` is "beats it" (real + DI with crops alone, minus real under the policy) or "adds to it" (real +
    DI minus real, both under the policy, where there are such rows); for crops alone the two are one.
    Intervals are paired by seed; `p_holm` is corrected for all these together (`statistics.holm`).
    """
    named = rows.assign(condition=rows["condition"] + " under " + rows["policy"])
    found = []
    for policy in rows["policy"].unique():
        questions = {"adds to it": policy} if policy == "none" else {"beats it": "none", "adds to it": policy}
        for question, own in questions.items():
            sides = f"real + DI under {own}", f"real under {policy}"
            if not named["condition"].eq(sides[0]).any():
                continue
            gain = paired_difference(named, *sides, by=["dataset"])
            found.append(gain.assign(policy=policy, question=question))
    return holm(pd.concat(found, ignore_index=True))


def beside_best(rows: pd.DataFrame, best: Mapping[str, Policy]) -> pd.DataFrame:
    """The rows of crops alone and of each dataset's best policy, whose conditions say "+ augmentation"."""
    chosen = rows["dataset"].map(best) == rows["policy"]
    named = rows["condition"].where(~chosen, rows["condition"] + " + augmentation")
    return rows.assign(condition=named)[chosen | (rows["policy"] == "none")]
