"""The claims: what the paper reported, what the lessons found, and what an interval says of a claim."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from diffinv.artefacts.writing import ArtefactError
from diffinv.foundation import ASSETS

REPORTED = ASSETS / "paper_reported.csv"
CLAIMS = ("classifier_claims", "lecf_claims", "knn_claims", "generator_claims")
ACCURACY = "classifier_by_number_generated"
RETRIEVAL_CLAIM = "(c) DI is ahead of retrieving neighbours"


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
    fewest, most = made.min(), made.max()
    columns = {
        "real": ("real", 1),
        f"samples alone, {fewest} a real image": ("DI", fewest),
        f"samples alone, {most} a real image": ("DI", most),
        f"real + {most} samples": ("real + DI", most),
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
    judged = list(_judged(folder))
    if not judged:
        return ""
    rows = pd.concat(judged, ignore_index=True)
    datasets = list(dict.fromkeys(rows["dataset"]))
    cells = {(row.claim, row.dataset): _verdict(row) for row in rows.itertuples()}
    claims = sorted(dict.fromkeys(rows["claim"]), key=lambda claim: claim[:3])
    lines = [[claim, *(cells.get((claim, dataset), "") for dataset in datasets)] for claim in claims]
    return markdown_table(["claim of the paper", *datasets], lines)


def _judged(folder: str | Path) -> Iterator[pd.DataFrame]:
    for name in CLAIMS:
        needed = ("dataset", "difference", "low", "high", "verdict")
        rows = _read(folder, name, (*needed, "chosen" if name == "knn_claims" else "claim"))
        if rows is None:
            continue
        if "claim" not in rows:
            rows = rows[rows["chosen"]].assign(claim=RETRIEVAL_CLAIM)
        yield rows[["claim", *needed]]


def _read(folder: str | Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame | None:
    path = Path(folder) / f"{name}.csv"
    if not path.exists():
        return None
    rows = pd.read_csv(path)
    if missing := [column for column in columns if column not in rows]:
        raise ArtefactError(f"{path} lacks the column {missing[0]!r}: run its notebook again.")
    return rows


def _verdict(row) -> str:
    said = row.verdict if row.verdict == "undecided" else f"**{row.verdict}**"
    return f"{said} ({100 * row.difference:+.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}])"


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


def verdict(low: float, high: float) -> str:
    """What the interval of an effect says of the claim that it is positive."""
    if low > 0:
        return "supported"
    return "contradicted" if high < 0 else "undecided"


def gain_verdict(difference_low: float, difference_high: float, gain_low: float, gain_high: float) -> str:
    """What two intervals say of the claim that a gain is largest with few real images.

    The one is of the gain at the smallest size minus that at the largest, the other of the gain at the
    smallest size itself: a loss that is only smaller with few images than with many supports nothing. The
    claim is supported where both are, contradicted where one of them is, and else undecided.
    """
    verdicts = {verdict(difference_low, difference_high), verdict(gain_low, gain_high)}
    return next(word for word in ("contradicted", "undecided", "supported") if word in verdicts)


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown: one line of cells for each of `lines`, under the names of the columns."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
