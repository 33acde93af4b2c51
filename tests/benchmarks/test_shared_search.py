"""The search for a way to train judges real images, samples and both alike, and heeds the lessons' budget."""

import pandas as pd

from benchmarks import shared_search


def test_the_best_that_the_budget_allows_is_chosen_over_all_datasets(tmp_path, fresh_cache, monkeypatch):
    tries = {"training.batch_size": (16, 8), "training.optimiser_steps": (4, 40)}
    monkeypatch.setitem(shared_search.SHARED, "training", tries)
    monkeypatch.setattr(shared_search, "MOST_IMAGES", 16 * 4)
    output = tmp_path / "search.csv"
    asked = ["--profile", "smoke", "--datasets", "icons10", "mnist5k", "--images-per-real", "1"]
    shared_search.main([*asked, "--output", str(output)])
    rows = pd.read_csv(output)
    assert set(rows["method"]) == {"training"} and len(rows) == 2 * 2 * 2 * 2, "two seeds of each try"
    assert (rows["score"] - rows[["real", "alone", "with real"]].mean(axis=1)).abs().max() < 1e-3
    chosen = rows[rows["chosen"]].groupby("setting")["value"].unique()
    assert all(len(values) == 1 for values in chosen), "one choice for all datasets"
    assert chosen["training.optimiser_steps"][0] == 4, "40 steps are too many images"
