"""The search for settings writes its rows, one dataset and method in the place of what it found before."""

import pandas as pd

from benchmarks.settings_search import main
from diffinv.lessons import methods


def test_a_search_writes_its_rows_and_replaces_its_own(tmp_path, fresh_cache, monkeypatch):
    tried = (25, 16)
    monkeypatch.setattr(methods, "SEARCHED", {"KNN": {"retrieval_lesson.k": tried}})
    output = tmp_path / "search.csv"
    asked = ["--profile", "smoke", "--datasets", "icons10", "--methods", "KNN", "--output", str(output)]
    main(asked)
    rows = pd.read_csv(output)
    first = rows[rows["seed"] == 0]
    assert list(first["value"]) == list(tried) and set(rows["seed"]) == {0, 1}
    assert len(rows) == len(tried) + len(tried) // 2, "the better half is tried with the second seed"
    assert rows.loc[rows["chosen"], "value"].nunique() == 1
    other = rows.assign(dataset="novel10")
    pd.concat([rows.assign(score=0), other]).to_csv(output, index=False)
    main(asked)
    again = pd.read_csv(output)
    assert len(again) == 2 * len(rows)
    assert again[again["dataset"] == "icons10"]["score"].tolist() == rows["score"].tolist()
