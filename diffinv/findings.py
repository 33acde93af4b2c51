"""What the lessons found, claim by claim, read from the tables beside their figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffinv.cache import ArtefactError
from diffinv.markdown import markdown_table

if TYPE_CHECKING:
    import pandas as pd

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
    import pandas as pd

    judged = list(_judged(folder))
    if not judged:
        return ""
    rows = pd.concat(judged, ignore_index=True)
    datasets = list(dict.fromkeys(rows["dataset"]))
    cells = {(row.claim, row.dataset): _verdict(row) for row in rows.itertuples()}
    claims = sorted(dict.fromkeys(rows["claim"]), key=lambda claim: claim[:3])
    lines = [[claim, *(cells.get((claim, dataset), "") for dataset in datasets)] for claim in claims]
    return markdown_table(["claim of the paper", *datasets], lines)


def _judged(folder: str | Path) -> Iterator["pd.DataFrame"]:
    for name in CLAIMS:
        needed = ("dataset", "difference", "low", "high", "verdict")
        rows = _read(folder, name, (*needed, "chosen" if name == "knn_claims" else "claim"))
        if rows is None:
            continue
        if "claim" not in rows:
            rows = rows[rows["chosen"]].assign(claim=RETRIEVAL_CLAIM)
        yield rows[["claim", *needed]]


def _read(folder: str | Path, name: str, columns: tuple[str, ...]) -> "pd.DataFrame | None":
    import pandas as pd

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
