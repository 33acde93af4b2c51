"""Studies: tidy rows, cells computed once, a killed run that continues, intervals that SciPy agrees with."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

from diffinv.classifiers.training import Training
from diffinv.datasets import LabelledImages
from diffinv.method.perturbation import Perturbation
from diffinv.method.sampling import Sampling
from diffinv.studies import grid as studies
from diffinv.studies.grid import Condition
from diffinv.studies.statistics import holm, paired_difference, summarise
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.real import Real

QUICK = Training(
    architecture="resnet8_narrow", optimiser_steps=6, batch_size=8, learning_rate=0.05, warmup_steps=1
)


@dataclass(frozen=True)
class Brighter:
    """Copies of the real images, each a little brighter than the one before."""

    amount: int = 10

    def __call__(self, real, *, images_per_real, seed):
        indices = np.tile(np.arange(len(real)), images_per_real)
        copies = np.repeat(np.arange(images_per_real), len(real))
        lifted = real.images[indices].astype(int) + self.amount * (1 + copies)[:, None, None, None] + seed
        return LabelledImages(
            images=lifted.clip(0, 255).astype(np.uint8),
            labels=real.labels[indices],
            class_names=real.class_names,
            ids=tuple(f"{real.ids[i]}#{copy}" for i, copy in zip(indices, copies, strict=True)),
            sources=tuple(real.ids[i] for i in indices),
        )

    def describe(self):
        return {"synthesizer": "Brighter", "amount": self.amount}


def grid():
    return [
        Condition("real", Real(), QUICK, real_per_class=2),
        Condition("brighter", Brighter(), QUICK, images_per_real=2, real_per_class=2, axes={"amount": 10}),
        Condition("both", Brighter(), QUICK, images_per_real=2, real_per_class=3, with_real=True),
    ]


def run(conditions, images, **more):
    return studies.run_study(
        conditions, train=images, test=more.pop("test", images), seeds=more.pop("seeds", (0, 1)), **more
    )


def test_rows_are_tidy_and_say_what_went_in(toy_images):
    rows = run(grid(), toy_images, dataset="toys")
    assert list(rows["condition"]) == ["real", "real", "brighter", "brighter", "both", "both"]
    assert list(rows["seed"]) == [0, 1] * 3
    assert list(rows["num_real"]) == [6, 6, 6, 6, 9, 9]
    assert list(rows["num_training_images"]) == [6, 6, 12, 12, 27, 27]
    assert set(rows["optimiser_steps"]) == {6} and set(rows["dataset"]) == {"toys"}
    assert rows["accuracy"].between(0, 1).all() and (rows["wall_seconds"] > 0).all()
    assert rows["amount"].tolist()[2:4] == [10, 10] and rows["amount"].isna().sum() == 4


def test_the_seed_drives_subset_synthesis_and_classifier(toy_images, monkeypatch):
    seen = []

    def spy(images, settings, *, seed):
        seen.append((images, seed))
        return original(images, settings, seed=seed)

    original = studies.train_classifier
    monkeypatch.setattr(studies, "train_classifier", spy)
    conditions = [Condition("few", Brighter(), QUICK, real_per_class=n) for n in (2, 4)]
    run(conditions, toy_images)
    (few0, seed0), (few1, seed1), (more0, _), (more1, _) = seen
    assert (seed0, seed1) == (0, 1)
    assert set(few0.sources) < set(more0.sources) and set(few1.sources) < set(more1.sources)
    assert set(few0.sources) != set(few1.sources)


def test_no_cell_is_computed_twice(toy_images, monkeypatch, fresh_cache):
    first = run(grid(), toy_images)
    assert len(list((fresh_cache / "studies").glob("*.json"))) == 6
    monkeypatch.setattr(studies, "train_classifier", None)  # a call would fail
    pd.testing.assert_frame_equal(run(grid(), toy_images), first)
    renamed = [replace(grid()[0], name="the line of real data")]
    assert run(renamed, toy_images)["accuracy"].tolist() == first["accuracy"].tolist()[:2]


@pytest.mark.parametrize(
    "change",
    [
        {"training": replace(QUICK, learning_rate=0.04)},
        {"synthesizer": Brighter(11)},
        {"images_per_real": 3},
        {"real_per_class": 3},
        {"with_real": True},
    ],
)
def test_whatever_changes_the_result_changes_the_cell(toy_images, change):
    condition = grid()[1]
    changed = replace(condition, **change)
    key, other = (studies._cell_key(c, toy_images, toy_images, 0) for c in (condition, changed))
    assert key != other != studies._cell_key(changed, toy_images, toy_images, 1)
    dark = replace(toy_images, images=toy_images.images // 2)
    assert (
        len(
            {key}
            | {studies._cell_key(condition, *sets, 0) for sets in ((dark, toy_images), (toy_images, dark))}
        )
        == 3
    )


def test_a_cell_with_one_digit_changed_is_made_again(toy_images, fresh_cache):
    first = run(grid()[:1], toy_images)
    path, *_ = (fresh_cache / "studies").glob("*.json")
    cell = json.loads(path.read_text())
    path.write_text(json.dumps({**cell, "accuracy": cell["accuracy"] + 0.01}))
    assert run(grid()[:1], toy_images)["accuracy"].tolist() == first["accuracy"].tolist()


def test_accuracies_by_class_are_there_if_asked_for(toy_images):
    test = toy_images.subset([0, 1, 2, 6, 7])  # three discs, two squares, no cross
    plain = run(grid()[:1], toy_images, test=test)
    rows = run(grid()[:1], toy_images, test=test, by_class=True)
    assert rows["accuracy"].tolist() == plain["accuracy"].tolist()
    for row in rows.itertuples():
        disc, square, cross = row.by_class.values()
        assert np.isnan(cross) and row.balanced_accuracy == pytest.approx((disc + square) / 2)
        assert row.accuracy == pytest.approx((3 * disc + 2 * square) / 5)


def test_a_damaged_cell_is_made_again(toy_images, fresh_cache):
    first = run(grid()[:1], toy_images)
    for path in (fresh_cache / "studies").glob("*.json"):
        path.write_text("{")
    again = run(grid()[:1], toy_images)
    assert again["accuracy"].tolist() == first["accuracy"].tolist()


SLOW_RUN = """
import sys, time
sys.path.insert(0, {tests!r})
from test_studies import grid, run
from diffinv.studies import grid as studies
from diffinv.datasets import LabelledImages

train = studies.train_classifier
def slowly(*args, **kwargs):
    time.sleep(0.3)
    return train(*args, **kwargs)
studies.train_classifier = slowly
run(grid(), LabelledImages.load({images!r}), cache_dir={cache!r})
"""


def test_a_run_killed_in_the_middle_continues_to_the_same_rows(toy_images, tmp_path):
    images, cache = str(toy_images.save(tmp_path / "images")), tmp_path / "killed"
    script = SLOW_RUN.format(tests=os.path.dirname(__file__), images=images, cache=str(cache))
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number may round differently

    def cells():
        return {path.name: path.stat().st_mtime_ns for path in (cache / "studies").glob("*.json")}

    victim = subprocess.Popen([sys.executable, "-c", script], env=os.environ | threads)
    while len(cells()) < 2:
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    finished = cells()
    assert 2 <= len(finished) < 6

    resumed = run(grid(), toy_images, cache_dir=cache)
    assert finished.items() <= cells().items(), "a finished cell was computed again"
    whole = run(grid(), toy_images, cache_dir=tmp_path / "whole")
    seconds = "wall_seconds"
    pd.testing.assert_frame_equal(
        resumed.drop(columns=seconds), whole.drop(columns=seconds), check_exact=True
    )


@pytest.fixture
def rows():
    """A baseline without, and a condition with an axis, on five seeds that differ in how hard they are."""
    random = np.random.default_rng(0)
    hard = random.normal(size=5)
    baseline = [("real", s, 1, 0.5 + 0.1 * hard[s] + 0.01 * random.normal()) for s in range(5)]
    others = [
        ("DI", s, n, 0.5 + 0.02 * n + 0.1 * hard[s] + 0.01 * random.normal())
        for n in (1, 5)
        for s in reversed(range(5))
    ]
    return pd.DataFrame(baseline + others, columns=["condition", "seed", "images_per_real", "accuracy"])


@pytest.mark.parametrize("values", [[0.97, 0.99, 1.0], [0.01, 0.0, 0.05], [0.5, 0.6, 0.4]])
def test_the_interval_of_a_share_stays_within_zero_and_one(values):
    rows = pd.DataFrame({"condition": "a", "seed": range(3), "accuracy": values, "score": values})
    (share,) = summarise(rows, ["condition"]).to_dict("records")
    (plain,) = summarise(rows, ["condition"], value="score").to_dict("records")
    assert 0 < share["low"] < share["mean"] < share["high"] < 1
    assert (share["mean"], share["std"]) == (plain["mean"], plain["std"])
    # The same half width, measured where the logit has the slope 1 / (p (1 - p)).
    logits = [special.logit(share[end]) for end in ("low", "mean", "high")]
    slope = 1 / (share["mean"] * (1 - share["mean"]))
    half = slope * (plain["high"] - plain["mean"])
    assert np.diff(logits) == pytest.approx([half, half])


def test_accuracies_that_are_all_perfect_have_an_interval_without_width():
    rows = pd.DataFrame({"condition": "a", "seed": range(3), "accuracy": 1.0})
    assert summarise(rows, ["condition"])[["low", "high"]].to_numpy().tolist() == [[1, 1]]


def test_intervals_agree_with_scipy(rows):
    by = ["condition", "images_per_real"]
    scores = rows.rename(columns={"accuracy": "score"})  # of a share the interval is another
    summary = summarise(scores, by, value="score").set_index(by)
    values = rows.query("condition == 'DI' and images_per_real == 5")["accuracy"]
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    row = summary.loc[("DI", 5)]
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert (row["mean"], row["std"], row["n"]) == pytest.approx((values.mean(), values.std(), 5))


def test_paired_differences_agree_with_scipy_and_are_tighter(rows):
    differences = paired_difference(rows, "DI", "real", ["images_per_real"], baseline_by=[])
    real = rows.query("condition == 'real'").sort_values("seed")["accuracy"].to_numpy()
    assert list(differences["images_per_real"]) == [1, 5]
    for _, row in differences.iterrows():
        ours = rows[(rows["condition"] == "DI") & (rows["images_per_real"] == row["images_per_real"])]
        ours = ours.sort_values("seed")["accuracy"].to_numpy()
        interval = stats.ttest_rel(ours, real).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        assert (
            row["high"] - row["low"] < 0.5 * np.diff(stats.ttest_ind(ours, real).confidence_interval()).item()
        )


def test_only_seeds_on_both_sides_are_paired(rows):
    fewer = rows[~((rows["condition"] == "real") & (rows["seed"] == 4))]
    assert paired_difference(fewer, "DI", "real", ["images_per_real"], baseline_by=[])["n"].tolist() == [4, 4]
    assert paired_difference(rows, "DI", "real", ["images_per_real"])["images_per_real"].tolist() == [1]
    assert paired_difference(rows.query("images_per_real == 1"), "DI", "real")["n"].tolist() == [5]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda rows: summarise(rows[rows["seed"] == 0], ["condition", "images_per_real"]),
            "at least 2 seeds",
        ),
        (lambda rows: summarise(rows, ["condition"]), "several rows of seed"),
        (lambda rows: summarise(rows, ["shots"]), 'no column "shots"'),
        (lambda rows: paired_difference(rows, "DI", "GAN"), 'no row of condition "GAN"'),
        (lambda rows: paired_difference(rows, "DI", "real"), "several rows of seed"),
        (lambda rows: paired_difference(rows.iloc[[0, 9]], "DI", "real"), "at least 2 seeds"),
        (lambda rows: paired_difference(rows.iloc[[0, 5]], "DI", "real"), "share no seed"),
        (lambda rows: paired_difference(rows, "DI", "real", baseline_by=["seed"]), "not in by"),
    ],
)
def test_what_cannot_be_summarised_is_refused_in_one_sentence(rows, call, words):
    with pytest.raises(ValueError, match=words) as error:
        call(rows)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_unfair_studies_are_refused_in_one_sentence(toy_images):
    few = grid()[:1]
    unequal = [*few, replace(few[0], training=replace(QUICK, optimiser_steps=7))]
    test_sets = {
        "resize one": toy_images.resize(24),
        "different classes": replace(toy_images, class_names=("a", "b", "c")),
    }
    for words, test in test_sets.items():
        with pytest.raises(ValueError, match=words):
            studies.run_study(few, train=toy_images, test=test, seeds=(0,))
    for conditions, seeds, words in [
        (unequal, (0, 1), "6, 7 optimiser_steps"),
        (few, (0, 0), "no new evidence"),
        (few, (), "at least one condition and one seed"),
        ([replace(few[0], with_real=True)], (0,), "drop with_real"),
        ([replace(few[0], images_per_real=-3)], (0,), "images_per_real is -3"),
    ]:
        with pytest.raises(ValueError, match=words):
            run(conditions, toy_images, seeds=seeds)
    with pytest.raises(ValueError, match='axis "seed"'):
        replace(few[0], axes={"seed": 1})


def test_what_a_later_condition_cannot_do_is_refused_before_the_first_training(
    toy_images, tiny_diffusion, monkeypatch
):
    monkeypatch.setattr(studies, "train_classifier", lambda *_, **__: pytest.fail("it has begun to train"))
    first, single = grid()[0], {"real_per_class": 1}
    mixing = DiffusionInversion(tiny_diffusion, perturbation=Perturbation(interpolation_weight=0.3))
    odd = DiffusionInversion(tiny_diffusion, sampling=Sampling(resolution=17))
    small = toy_images.resize(7)
    for later, images, words in [
        (replace(first, synthesizer=mixing, **single), toy_images, "no partner to interpolate with"),
        (replace(first, synthesizer=odd), toy_images, "resolution 17 does not suit"),
        (first, small, "images of 7 px are too small"),
    ]:
        with pytest.raises(ValueError, match=words):
            studies.run_study([first, later], train=images, test=images, seeds=(0,))


def test_holms_correction_steps_down_and_leaves_a_single_comparison_alone():
    # Holm 1979: the p-values 0.01, 0.02, 0.03 of three tests become 0.03, 0.04, 0.04.
    wanted = np.array([0.03, 0.01, 0.02])
    difference = stats.t.isf(wanted / 2, 4) / np.sqrt(5)  # with a deviation of 1 and five seeds
    effects = pd.DataFrame({"difference": difference * [1, -1, 1], "std": 1.0, "n": 5})
    found = holm(effects)
    np.testing.assert_allclose(found["p"], wanted)
    np.testing.assert_allclose(found["p_holm"], [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm(effects[:1])["p_holm"], wanted[:1])


def test_holms_p_values_are_those_of_scipy_and_a_certain_difference_is_certain():
    pairs = np.random.default_rng(0).normal(0.3, 1, (6, 2, 5))
    gaps = pairs[:, 0] - pairs[:, 1]
    spread = gaps.std(axis=1, ddof=1)
    found = holm(pd.DataFrame({"difference": gaps.mean(axis=1), "std": spread, "n": 5}))
    np.testing.assert_allclose(found["p"], [stats.ttest_rel(*pair).pvalue for pair in pairs])
    assert (found["p_holm"] <= 1).all()
    certain = holm(pd.DataFrame({"difference": [0.1, 0.0], "std": 0.0, "n": 5}))
    assert certain["p"].tolist() == [0, 1]
