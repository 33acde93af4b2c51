"""The study of augmentations: which cells it has, and what it makes of their rows."""

import numpy as np
import pandas as pd
import pytest

from diffinv.classifiers.training import Training
from diffinv.studies.augmentation import (
    NAMES,
    POLICIES,
    augmentation_conditions,
    beside_best,
    best_policy,
    gains,
)
from diffinv.studies.statistics import paired_difference
from diffinv.synthesizers.real import Real


def rows_of(reached):
    """reached[policy] = (real, real + DI); the seeds differ by the same for all, and a little more."""
    noise = np.random.default_rng(0).normal(0, 0.002, (len(reached), 2, 4))
    return pd.DataFrame(
        [
            {
                "condition": condition,
                "dataset": "toys",
                "policy": policy,
                "seed": seed,
                "accuracy": accuracy + 0.05 * seed + noise[number, place, seed],
            }
            for number, (policy, both) in enumerate(reached.items())
            for place, (condition, accuracy) in enumerate(zip(("real", "real + DI"), both, strict=True))
            for seed in range(4)
        ]
    )


ROWS = rows_of({"none": (0.4, 0.6), "cutout": (0.45, 0.6), "randaugment": (0.8, 0.79)})


def test_every_policy_has_a_name_and_changes_nothing_but_itself():
    assert NAMES.keys() == set(POLICIES)
    conditions = augmentation_conditions(
        Real(), Training(augmentation="crop"), images_per_real=3, real_per_class=2
    )
    assert len(conditions) == 2 * len(POLICIES)
    assert {condition.training.augmentation for condition in conditions} == {"crop"}
    assert [condition.training.policy for condition in conditions] == [c.axes["policy"] for c in conditions]
    alone = augmentation_conditions(None, Training(), images_per_real=3, real_per_class=2)
    assert {(c.name, c.with_real, c.images_per_real) for c in alone} == {("real", False, 1)}


def test_the_best_policy_is_chosen_on_real_images_and_is_never_none():
    assert best_policy(ROWS) == "randaugment"
    assert best_policy(rows_of({"none": (0.9, 0.9), "mixup": (0.2, 0.9), "cutout": (0.3, 0.1)})) == "cutout"


def test_gains_hold_samples_against_each_policy_and_on_top_of_it():
    found = gains(ROWS).set_index(["policy", "question"])
    assert len(found) == 1 + 2 * 2, "for crops alone the two questions are one"
    expected = {
        ("none", "adds to it"): 0.2,
        ("cutout", "beats it"): 0.15,
        ("cutout", "adds to it"): 0.15,
        ("randaugment", "beats it"): -0.2,
        ("randaugment", "adds to it"): -0.01,
    }
    assert found["difference"].to_dict() == pytest.approx(expected, abs=0.005)
    assert (found["p_holm"] >= found["p"]).all()


def test_rows_of_the_best_policy_are_named_beside_those_of_crops():
    named = beside_best(ROWS, {"toys": "cutout"})
    assert set(named["condition"]) == {
        "real", "real + DI", "real + augmentation", "real + DI + augmentation",
    }  # fmt: skip
    assert set(named["policy"]) == {"none", "cutout"}
    gain = paired_difference(named, "real + DI + augmentation", "real + augmentation")["difference"].item()
    assert gain == pytest.approx(0.15, abs=0.005)
