"""Numbers for a terminal: rounded as far as their interval allows, in tables of 80 columns."""

import math
from collections.abc import Sequence

MOST_DECIMALS = 3  # for what hardly varies
GAP = "  "


def rounded(value: float, low: float, high: float, *, sign: str = "") -> tuple[str, str]:
    """A number and its interval, "54.3" and "53.1 to 55.4", with two digits of the interval's half width.

    `sign` "+" writes that of positive numbers too. An interval without width leaves one decimal.
    """
    half = (high - low) / 2
    digits = 1 - math.floor(math.log10(half)) if 0 < half < math.inf else 1
    own, *ends = (f"{number:{sign}.{min(max(digits, 0), MOST_DECIMALS)}f}" for number in (value, low, high))
    return own, " to ".join(ends)


def percent(share: float, low: float, high: float) -> str:
    """A share with its interval in per cent: "54.3% (53.1 to 55.4)"."""
    own, interval = rounded(100 * share, 100 * low, 100 * high)
    return f"{own}% ({interval})"


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 80) -> list[str]:
    """The lines of a table, the first column to the left and cut where a line would be too long."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = max(8, min(widths[0], width - sum(widths[1:]) - len(GAP) * (len(widths) - 1)))
    lines = []
    for first, *others in cells:
        if len(first) > widths[0]:
            first = f"{first[: widths[0] - 3]}..."
        right = (cell.rjust(size) for cell, size in zip(others, widths[1:], strict=True))
        lines.append(GAP.join((first.ljust(widths[0]), *right)).rstrip())
    return lines
