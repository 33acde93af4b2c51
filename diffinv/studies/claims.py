"""The claims: what the paper reported, what the lessons found, and what an interval says of a claim."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffinv.artefacts.writing import ArtefactError
from diffinv.foundation import ASSETS
from diffinv.studies.statistics import describe_gain, paired_difference, seeds_needed

REPORTED = ASSETS / "paper_reported.csv"
# The tables of judged claims, and the number of the lesson that writes each.
CLAIMS: Mapping[str, str] = {
    "classifier_claims": "03",
    "generator_claims": "04",
    "lecf_claims": "05",
    "knn_claims": "06",
    "few_shot_claims": "07",
    "architecture_claims": "08",
    "augmentation_claims": "09",
    "ablations_claims": "10",
    "runtime_claims": "11",
}
ACCURACY = "classifier_by_number_generated"
JUDGED = ("claim", "dataset", "difference", "low", "high", "n", "verdict", "seeds_needed")
# Within so many points of zero, two methods count as equal: about the standard error of one accuracy on the
# 340 test images of icons10, sqrt(0.6 * 0.4 / 340). Fixed when five of the eight seeds had been seen.
MARGIN = 0.03
SUPPORTED, CONTRADICTED, EQUAL, UNDECIDED = VERDICTS = (
    "supported",
    "contradicted",
    "no difference",
    "undecided",
)
EVERY = "every dataset"  # of a claim that no dataset has a part in, such as one on times
POINTS, TIMES = "points", "times"  # units of an effect: a difference of accuracies, or a ratio


def judge(claims: Mapping[str, tuple[pd.DataFrame, str, str]]) -> pd.DataFrame:
    """What result rows say of claims: one row for each claim and dataset, with the columns `JUDGED`.

    `claims[text] = (rows, a, b)` says that the condition a is ahead of b. Each effect, a minus b in accuracy,
    is paired by seed, and so by the real images; its 95 % t-interval decides the verdict (`verdict`).
    `seeds_needed` is the number of seeds that would decide it, one way or the other, if mean and deviation
    stayed as they are.
    """
    found = (paired_difference(*sides, by=["dataset"]).assign(claim=claim) for claim, sides in claims.items())
    effects = pd.concat(found, ignore_index=True)
    effects["verdict"] = list(map(verdict, effects["low"], effects["high"]))
    effects["seeds_needed"] = [
        seeds_needed(row.difference, row.std, margin=MARGIN) for row in effects.itertuples()
    ]
    return effects[list(JUDGED)]


def judge_times(claims: Mapping[str, tuple[pd.DataFrame, str, str]], value: str) -> pd.DataFrame:
    """As `judge`, of a ratio: how many times the `value` of condition b that of a is, "supported" above 1.

    The t-interval is that of the logarithm, paired by seed; the margin of no difference is 3 %. One more
    column, unit, is "times".
    """
    logs = {
        claim: (rows.assign(accuracy=np.log(rows[value])), a, b) for claim, (rows, a, b) in claims.items()
    }
    effects = judge(logs)
    ends = ["difference", "low", "high"]
    return effects.assign(**{end: np.exp(effects[end]) for end in ends}, unit=TIMES)


def beside_paper(effects: pd.DataFrame, paper: Mapping[str, str]) -> pd.DataFrame:
    """Judged claims in points of accuracy, beside what the paper finds; `paper["(a)"]` is a sentence."""
    table = effects.assign(paper=effects["claim"].str[:3].map(paper))
    in_times = set(table.get("unit", ())) == {TIMES}
    for column in ("difference", "low", "high"):
        table[column] = table[column].map("{:.1f}".format if in_times else "{:+.1%}".format).str.rstrip("%")
    names = {
        "difference": "effect (times)" if in_times else "effect (points)",
        "low": "95 % low",
        "high": "95 % high",
        "n": "seeds",
    }
    return table.rename(columns={**names, "seeds_needed": "seeds that decide"})


def in_words(effects: pd.DataFrame) -> str:
    """One line for each claim: on how many datasets it is supported, contradicted, and so on."""
    lines = []
    for claim, verdicts in effects.groupby("claim", sort=False)["verdict"]:
        counts = [f"{word} on {n} of {len(verdicts)} datasets" for word, n in verdicts.value_counts().items()]
        lines.append(f"{claim}: {', '.join(counts)}")
    return "\n".join(lines)


def compare(
    rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], notes: Mapping[str, str] | None = None
) -> str:
    """A line for each dataset, and under it one for each pair (a, b): a minus b, and which teaches more.

    The effects are paired by seed, and their 95 % intervals decide. `notes[dataset]` stands beside its name.
    """
    found = {f"{a} against {b}": paired_difference(rows, a, b, by=["dataset"]) for a, b in pairs}
    lines = []
    for dataset in rows["dataset"].unique():
        note = (notes or {}).get(dataset)
        lines.append(f"{dataset}, {note}:" if note else f"{dataset}:")
        for pair, effects in found.items():
            lines.append(f"    {pair}: {describe_gain(effects[effects['dataset'] == dataset])}")
    return "\n".join(lines)


def when_it_pays(effects: pd.DataFrame, *, supported: str, contradicted: str, equal: str) -> str:
    """Judged rows of one claim in sentences, one for each verdict that occurs.

    A sentence holds `{}` where the names of its datasets go.
    """
    told = (supported, contradicted, equal, "These seeds cannot tell on {}.")
    sentences = dict(zip(VERDICTS, told, strict=True))
    datasets = {word: effects.loc[effects["verdict"] == word, "dataset"] for word in sentences}
    said = (sentences[word].format(", ".join(names)) for word, names in datasets.items() if len(names))
    return "\n".join(said)


def findings(folder: str | Path = "figures") -> str:
    """Both tables, as Markdown, of the lessons that have run into this folder.

    ArtefactError, one sentence, where none has, or where a table lacks a column.
    """
    tables = [table for table in (accuracy_table(folder), claims_table(folder)) if table]
    if not tables:
        raise ArtefactError(f"{folder} holds no findings: run diffinv reproduce --only 03,04,05,06 first.")
    return "\n\n".join(tables)


def accuracy_table(folder: str | Path = "figures") -> str:
    """Test accuracy with intervals: real images, samples alone, both; "" where lesson 03 has not run."""
    rows = _read(folder, ACCURACY, ("dataset", "condition", "images_per_real", "mean", "low", "high"))
    if rows is None:
        return ""
    made = rows.loc[rows["condition"] == "DI", "images_per_real"]
    fewest, most = made.min(), made.groupby(rows["dataset"]).max().min()  # that all datasets have
    columns = {
        "real": ("real", 1),
        f"samples alone, {fewest} per real image": ("DI", fewest),
        f"samples alone, {most} per real image": ("DI", most),
        f"real images and {most} samples of each": ("real + DI", most),
    }
    found = rows.set_index(["dataset", "condition", "images_per_real"])
    lines = []
    for dataset in rows["dataset"].unique():
        cells = (found.loc[(dataset, *column)] for column in columns.values())
        intervals = (f"{100 * c['mean']:.1f} % [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in cells)
        lines.append([dataset, *intervals])
    return markdown_table(["dataset", *columns], lines)


def claims_table(folder: str | Path = "figures") -> str:
    """Each claim's verdict, effect and interval in points of accuracy; "" where no lesson has judged one."""
    rows = judged(folder)
    if rows.empty:
        return ""
    datasets = [name for name in rows["dataset"].unique() if name != EVERY]
    cells = {(row.claim, row.dataset): _verdict(row) for row in rows.itertuples()}
    claims = sorted(rows["claim"].unique(), key=lambda claim: claim[:3])
    lines = [
        [claim, *(cells.get((claim, dataset), cells.get((claim, EVERY), "")) for dataset in datasets)]
        for claim in claims
    ]
    return markdown_table(["claim of the paper", *datasets], lines)


def judged(folder: str | Path, *, otherwise: str | Path | None = None) -> pd.DataFrame:
    """All judged claims that the lessons wrote to a folder, each with its lesson, unit and source.

    A lesson that has written none there is looked up in `otherwise`; `source` is then "shipped" and not
    "this run".
    ArtefactError where a table lacks a column.
    """
    tables = []
    for name, lesson in CLAIMS.items():
        for source, place in (("this run", folder), ("shipped", otherwise)):
            rows = None if place is None else _read(place, name, JUDGED)
            if rows is not None:
                unit = rows.get("unit", POINTS)
                tables.append(rows[list(JUDGED)].assign(unit=unit, lesson=lesson, source=source))
                break
    empty = pd.DataFrame(columns=[*JUDGED, "unit", "lesson", "source"])
    return pd.concat(tables, ignore_index=True) if tables else empty


def _read(folder: str | Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame | None:
    path = Path(folder) / f"{name}.csv"
    if not path.exists():
        return None
    rows = pd.read_csv(path)
    if missing := [column for column in columns if column not in rows]:
        raise ArtefactError(f"{path} lacks the column {missing[0]!r}: run its notebook again.")
    return rows


def effect_in_words(row) -> str:
    """The effect of a judged row with its interval, as "+1.2 [0.3, 2.1]" or "3.5x [3.4, 3.7]"."""
    if row.unit == TIMES:
        return f"{row.difference:.1f}x [{row.low:.1f}, {row.high:.1f}]"
    return f"{100 * row.difference:+.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"


def _verdict(row) -> str:
    if row.verdict == UNDECIDED:
        return f"undecided ({effect_in_words(row)}; {row.seeds_needed:.0f} seeds would decide)"
    return f"**{row.verdict}** ({effect_in_words(row)})"


def paper_reported(item: str | None = None) -> pd.DataFrame:
    """The paper's numbers for a figure or table such as "fig6", each with how far it is verified.

    `verified` is "primary" (the paper itself) or "secondary" (one unofficial note about it, which may be
    wrong); what is not listed is not known. ValueError for an item without a number.
    """
    rows = pd.read_csv(REPORTED, keep_default_na=False)
    if item is None:
        return rows
    if item not in set(rows["item"]):
        known = ", ".join(rows["item"].unique())
        raise ValueError(f"no number of the paper is known for {item!r}: ask for one of {known}.")
    rows = rows[rows["item"] == item].drop(columns="item").reset_index(drop=True)
    numbers = pd.to_numeric(rows["value"], errors="coerce")  # "2-3" is a value too
    return rows.assign(value=numbers) if numbers.notna().all() else rows


def verdict(low: float, high: float, *, margin: float = MARGIN) -> str:
    """What the interval of an effect says of the claim that it is positive: one of `VERDICTS`.

    "no difference" is an interval that holds zero and lies within the margin on either side of it.
    """
    if low > 0:
        return SUPPORTED
    if high < 0:
        return CONTRADICTED
    return EQUAL if max(-low, high) < margin else UNDECIDED


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown: one line of cells for each of `lines`, under the names of the columns."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
