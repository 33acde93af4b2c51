"""Cross-validation: folds without copies across them, and an interval that knows that they overlap."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffinv.classifiers.training import Training
from diffinv.studies.folds import cross_validate, folds_of, gain_over_folds, sentence_on_gain
from diffinv.studies.grid import Condition
from diffinv.synthesizers.real import Real


def test_each_class_is_shared_out_evenly_and_copies_stay_together(toy_images):
    groups = np.arange(len(toy_images))
    groups[[0, 1]] = groups[[6, 7]] = 99  # two pairs of copies, of two classes
    folds = folds_of(toy_images, 3, seed=0, groups=groups)
    assert folds[0] == folds[1] and folds[6] == folds[7]
    for label in range(3):
        assert np.bincount(folds[toy_images.labels == label], minlength=3).tolist() == [2, 2, 2]
    assert folds_of(toy_images, 3, seed=1).tolist() != folds_of(toy_images, 3, seed=0).tolist()


def test_folds_do_not_depend_on_the_order_of_the_images(toy_images):
    order = np.random.default_rng(0).permutation(len(toy_images))
    folds = folds_of(toy_images, 4, seed=0)
    assert folds_of(toy_images.subset(order), 4, seed=0).tolist() == folds[order].tolist()


def test_every_image_is_tested_on_once_per_repetition_and_never_trained_on_there(toy_images, monkeypatch):
    seen = []

    def run_study(conditions, *, train, test, seeds, **_):
        seen.append((set(train.ids), set(test.ids), seeds[0]))
        return pd.DataFrame({"condition": [c.name for c in conditions], "seed": seeds[0], "accuracy": 0.5})

    monkeypatch.setattr("diffinv.studies.folds.run_study", run_study)
    conditions = [Condition("real", Real(), Training())]
    rows = cross_validate(conditions, toy_images, num_folds=3, repetitions=2, seed=5, progress=False)
    assert len(rows) == 6 and len({seed for _, _, seed in seen}) == 6
    for train, test, _ in seen:
        assert not train & test and train | test == set(toy_images.ids)
    for number in (0, 3):
        tested = [name for _, test, _ in seen[number : number + 3] for name in test]
        assert sorted(tested) == sorted(toy_images.ids)


def rows_of(differences, num_folds):
    return pd.DataFrame(
        [
            {"condition": name, "seed": seed, "fold": seed % num_folds, "accuracy": 0.5 + shift}
            for seed, difference in enumerate(differences)
            for name, shift in (("a", difference), ("b", 0.0))
        ]
    )


def test_the_interval_is_the_corrected_resampled_t_test(toy_images):
    differences = [0.05, 0.02, 0.08, 0.01, 0.04, 0.06, 0.03, 0.05, 0.02, 0.07]
    gain = gain_over_folds(rows_of(differences, 5), "a", "b").iloc[0]
    # Nadeau and Bengio 2003: t = mean / sqrt((1/J + n_test/n_train) s^2), J - 1 degrees of freedom.
    error = np.sqrt((1 / 10 + 1 / 4) * np.var(differences, ddof=1))
    assert gain["low"] == pytest.approx(np.mean(differences) - stats.t.ppf(0.975, 9) * error)
    plain = stats.ttest_1samp(differences, 0).confidence_interval()
    assert gain["low"] < plain.low and gain["high"] > plain.high


def test_it_seldom_finds_what_is_not_there():
    """With folds as correlated as theirs are it errs as often as it says, a plain one far more often."""
    random = np.random.default_rng(0)
    wrong = {"corrected": 0, "plain": 0}
    for _ in range(400):
        shared = random.normal(scale=1 / np.sqrt(4))
        rows = rows_of(shared + random.normal(scale=1.0, size=10), 5)
        gain = gain_over_folds(rows, "a", "b").iloc[0]
        wrong["corrected"] += not gain["low"] <= 0 <= gain["high"]
        own = rows[rows["condition"] == "a"]["accuracy"] - 0.5
        wrong["plain"] += stats.ttest_1samp(own, 0).pvalue < 0.05
    assert wrong["corrected"] / 400 < 0.08 < wrong["plain"] / 400


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        ([0.2, 0.21, 0.19, 0.2, 0.2], "Helps: +20.0 points"),
        ([-0.2, -0.21, -0.19, -0.2, -0.2], "Does not help: -20.0 points"),
        ([0.1, 0.02, 0.08, 0.05, 0.0], "repetitions would"),
        ([0.1, -0.1, 0.08, -0.05, 0.0], "more real images would"),
        ([0.0, 0.0, 0.01, -0.01, 0.0], "more than a million"),
    ],
)
def test_the_sentence_says_what_is_decided_or_what_would(differences, sentence):
    gain = gain_over_folds(rows_of(differences, 5), "a", "b")
    assert sentence in sentence_on_gain(gain, 50, 5)
