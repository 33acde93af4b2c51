"""LECF's filter: which samples of a class are kept, and what to do where it keeps none."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class FilterError(ValueError):
    """The filter keeps no sample of a class; the message says what threshold would keep a tenth."""

    def __init__(self, message: str, keeps_tenth: float = 0.0) -> None:
        super().__init__(message)
        self.keeps_tenth = keeps_tenth


class Selection(NamedTuple):
    """Which draws of a class are used, those that pass the filter first, and how many had to be looked at."""

    chosen: Int[np.ndarray, " kept"]
    drawn: int
    passed: int


def select(confidences: Float[np.ndarray, " draw"], need: int, threshold: float) -> Selection:
    """The first `need` draws that pass; where there are fewer, also the surest of the others."""
    passing = np.flatnonzero(confidences >= threshold)
    if len(passing) >= need:
        chosen = passing[:need]
        return Selection(chosen, int(chosen[-1]) + 1 if need else 0, need)
    failing = np.flatnonzero(confidences < threshold)
    surest = failing[np.argsort(-confidences[failing], kind="stable")][: need - len(passing)]
    return Selection(np.concatenate([passing, surest]), len(confidences), len(passing))


def draws_lacking(selection: Selection, need: int, limit: int) -> int:
    """How many more draws fill a class if they pass as often as those so far; never beyond the limit."""
    missing = need - selection.passed
    if missing <= 0:
        return 0
    rate = max(selection.passed, 1) / max(selection.drawn, 1)
    return max(0, min(math.ceil(missing / rate), limit - selection.drawn))


def keeps_nothing(name: str, confidences: Float[np.ndarray, " draw"], threshold: float) -> FilterError:
    """The error of a class whose samples all fall below the threshold."""
    tenth = float(np.quantile(confidences, 0.9, method="lower"))
    # Rounded down, so that what it says holds.
    unit = 10.0 ** (math.floor(math.log10(tenth)) - 3) if tenth > 0 else 1.0
    lower = float(f"{math.floor(tenth / unit) * unit:.4g}")
    return FilterError(
        f'the filter keeps none of {len(confidences)} samples of class "{name}" at threshold {threshold:g}; '
        f"a threshold of {lower:.4g} would keep 10 % of them.",
        lower,
    )
