"""What the paper reported, and what a row of ours says about a claim of it."""

from pathlib import Path

import pandas as pd

REPORTED = Path(__file__).parent / "assets" / "paper_reported.csv"


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
