"""Settings are chosen on the validation split, one after the other, each method with as many candidates."""

import json
from dataclasses import replace

import pytest

from diffinv import load_dataset, load_profile
from diffinv.lessons import methods
from diffinv.studies.search import chosen_settings, count_candidates, search
from diffinv.synthesizers.autoencode import Autoencode

TRAINING = replace(load_profile("smoke").training, optimiser_steps=2)
GRID = {"side": (32, 64, 96), "again": (1, 2, 30)}


@pytest.fixture
def scores(monkeypatch):
    """Accuracies by (setting values, seed) in the place of trainings, and the tries that were made."""
    tried = []

    def run_study(conditions, *, seeds, **_):
        import pandas as pd

        found = []
        for condition in conditions:
            side, again = condition.synthesizer
            found.append(SCORES[side][seeds[0]] + again / 100)
            if condition.name == "alone":  # one of the two of each try
                tried.append((side, again, seeds[0]))
        return pd.DataFrame({"condition": [c.name for c in conditions], "accuracy": found})

    monkeypatch.setattr("diffinv.studies.search.run_study", run_study)
    return tried


SCORES = {32: {0: 0.2, 1: 0.9}, 64: {0: 0.5, 1: 0.3}, 96: {0: 0.4, 1: 0.6}}


def search_in(grid):
    images = load_dataset("icons10", split="train")
    return search(
        grid,
        lambda settings: (settings["side"], settings["again"]),
        train=images,
        validation=images,
        training=TRAINING,
        seeds=(0, 1),
        images_per_real=1,
    )


def test_what_cannot_be_told_apart_is_not_worth_its_cost(scores):
    # The standard error of a share of 600 images is 2 points here: 1 point more is nothing, 5 are something.
    assert chosen_settings(search_in({"side": (96,), "again": (1, 2)}))["again"] == 1
    assert chosen_settings(search_in({"side": (96,), "again": (1, 6)}))["again"] == 6


def test_values_are_halved_and_the_choice_holds_for_the_next_setting(scores):
    rows = search_in(GRID)
    # Side 32 is best on average, but the worst with the first seed: it is not tried with the second.
    assert scores == [
        (32, 1, 0), (64, 1, 0), (96, 1, 0), (64, 1, 1), (96, 1, 1),
        (96, 1, 0), (96, 2, 0), (96, 30, 0), (96, 30, 1), (96, 2, 1), (96, 1, 1),
    ]  # fmt: skip
    assert chosen_settings(rows) == {"side": 96, "again": 30}
    assert json.loads(rows["settings"].iloc[-1]) == {"side": 96, "again": 1}
    assert rows["score"].iloc[0] == pytest.approx((rows["alone"].iloc[0] + rows["with real"].iloc[0]) / 2)


def test_a_search_trains_on_samples_alone_and_with_real_images(tinysd, tmp_path):
    train = load_dataset("icons10", split="train").per_class(2, seed=0)
    validation = load_dataset("icons10", split="validation").per_class(2, seed=0)
    rows = search(
        {"side": (32, 64)},
        lambda settings: Autoencode(tinysd, settings["side"]),
        train=train,
        validation=validation,
        training=TRAINING,
        seeds=(0,),
        images_per_real=1,
        cache_dir=tmp_path,
    )
    assert rows[["setting", "value", "seed"]].values.tolist() == [["side", 32, 0], ["side", 64, 0]]
    assert rows[["alone", "with real"]].stack().between(0, 1).all() and rows["chosen"].sum() == 1


def test_a_setting_without_a_value_is_refused():
    images = load_dataset("icons10", split="train")
    with pytest.raises(ValueError, match="no value of side"):
        search(
            {"side": ()},
            lambda _: None,
            train=images,
            validation=images,
            training=TRAINING,
            seeds=(0,),
            images_per_real=1,
        )


def test_every_method_has_as_many_candidates():
    assert count_candidates(GRID) == 5
    counts = {method: count_candidates(grid) for method, grid in methods.SEARCHED.items()}
    assert counts.pop("DI from the prompt") == 4  # which has fewer: it changes one thing about DI
    counts["GAN inversion"] += counts.pop("GAN") - 1  # whose own choice comes first
    assert set(counts.values()) == {12}


def test_what_is_searched_are_settings_of_a_profile():
    tiny = load_profile("tiny")
    for grid in (*methods.SEARCHED.values(), *methods.SHARED.values()):
        for setting, values in grid.items():
            part, field = setting.split(".")
            for value in values:
                assert getattr(getattr(tiny.changed({setting: value}), part), field) == value


def test_the_settings_of_tiny_are_those_that_the_search_chose():
    import pandas as pd

    rows = pd.read_csv(methods.ASSETS / "settings_search.csv", dtype={"value": str})
    tiny = load_profile("tiny")
    for (dataset, method), own in rows.groupby(["dataset", "method"]):
        profile = tiny.for_dataset(dataset)
        if method == "DI from the prompt":
            profile = methods.from_prompt(profile)
        for setting, value in chosen_settings(own).items():
            part, field = setting.split(".")
            found = getattr(getattr(profile, part), field)
            assert (found if isinstance(found, str) else f"{found:g}") == value, (dataset, setting)


def test_a_table_of_the_search_marks_one_choice_per_setting_and_dataset():
    table = methods.searched("DI", ["icons10"])
    stars = table["icons10"].str.endswith("*").groupby("setting").sum()
    assert set(stars) == {1} and "inversion.steps_per_image" in stars
    assert methods.searched("DI", ["stl10"]).empty
