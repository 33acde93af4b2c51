"""Settings are chosen on the validation split, each method with as many candidates as the others."""

from dataclasses import replace

import pandas as pd
import pytest

from diffinv import Real, load_dataset, load_profile
from diffinv.studies.search import choose, search
from diffinv.synthesizers.autoencode import Autoencode

TRAINING = replace(load_profile("smoke").training, optimiser_steps=2)


def test_a_search_has_a_row_for_each_candidate_and_seed(tinysd, tmp_path):
    train = load_dataset("icons10", split="train").per_class(2, seed=0)
    validation = load_dataset("icons10", split="validation").per_class(2, seed=0)
    methods = {"real": {"as it is": Real()}, "autoencoded": {"32 px": Autoencode(tinysd)}}
    rows = search(
        methods, train=train, validation=validation, training=TRAINING, seeds=(0, 1), cache_dir=tmp_path
    )
    assert rows.groupby(["method", "candidate"]).size().to_dict() == {
        ("real", "as it is"): 2,
        ("autoencoded", "32 px"): 2,
    }
    assert choose(rows) == {"real": "as it is", "autoencoded": "32 px"}


@pytest.mark.parametrize(
    "methods", [{}, {"real": {}}, {"real": {"a": Real(), "b": Real()}, "DI": {"a": Real()}}]
)
def test_unequal_effort_is_refused(methods):
    train = load_dataset("icons10", split="train").per_class(1, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        search(methods, train=train, validation=train, training=TRAINING, seeds=(0,))


def test_the_best_mean_wins_and_the_first_of_equals():
    rows = pd.DataFrame(
        [
            ("DI", "slow", 0.5), ("DI", "slow", 0.7), ("DI", "fast", 0.9), ("DI", "fast", 0.1),
            ("GAN", "wide", 0.4), ("GAN", "narrow", 0.4),
        ],
        columns=["method", "candidate", "accuracy"],
    )  # fmt: skip
    assert choose(rows) == {"DI": "slow", "GAN": "wide"}
