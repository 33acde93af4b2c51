"""`diffinv findings`: what the lessons found, read from the tables beside their figures."""

from pathlib import Path

import pandas as pd
import pytest

from diffinv.artefacts.writing import ArtefactError
from diffinv.commands.main import main
from diffinv.studies.claims import (
    JUDGED,
    accuracy_table,
    beside_paper,
    compare,
    findings,
    in_words,
    judge,
    when_it_pays,
)
from diffinv.studies.ledger import compact_table, ledger
from diffinv.studies.statistics import seeds_needed, worth_in_real_images

ROOT = Path(__file__).parents[2]
EFFECT = {
    "difference": -0.1, "low": -0.2, "high": -0.05, "n": 3, "verdict": "contradicted", "seeds_needed": 3,
}  # fmt: skip


def test_the_documentation_says_what_the_figures_say():
    figures, readme = ROOT / "figures", (ROOT / "README.md").read_text()
    assert accuracy_table(figures) in readme and compact_table(ledger(figures)) in readme
    assert findings(figures) in (ROOT / "docs" / "findings.md").read_text(), (
        "paste what `diffinv findings` prints there, and in README what it prints with --compact"
    )


def test_a_lesson_alone_and_a_dataset_alone_make_a_table(tmp_path, capsys):
    rows = [{"claim": f"(c) {place}", "dataset": "pets", **EFFECT} for place in ("first", "second")]
    open_one = {"verdict": "undecided", "high": 0.1, "seeds_needed": 12}
    rows[1] |= open_one
    pd.DataFrame(rows).to_csv(tmp_path / "knn_claims.csv", index=False)
    assert main(["findings", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| claim of the paper | pets |" and len(printed) == 4
    assert printed[2] == "| (c) first | **contradicted** (-10.0 [-20.0, -5.0]) |"
    assert printed[3] == "| (c) second | undecided (-10.0 [-20.0, 10.0]; 12 seeds would decide) |"


@pytest.fixture
def results():
    accuracies = {"DI": (0.6, 0.7, 0.65), "real": (0.5, 0.55, 0.52), "LECF": (0.5, 0.8, 0.7)}
    rows = [
        {"condition": name, "dataset": "pets", "seed": seed, "accuracy": value}
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_claims_are_judged_by_their_intervals_and_say_how_many_seeds_would_decide(results):
    effects = judge({"(a) ahead": (results, "DI", "real"), "(b) ahead": (results, "DI", "LECF")})
    assert list(effects.columns) == list(JUDGED)
    first, second = effects.itertuples()
    assert (first.verdict, second.verdict) == ("supported", "undecided")
    assert first.low > 0 and first.seeds_needed <= 3
    assert second.low < 0 < second.high and second.seeds_needed > 3
    assert in_words(effects).splitlines()[0] == "(a) ahead: supported on 1 of 1 datasets"
    table = beside_paper(effects, {"(a)": "rises"})
    assert table.loc[0, "paper"] == "rises" and table.loc[0, "effect (points)"] == "+12.7"


def test_a_comparison_is_decided_by_its_interval_dataset_by_dataset(results):
    turned = {"real": "DI", "DI": "real"}
    both = pd.concat(
        [results, results.assign(dataset="cars", condition=results["condition"].replace(turned))]
    )
    said = compare(both, [("DI", "real"), ("DI", "LECF")], {"cars": "seen from afar"}).splitlines()
    assert [said[0], said[3]] == ["pets:", "cars, seen from afar:"] and len(said) == 6
    better, open_one, worse = (said[line].strip() for line in (1, 2, 4))
    assert better.startswith("DI against real: +12.7 points (+") and better.endswith("), better")
    assert open_one.endswith("not told apart") and worse.endswith("), worse")


def test_each_verdict_that_occurs_has_its_sentence_with_its_datasets():
    verdicts = ["supported", "undecided", "supported", "no difference"]
    effects = pd.DataFrame({"dataset": ["a", "b", "c", "d"], "verdict": verdicts})
    words = {"supported": "It paid on {}.", "contradicted": "Not on {}.", "equal": "As well without on {}."}
    said = when_it_pays(effects, **words).splitlines()
    assert said == ["It paid on a, c.", "As well without on d.", "These seeds cannot tell on b."]


def test_more_seeds_decide_a_smaller_effect():
    from scipy import stats

    for difference, std in ((0.1, 0.05), (0.05, 0.1), (-0.05, 0.1)):
        count = seeds_needed(difference, std)
        half = [stats.t.ppf(0.975, n - 1) * std / n**0.5 for n in (count, count - 1)]
        assert half[0] < abs(difference) and (count == 2 or half[1] >= abs(difference))
    assert seeds_needed(0, 0.1) == 1000
    # With a margin, an effect of almost nothing is decided too, by as many seeds as one of the whole margin.
    assert seeds_needed(0, 0.02, margin=0.03) == seeds_needed(0.03, 0.02)
    assert seeds_needed(0.01, 0.02, margin=0.03) == seeds_needed(0.02, 0.02) < seeds_needed(0.01, 0.02)


def test_what_samples_are_worth_is_read_off_the_curve_of_real_images():
    sizes, heights = (2, 4, 8, 16), {0: (0.2, 0.3, 0.4, 0.5), 1: (0.2, 0.4, 0.3, 0.5)}
    rows = [
        {"condition": "real", "real_per_class": size, "seed": seed, "accuracy": height}
        for seed, curve in heights.items()
        for size, height in zip(sizes, curve, strict=True)
    ]
    for seed, accuracy in ((0, 0.4), (1, 0.4)):
        rows.append({"condition": "both", "real_per_class": 4, "seed": seed, "accuracy": accuracy})
    for seed in (0, 1):
        rows.append({"condition": "both", "real_per_class": 8, "seed": seed, "accuracy": 0.6})
    worth = worth_in_real_images(pd.DataFrame(rows), "both").set_index("real_per_class")
    # As good as 8 real images on the curve of seed 0, and as 4 on that of seed 1, which is level from there.
    assert worth.loc[4, "ratio"] == pytest.approx(2**0.5) and worth.loc[4, "beyond"] == 0
    assert worth.loc[8, "ratio"] == pytest.approx(2) and worth.loc[8, "beyond"] == 2
    assert (worth["low"] <= worth["ratio"]).all() and (worth["ratio"] <= worth["high"]).all()


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
    (tmp_path / "lecf_claims.csv").write_text("dataset,difference,low,high,n,verdict,seeds_needed\n")
    with pytest.raises(ArtefactError, match=r"lecf_claims\.csv lacks the column 'claim'"):
        findings(tmp_path)
