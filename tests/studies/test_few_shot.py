"""Few shots: a single image has no partner, and a crossing is read off seed by seed."""

import math

import pandas as pd
import pytest

from diffinv.classifiers.training import Training
from diffinv.studies.few_shot import AUGMENTED, ahead_from, describe_crossing, few_shot_conditions
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.real import Real

SHOTS = (1, 2, 4, 8, 16)


def rows_of(*differences):
    """Rows in which "DI" is ahead of "LECF" by these differences, seed by seed."""
    return pd.DataFrame(
        [
            {"condition": name, "real_per_class": shots, "seed": seed, "accuracy": 0.5 + gap * (name == "DI")}
            for seed, of_seed in enumerate(differences)
            for shots, gap in zip(SHOTS, of_seed, strict=True)
            for name in ("DI", "LECF")
        ]
    )


def test_one_shot_is_not_interpolated_and_all_train_as_long():
    inversion = DiffusionInversion(diffusion=None)
    conditions = few_shot_conditions(
        inversion, Real(), Training(), shots=(1, 2), images_per_real=3, policy="mixup"
    )
    weights = {
        (each.name, each.real_per_class): each.synthesizer.perturbation.interpolation_weight
        for each in conditions
        if isinstance(each.synthesizer, DiffusionInversion)
    }
    assert weights == {("DI", 1): 0, ("real + DI", 1): 0, ("DI", 2): 0.1, ("real + DI", 2): 0.1}
    assert {each.synthesizer.perturbation.noise_std for each in conditions[3:5]} == {0.1}
    assert {each.name for each in conditions if each.training.policy == "mixup"} == {AUGMENTED}
    assert {each.training.optimiser_steps for each in conditions} == {Training().optimiser_steps}
    assert {each.name for each in conditions if each.images_per_real == 3} == {"LECF", "DI", "real + DI"}


def test_a_crossing_lies_on_a_straight_line_over_the_logarithm():
    found = ahead_from(rows_of((-0.2, -0.1, 0.1, 0.2, 0.3), (-0.2, -0.1, 0.1, 0.2, 0.3)), "DI", "LECF")
    assert found["shots"] == pytest.approx(math.sqrt(2 * 4))
    assert found["low"] == pytest.approx(found["high"]) and found["n"] == 2


def test_only_the_last_rise_counts():
    found = ahead_from(rows_of(*2 * [(0.1, -0.1, 0.1, -0.1, 0.3)]), "DI", "LECF")
    assert found["shots"] == pytest.approx(8 * 2 ** (0.1 / 0.4))


def test_seeds_without_a_crossing_lie_outside_and_the_median_stands():
    always, never, middle = (0.1,) * 5, (-0.1,) * 5, (-0.2, -0.1, 0.1, 0.2, 0.3)
    found = ahead_from(rows_of(always, never, middle), "DI", "LECF")
    assert (found["low"], found["high"]) == (0, math.inf)
    assert found["shots"] == pytest.approx(math.sqrt(8)) and found["coverage"] == 0.75
    said = describe_crossing(found, SHOTS, "DI", "LECF")
    assert said.startswith("DI is ahead of LECF from 2.8 shots on (75% interval")
    assert said.endswith("below 1 to above 16)")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ((0.1,) * 5, "DI is ahead of LECF from 1 shot on"),
        (
            (-0.1,) * 5,
            "no crossing in 1-16: DI is not ahead of LECF at 16 (75% interval of the median",
        ),
        ((0.0,) * 5, "no crossing in 1-16: "),
    ],
)
def test_no_crossing_is_an_answer(differences, words):
    found = ahead_from(rows_of(differences, differences, differences), "DI", "LECF")
    assert describe_crossing(found, SHOTS, "DI", "LECF").startswith(words)


def test_a_lone_seed_is_refused():
    with pytest.raises(ValueError, match="5 numbers of shots and 1 seeds: run at least 2 of each"):
        ahead_from(rows_of((-0.1, 0.1, 0.1, 0.1, 0.1)), "DI", "LECF")
