"""The ledger of all claims: every claim has a row, whatever has run, and says where it comes from."""

import pandas as pd
import pytest

from diffinv.artefacts.writing import ArtefactError
from diffinv.commands.main import main
from diffinv.studies.claims import EVERY, judge_times
from diffinv.studies.ledger import (
    NOT_TESTED,
    PAYS,
    RIVALS,
    STATEMENTS,
    advice,
    compact_table,
    datasets_of,
    ledger,
    papers_number,
)

GAIN = {"difference": 0.1, "low": 0.05, "high": 0.15, "n": 5, "verdict": "supported", "seeds_needed": 3}
LOSS = {**GAIN, "difference": -0.1, "low": -0.15, "high": -0.05, "verdict": "contradicted"}
OPEN = {**GAIN, "low": -0.05, "high": 0.25, "verdict": "undecided", "seeds_needed": 12}


def write(folder, name, *rows):
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture
def folders(tmp_path):
    """Lesson 03 has run twice, and its new rows count; lesson 05 only ships."""
    ours, shipped = tmp_path / "ours", tmp_path / "shipped"
    for place, verdict in ((ours, OPEN), (shipped, LOSS)):
        write(
            place, "classifier_claims", *({"claim": PAYS, "dataset": d, **verdict} for d in ("pets", "toys"))
        )
    words = next(iter(RIVALS))
    write(
        shipped,
        "lecf_claims",
        {"claim": words, "dataset": "pets", **LOSS},
        {"claim": words, "dataset": "toys", **GAIN},
    )
    return ours, shipped


def test_what_has_not_run_comes_from_elsewhere_and_says_so(folders):
    rows = ledger(*folders)
    sources = rows.dropna(subset="dataset").groupby("lesson")["source"].unique().to_dict()
    assert {lesson: list(found) for lesson, found in sources.items()} == {
        "03": ["this run"],
        "05": ["shipped"],
    }
    assert rows.loc[rows["letter"] == "(a)", "verdict"].eq("undecided").all(), "the new rows"
    assert list(ledger(folders[0]).dropna(subset="dataset")["lesson"]) == ["03", "03"]


def test_every_letter_has_a_row_and_those_without_evidence_are_not_tested(folders):
    rows = ledger(*folders)
    assert list(rows["letter"].unique()) == list(STATEMENTS), "in the paper's order"
    assert set(rows.loc[rows["verdict"] == NOT_TESTED, "letter"]) == set(STATEMENTS) - {"(a)", "(b)"}
    assert datasets_of(rows) == ["pets", "toys"]
    assert set(ledger(folders[0] / "nothing")["verdict"]) == {NOT_TESTED}


def test_a_claim_without_a_letter_is_refused(folders):
    write(folders[0], "knn_claims", {"claim": "retrieval is worse", "dataset": "pets", **GAIN})
    with pytest.raises(ArtefactError, match="'ret' is no letter of a claim"):
        ledger(*folders)


def test_the_paper_number_is_computed_from_what_it_reports_with_its_mark():
    assert papers_number("(f)") == "6.5x (primary)" and papers_number("(k)") == ""
    assert papers_number("(c)").startswith("pathmnist +52.2, "), "82.1 - 29.9, that of the best k"
    assert papers_number("(d)") == "cifar10 +10.8 (secondary)"


def test_one_line_per_letter_with_every_effect(folders, capsys):
    timed = {**GAIN, "claim": "(f) cheaper", "dataset": EVERY, "difference": 3.5, "unit": "times"}
    write(folders[1], "runtime_claims", timed)
    lines = compact_table(ledger(*folders)).splitlines()
    assert len(lines) == 2 + len(STATEMENTS)
    assert lines[2].endswith(f"**<br>{PAYS[4:]} | <br>? +10.0 | <br>? +10.0 |")
    assert lines[3].endswith("| <br>✗ -10.0 | <br>✓ +10.0 |")
    assert lines[7].endswith("| <br>✓ 3.5x | <br>✓ 3.5x |") and lines[8].endswith(
        f"| {NOT_TESTED} | {NOT_TESTED} |"
    )
    assert main(["findings", "--compact", str(folders[0])]) == 0
    assert capsys.readouterr().out.splitlines()[2] == lines[2]


def test_the_advice_follows_from_the_rows(folders):
    said = advice(ledger(*folders))
    assert said["pets"] == (
        "nothing shows that inverting images pays beside the real images (+10.0 [-5.0, 25.0]); "
        "ahead of it: words (LECF) (-10.0 [-15.0, -5.0])."
    )
    assert "behind it: words" in said["toys"]
    equal = {**OPEN, "verdict": "no difference", "low": -0.02, "high": 0.02, "difference": 0.0}
    write(folders[0], "classifier_claims", {"claim": PAYS, "dataset": "pets", **equal})
    assert advice(ledger(*folders))["pets"].startswith("inverting images makes no difference beside")
    write(folders[0], "classifier_claims", {"claim": PAYS, "dataset": "pets", **GAIN})
    said = advice(ledger(*folders))
    assert said["pets"].startswith("inverting images pays") and said["toys"].startswith("not tested")


def test_a_ratio_is_judged_against_one():
    rows = pd.DataFrame(
        [
            {"condition": name, "dataset": EVERY, "seed": seed, "seconds": seconds * (1 + 0.01 * seed)}
            for name, seconds in (("large", 4.0), ("small", 2.0))
            for seed in range(3)
        ]
    )
    (found,) = judge_times({"(f) small is cheaper": (rows, "large", "small")}, "seconds").itertuples()
    assert found.difference == pytest.approx(2) and found.low == pytest.approx(2) and found.unit == "times"
    assert found.verdict == "supported"
    (other,) = judge_times({"(f) large is cheaper": (rows, "small", "large")}, "seconds").itertuples()
    assert other.difference == pytest.approx(0.5) and other.verdict == "contradicted"
