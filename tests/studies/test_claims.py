"""`diffinv findings`: what the lessons found, read from the tables beside their figures."""

from pathlib import Path

import pandas as pd
import pytest

from diffinv.artefacts.writing import ArtefactError
from diffinv.commands.main import main
from diffinv.studies.claims import findings

ROOT = Path(__file__).parents[2]
EFFECT = {"difference": -0.1, "low": -0.2, "high": -0.05, "n": 3, "verdict": "contradicted"}


def test_the_readme_says_what_the_figures_say():
    assert findings(ROOT / "figures") in (ROOT / "README.md").read_text(), (
        "paste what `diffinv findings` prints"
    )


def test_a_lesson_alone_and_a_dataset_alone_make_a_table(tmp_path, capsys):
    rows = [{"dataset": "pets", "k": k, "chosen": k == 25, **EFFECT} for k in (10, 25)]
    pd.DataFrame(rows).assign(low=[-0.4, -0.2]).to_csv(tmp_path / "knn_claims.csv", index=False)
    assert main(["findings", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| claim of the paper | pets |" and len(printed) == 3
    assert printed[2].endswith("| **contradicted** (-10.0 [-20.0, -5.0]) |"), "the k that was chosen"


def test_claims_follow_the_papers_order_and_a_missing_cell_is_empty(tmp_path):
    claims = [("(d) later", "b"), ("(d) later", "a")]
    pd.DataFrame([{"claim": c, "dataset": d, **EFFECT} for c, d in claims]).to_csv(
        tmp_path / "generator_claims.csv"
    )
    pd.DataFrame([{"claim": "(a) first", "dataset": "a", **EFFECT}]).to_csv(
        tmp_path / "classifier_claims.csv"
    )
    _, _, first, later = findings(tmp_path).splitlines()
    assert first.startswith("| (a) first | **contradicted**") and first.endswith(" |  |")
    assert later.count("contradicted") == 2


def test_an_empty_folder_and_a_spoilt_table_are_said_in_one_sentence(tmp_path, capsys):
    assert main(["findings", str(tmp_path)]) != 0
    assert capsys.readouterr().err.endswith("run diffinv reproduce --only 03,04,05,06 first.\n")
    (tmp_path / "lecf_claims.csv").write_text("dataset,difference,low,high,verdict\n")
    with pytest.raises(ArtefactError, match=r"lecf_claims\.csv lacks the column 'claim'"):
        findings(tmp_path)
