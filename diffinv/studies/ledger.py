"""The ledger: every claim of the paper on every dataset, its verdict, and when inverting images pays."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from diffinv.artefacts.writing import ArtefactError
from diffinv.studies.claims import (
    CONTRADICTED,
    EQUAL,
    EVERY,
    SUPPORTED,
    TIMES,
    UNDECIDED,
    VERDICTS,
    effect_in_words,
    judged,
    markdown_table,
    paper_reported,
)

NOT_TESTED = "not tested"
# What the paper claims, by letter, and where in it.
STATEMENTS: Mapping[str, str] = {
    "(a)": "samples teach, alone and beside the real images (Fig. 1b, 6)",
    "(b)": "DI against words: LECF, ahead at 1 shot (Table 2, Fig. 7)",
    "(c)": "DI is ahead of retrieval (Table 3)",
    "(d)": "the generator matters (Fig. 5)",
    "(e)": "samples help most where real images are few (Fig. 6, 7a)",
    "(f)": "the target side is cheaper (Fig. 4)",
    "(g)": "samples help every architecture (Fig. 7c)",
    "(h)": "samples beat augmentation, and combine with it (Table 4)",
    "(i)": "guidance, updates, the mean unconditional vector (Fig. 8a, 8b)",
    "(j)": "noise and interpolation (Fig. 8c, 8d, Table 5)",
    "(k)": "the autoencoder loses something (Table 1)",
}
# The paper's numbers: the item of `paper_reported`, and whose accuracies are subtracted.
COMPARED: Mapping[str, tuple[str, str, str]] = {
    "(a)": ("fig6", "DI", "real"),
    "(b)": ("fig7a", "DI", "LECF"),
    "(c)": ("table3", "DI", "KNN"),
    "(d)": ("fig5", "DI", "GAN inversion"),
    "(h)": ("table4", "DI", "real"),
}
HEADLINES: Mapping[str, str] = {"(e)": "sample complexity gain", "(f)": "sampling speed-up"}
MARKS: Mapping[str, str] = dict(zip(VERDICTS, "✓✗=?", strict=True))
# What decides whether inverting images pays, and what else might pay instead.
PAYS = "(a) real images and samples beat real images alone"
RIVALS: Mapping[str, str] = {
    "(b) beside real images, DI is ahead of LECF": "words (LECF)",
    "(c) DI is ahead of retrieving neighbours": "retrieval",
    "(d) DI is ahead of GAN inversion": "the inversion of a GAN of the same images",
}


def ledger(results: str | Path, shipped: str | Path | None = None) -> pd.DataFrame:
    """One row per claim and dataset, as `judged`, and one per letter that no lesson has tested.

    `results` is the folder that lessons wrote to; what a lesson has not written there is taken from
    `shipped`, and the column `source` says so. `letter` and `paper` are the claim's letter and the paper's
    number with its mark, "" where it has none.
    """
    rows = judged(results, otherwise=shipped)
    rows.insert(0, "letter", rows["claim"].str[:3])
    if unknown := sorted(set(rows["letter"]) - set(STATEMENTS)):
        raise ArtefactError(f"{unknown[0]!r} is no letter of a claim: begin a claim with one of (a) to (k).")
    missing = [letter for letter in STATEMENTS if letter not in set(rows["letter"])]
    untested = pd.DataFrame(
        [
            {"letter": letter, "claim": f"{letter} {STATEMENTS[letter]}", "verdict": NOT_TESTED}
            for letter in missing
        ]
    )
    rows = pd.concat([rows, untested], ignore_index=True).sort_values("letter", kind="stable")
    rows = rows.astype({"n": "Int64", "seeds_needed": "Int64"})  # absent where nothing was tested
    return rows.assign(paper=rows["letter"].map(papers_number)).reset_index(drop=True)


def shipped_figures() -> Path | None:
    """The figures that a clone ships, seen from it or from its notebooks; None where there are none."""
    return next((place for place in (Path("figures"), Path("../figures")) if place.is_dir()), None)


def papers_number(letter: str) -> str:
    """What the paper reports of a claim, with how far that is verified; "" where no number is known."""
    if letter in HEADLINES:
        row = paper_reported("headline").set_index("metric").loc[HEADLINES[letter]]
        return f"{row['value']}{row['unit']} ({row['verified']})"
    if letter not in COMPARED:
        return ""
    item, ours, theirs = COMPARED[letter]
    rows = paper_reported(item)
    sides = [rows[rows["method"] == method] for method in (ours, theirs)]
    alike = [key for key in ("dataset", "setting") if set(sides[0][key]) & set(sides[1][key])]
    best = [side.groupby(alike, sort=False)["value"].max() for side in sides]  # of several k, the best
    found = (best[0] - best[1]).dropna()
    places = [" ".join(key if isinstance(key, tuple) else (key,)).strip() for key in found.index]
    said = ", ".join(f"{place} {value:+.1f}" for place, value in zip(places, found, strict=True))
    return f"{said} ({', '.join(sorted(rows['verified'].unique()))})"


def datasets_of(rows: pd.DataFrame) -> list[str]:
    """The datasets of a ledger, in their order."""
    return [name for name in rows["dataset"].dropna().unique() if name != EVERY]


def compact_table(rows: pd.DataFrame) -> str:
    """A ledger as Markdown with one row per letter, and in it one line per claim: its mark and its effect.

    ✓ is supported, ✗ contradicted, = no difference, ? undecided, - not tested; effects in points of accuracy,
    or "x" for times.
    """
    datasets = datasets_of(rows)
    marks = {(row.claim, row.dataset): _mark(row) for row in rows.itertuples() if row.verdict in MARKS}
    lines = []
    for letter, statement in STATEMENTS.items():
        claims = dict.fromkeys(claim for claim, _ in marks if claim[:3] == letter)
        said = [[f"**{letter} {statement}**", *["" if claims else NOT_TESTED] * len(datasets)]]
        for claim in claims:
            effects = [marks.get((claim, name), marks.get((claim, EVERY), "-")) for name in datasets]
            said.append([claim[4:], *effects])
        lines.append(["<br>".join(column) for column in zip(*said, strict=True)])
    return markdown_table(["claim of the paper", *datasets], lines)


def _mark(row) -> str:
    effect = f"{row.difference:.1f}x" if row.unit == TIMES else f"{100 * row.difference:+.1f}"
    return f"{MARKS[row.verdict]} {effect}"


def advice(rows: pd.DataFrame) -> dict[str, str]:
    """For each dataset, when inverting images pays, and when words, retrieval or nothing do: one sentence.

    From the rows `PAYS` and `RIVALS` alone: words are compared beside real images, the other rivals on
    samples alone, and an effect is that of DI over the rival. One that no lesson has judged is left out.
    """
    return {name: _advice(rows[rows["dataset"] == name].set_index("claim")) for name in datasets_of(rows)}


def _advice(own: pd.DataFrame) -> str:
    if PAYS not in own.index:
        return "not tested: run lesson 03."
    gain = own.loc[PAYS]
    said = {
        SUPPORTED: "inverting images pays",
        CONTRADICTED: "inverting images does harm",
        EQUAL: "inverting images makes no difference",
        UNDECIDED: "nothing shows that inverting images pays",
    }[gain["verdict"]]
    found: dict[str, list[str]] = {verdict: [] for verdict in MARKS}
    for claim, rival in RIVALS.items():
        if claim in own.index:
            row = own.loc[claim]
            found[row["verdict"]].append(f"{rival} ({effect_in_words(row)})")
    parts = [f"{said} beside the real images ({effect_in_words(gain)})"]
    for verdict, words in (
        (CONTRADICTED, "ahead of it:"),
        (EQUAL, "equal to it:"),
        (UNDECIDED, "not told apart from it:"),
        (SUPPORTED, "behind it:"),
    ):
        if found[verdict]:
            parts.append(f"{words} {', '.join(found[verdict])}")
    return "; ".join(parts) + "."
