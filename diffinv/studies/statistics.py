"""What the rows of a study add up to: means and paired differences with t-intervals over the seeds."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

from diffinv.foundation.text import rounded

CONFIDENCE = 0.95
SHARES = ("accuracy", "balanced_accuracy")  # values from 0 to 1, which no interval may leave


def summarise(
    rows: pd.DataFrame, by: Sequence[str], *, value: str = "accuracy", overlap: float = 0.0
) -> pd.DataFrame:
    """Mean, standard deviation, n and a 95 % t-interval (low, high) over the seeds of each group.

    That of a share is symmetric on the logit scale (delta method), and so within 0 and 1. `overlap` is for
    rows of cross-validation, whose training images are largely the same: test images per training image, by
    which the variance of the mean is raised (Nadeau and Bengio 2003). ValueError for a group with fewer than
    two seeds, or with one seed twice (a column is missing in `by`).
    """
    by = list(by)
    _check_columns(rows, [*by, "seed", value])
    summary = []
    for key, group in rows.groupby(by, dropna=False, sort=False):
        name = ", ".join(f"{column} {part}" for column, part in zip(by, key, strict=True))
        _check_seeds_once(group, name)
        interval = _interval(group[value].to_numpy(float), name, overlap, share=value in SHARES)
        summary.append({**dict(zip(by, key, strict=True)), **interval})
    return pd.DataFrame(summary, columns=[*by, "mean", "std", "n", "low", "high"])


def paired_difference(
    rows: pd.DataFrame,
    a: str,
    b: str,
    by: Sequence[str] = (),
    *,
    baseline_by: Sequence[str] | None = None,
    value: str = "accuracy",
    overlap: float = 0.0,
) -> pd.DataFrame:
    """How much condition `a` exceeds condition `b`, paired by seed, with a 95 % t-interval in each group.

    Rows are paired on `by` and the seed. `baseline_by`, a part of `by`, names the columns that `b` varies in,
    where it is a line drawn across a plot (real data against a number of samples). Only seeds that both have
    count. `overlap` as for `summarise`. ValueError for fewer than two pairs, or where a row has several
    partners.
    """
    by, shared = list(by), list(by if baseline_by is None else baseline_by)
    _check_columns(rows, ["condition", "seed", value, *by])
    if stray := sorted(set(shared) - set(by)):
        raise ValueError(f'baseline_by names "{stray[0]}", which is not in by: add it there.')
    for name in (a, b):
        if not (rows["condition"] == name).any():
            raise ValueError(f'there is no row of condition "{name}": check its name.')
    sides = {}
    for name, columns in ((a, by), (b, shared)):
        side = rows.loc[rows["condition"] == name, [*columns, "seed", value]]
        _check_seeds_once(side, f'condition "{name}"', columns)
        sides[name] = side
    pairs = sides[a].merge(sides[b], on=[*shared, "seed"], suffixes=("", "_of_b"))
    pairs["difference"] = pairs[value] - pairs[f"{value}_of_b"]
    if pairs.empty:
        raise ValueError(f'no row of "{a}" has a partner in "{b}": they share no seed and group.')
    groups = pairs.groupby(by, dropna=False, sort=False) if by else [((), pairs)]
    summary = [
        {
            **dict(zip(by, key, strict=True)),
            **_interval(group["difference"].to_numpy(float), f"{a} - {b}", overlap),
        }
        for key, group in groups
    ]
    columns = [*by, "difference", "std", "n", "low", "high"]
    return pd.DataFrame(summary).rename(columns={"mean": "difference"})[columns]


def describe_gain(gain: pd.DataFrame) -> str:
    """A row of `paired_difference` in points of accuracy, with whether its interval tells the two apart."""
    low, high = gain.iloc[0]["low"], gain.iloc[0]["high"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return f"{points_of(gain)}, {verdict}"


def points_of(gain: pd.DataFrame) -> str:
    """A row of `paired_difference` in points of accuracy, which cannot differ by more than 100."""
    difference, low, high = (100 * gain.iloc[0][end] for end in ("difference", "low", "high"))
    points, interval = rounded(difference, max(low, -100), min(high, 100), sign="+")
    return f"{points} points ({interval})"


def holm(effects: pd.DataFrame) -> pd.DataFrame:
    """Rows of `paired_difference` with `p`, that of a two-sided paired t-test, and `p_holm`, corrected.

    Holm's correction (1979) for all these rows together: with `p_holm` at most 0.05 wherever one says that
    two differ, the chance of being wrong even once is at most 0.05.
    """
    error = effects["std"] / np.sqrt(effects["n"])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(effects["difference"] / error)
    # No deviation at all: certain, or no difference.
    p = 2 * stats.t.sf(t.fillna(0), effects["n"] - 1)
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return effects.assign(p=p, p_holm=corrected)


def seeds_needed(
    difference: float, std: float, *, most: int = 1000, overlap: float = 0.0, margin: float = 0.0
) -> int:
    """How many seeds an interval takes that leaves zero out, if mean and deviation stay as they are.

    Or one that lies within the margin around zero, where there is a margin.

    `most` stands for as many or more; with an `overlap` as for `summarise`, no number may do.
    """
    enough = max(abs(difference), margin - abs(difference))
    return next((n for n in range(2, most) if _half_width(std, n, overlap) < enough), most)


def worth_in_real_images(rows: pd.DataFrame, condition: str, *, real: str = "real") -> pd.DataFrame:
    """How many times as many real images teach what `condition` teaches: its gain in sample complexity.

    `rows` have accuracies of `real` at several sizes `real_per_class`. Those of `condition` are looked up,
    seed by seed, on the curve of `real` with the same seed, which is made to rise (the highest so far) and is
    straight against the logarithm of the size. One row for each size of `condition`: the geometric mean of
    the ratios, its 95 % t-interval, n, and `beyond`, the number of seeds whose accuracy lies above the whole
    curve: their ratios are lower bounds.
    """
    _check_columns(rows, ["condition", "real_per_class", "seed", "accuracy"])
    curves = rows[rows["condition"] == real].pivot(index="real_per_class", columns="seed", values="accuracy")
    found = []
    for size, own in rows[rows["condition"] == condition].groupby("real_per_class"):
        _check_seeds_once(own, f'condition "{condition}"')
        logs, beyond = [], 0
        for row in own.itertuples():
            curve = curves[row.seed].dropna().cummax()
            beyond += row.accuracy > curve.iloc[-1]
            # Where a curve is level, the smallest size that reaches the accuracy counts.
            curve = curve[~curve.duplicated()]
            logs.append(np.interp(row.accuracy, curve, np.log(curve.index.to_numpy(float) / size)))
        interval = _interval(np.array(logs), condition)
        ratios = {end: math.exp(interval[end]) for end in ("mean", "low", "high")}
        found.append({"real_per_class": size, **ratios, "n": interval["n"], "beyond": beyond})
    return pd.DataFrame(found).rename(columns={"mean": "ratio"})


def _interval(
    values: np.ndarray, name: str, overlap: float = 0.0, *, share: bool = False
) -> dict[str, float]:
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 seeds, and {name} has {count}: run more seeds.")
    mean, std = float(values.mean()), float(values.std(ddof=1))
    half = _half_width(std, count, overlap)
    low, high = mean - half, mean + half
    if share and half > 0 and 0 < mean < 1:  # at either end nothing varies
        half /= mean * (1 - mean)
        low, high = (float(special.expit(special.logit(mean) + side)) for side in (-half, half))
    return {"mean": mean, "std": std, "n": count, "low": low, "high": high}


def _half_width(std: float, count: int, overlap: float) -> float:
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * std * math.sqrt(1 / count + overlap)


def _check_columns(rows: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in rows.columns]:
        raise ValueError(f'the rows have no column "{missing[0]}": they have {", ".join(rows.columns)}.')


def _check_seeds_once(rows: pd.DataFrame, name: str, by: Sequence[str] = ()) -> None:
    twice = rows.duplicated([*by, "seed"])
    if twice.any():
        seed = rows.loc[twice, "seed"].iloc[0]
        raise ValueError(f"{name} has several rows of seed {seed}: add the column that differs to `by`.")
