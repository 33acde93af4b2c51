"""Result rows in, plots out; nothing is computed."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from diffinv.figures.style import COLOURS, CYCLE, GREY, MARKERS

# Marker, colour and face of an effect, by its verdict.
LOOKS = {
    "supported": ("o", COLOURS["real + DI"], COLOURS["real + DI"]),
    "contradicted": ("X", COLOURS["DI"], COLOURS["DI"]),
    "no difference": ("s", GREY, GREY),
    "undecided": ("o", GREY, "white"),
}


def loss_curves(
    ax: Axes,
    losses: Float[np.ndarray, "update image"],
    levels: Mapping[str, float] | None = None,
    *,
    updates: Sequence[int] | None = None,
) -> Axes:
    """Denoising loss against updates: a grey line per image, their mean in bold, levels to compare with.

    The mean and the levels are named at the right, outside the axes.
    """
    losses = np.asarray(losses)
    x = np.arange(1, len(losses) + 1) if updates is None else np.asarray(updates)
    ax.plot(x, losses, color="0.75", linewidth=0.9)
    mean = losses.mean(axis=1)
    ax.plot(x, mean, color="black", linewidth=2.2)
    ends = {"mean of the images": (mean[-1], "black")}
    for (name, level), colour in zip((levels or {}).items(), CYCLE, strict=False):
        ax.axhline(level, color=colour, linewidth=1.3, dashes=(5, 2))
        ends[name] = level, colour
    low, high = ax.get_ylim()
    place = -np.inf
    for name, (level, colour) in sorted(ends.items(), key=lambda end: end[1][0]):
        place = max(level, place + 0.065 * (high - low))  # no name over another
        ax.annotate(
            name, (1.01, place), xycoords=("axes fraction", "data"), color=colour, va="center", fontsize=8.5
        )
    ax.set(xlabel="updates of the vectors", ylabel="denoising loss", xlim=(0, x[-1]))
    return ax


def accuracy_curve(
    ax: Axes,
    summary: pd.DataFrame,
    x: str,
    series: str = "condition",
    *,
    xlabel: str,
    ylabel: str = "test accuracy (%)",
    scale: float = 100.0,
    reference: Mapping[str, tuple[float, float, float]] | None = None,
    log: bool = True,
    bounds: tuple[float, float] | None = None,
    colours: Mapping[str, str] | None = None,
    rows: pd.DataFrame | None = None,
    value: str = "accuracy",
) -> Axes:
    """Means with their intervals against `x`, one line per series, side by side where they would overlap.

    `summary` has the columns `x`, `series`, mean, low, high; `reference[name] = (mean, low, high)` is drawn
    as a horizontal line with its interval; `rows`, of which it is the summary, as a pale dot for each seed.
    Values are multiplied by `scale`; `bounds`, such as (0, 1) for a share, cuts intervals off where no value
    can lie.
    """
    colours = {**COLOURS, **(colours or {})}
    lowest, highest = bounds or (-np.inf, np.inf)
    for name, (mean, low, high) in (reference or {}).items():
        colour = colours.get(name, "black")
        ax.axhspan(scale * max(low, lowest), scale * min(high, highest), color=colour, alpha=0.1, linewidth=0)
        ax.axhline(scale * mean, color=colour, linewidth=1.4, dashes=(5, 2), label=name)
    values = sorted(summary[x].unique())
    names = list(dict.fromkeys(summary[series]))
    for index, name in enumerate(names):
        own = summary[summary[series] == name].sort_values(x)
        colour = colours.get(str(name), CYCLE[index % len(CYCLE)])
        shift = index - (len(names) - 1) / 2
        at = _beside(own[x], shift, values, log)
        mean, low, high = own["mean"], own["low"].clip(lower=lowest), own["high"].clip(upper=highest)
        error = scale * np.maximum(0, [mean - low, high - mean])
        marker = MARKERS[index % len(MARKERS)]
        ax.errorbar(at, scale * mean, error, color=colour, marker=marker, capsize=2, label=str(name))
        if rows is not None:
            dots = rows[rows[series] == name]
            ax.scatter(
                _beside(dots[x], shift, values, log), scale * dots[value], s=7, color=colour, alpha=0.35, lw=0
            )
    if log:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([float(value) for value in values]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def _beside(places: pd.Series, shift: float, values: Sequence[float], log: bool) -> pd.Series:
    """Places moved by a few per cent of the axis, so that no interval hides another."""
    if log:
        return places * (max(values) / min(values)) ** (0.02 * shift)
    return places + 0.02 * shift * (max(values) - min(values))


def bars(
    ax: Axes, summary: pd.DataFrame, *, xlabel: str = "test accuracy (%)", reference: str | None = None
) -> Axes:
    """Horizontal points with intervals in per cent, one row per condition, the value written behind it.

    A dashed line goes down from the condition `reference`.
    """
    for position, row in enumerate(summary.itertuples(index=False)):
        name, mean = str(row.condition), 100 * row.mean
        colour = COLOURS.get(name, GREY)
        error = [[max(0.0, mean - 100 * row.low)], [max(0.0, 100 * row.high - mean)]]
        ax.barh(position, mean, height=0.55, color=colour, alpha=0.25, linewidth=0)
        ax.errorbar(mean, position, xerr=error, fmt="o", color=colour, capsize=3, linewidth=1.4)
        place = (max(mean, 100 * row.high), position)
        white: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # over the dashed line
        ax.annotate(
            f"{mean:.0f}", place, (6, 0), textcoords="offset points", va="center", fontsize=8.5, bbox=white
        )
        if name == reference:
            ax.axvline(mean, color="black", linewidth=0.8, dashes=(5, 2))
    return _name_rows(ax, summary["condition"], xlabel)


def forest(ax: Axes, effects: pd.DataFrame, label: str, *, xlabel: str) -> Axes:
    """One row per effect in points with its interval, in the look of its verdict, and a line at zero."""
    for position, row in enumerate(effects.itertuples(index=False)):
        marker, colour, face = LOOKS[row.verdict]
        ax.plot([100 * row.low, 100 * row.high], [position] * 2, color=colour, linewidth=1.8)
        ax.plot(100 * row.difference, position, marker, color=colour, markerfacecolor=face)
    ax.axvline(0, color="black", linewidth=0.8)
    return _name_rows(ax, effects[label], xlabel)


def claims_forest(effects: pd.DataFrame) -> Figure:
    """All judged claims (`studies.claims.judge`), claim over claim, with the verdicts at the right."""
    groups = list(effects.groupby("claim", sort=False))
    fig, axes = plt.subplots(
        len(groups),
        1,
        figsize=(7.2, 0.25 * len(effects) + 0.42 * len(groups) + 0.5),
        sharex=True,
        squeeze=False,
        height_ratios=[len(own) + 0.6 for _, own in groups],
    )
    for ax, (claim, own) in zip(axes[:, 0], groups, strict=True):
        forest(ax, own, "dataset", xlabel="")
        ax.set_title(claim, fontsize=9)
        for position, said in enumerate(own["verdict"]):
            ax.annotate(said, (1.01, position), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    axes[-1, 0].set_xlabel("difference in test accuracy (percentage points), 95 % interval")
    return fig


def heat_map(
    ax: Axes, table: pd.DataFrame, said: pd.DataFrame, *, colours: str, limits: tuple[float, float]
) -> Axes:
    """A table of numbers as colours, with what `said` has written in each cell; NaN stays white.

    Where the columns have two levels, the first are groups, which are set apart and named above.
    """
    values = table.to_numpy(float)
    palette = plt.get_cmap(colours)
    ax.imshow(values, cmap=palette, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        red, green, blue, _ = palette((value - limits[0]) / (limits[1] - limits[0]))
        ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
        ax.text(column, row, said.iat[row, column], ha="center", va="center", color=ink, fontsize=8)
    if table.columns.nlevels > 1:
        groups = table.columns.get_level_values(0)
        for group in groups.unique():
            places = np.flatnonzero(groups == group)
            ax.text(places.mean(), -0.65, str(group), ha="center", va="bottom", fontweight="bold", fontsize=9)
            if places[0]:
                ax.axvline(places[0] - 0.5, color="white", linewidth=5)
    names = table.columns.get_level_values(-1)
    ax.set_xticks(range(len(names)), [str(name) for name in names])
    ax.set_yticks(range(len(table)), [str(name) for name in table.index])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def _name_rows(ax: Axes, names: Iterable[object], xlabel: str) -> Axes:
    """One named row for each, the first on top."""
    rows = [str(name) for name in names]
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.margins(y=0.18)
    ax.grid(False, axis="y")
    ax.set_xlabel(xlabel)
    return ax


def shared_legend(
    fig: Figure, axes: Iterable[Axes], *, columns: int | None = None, side: str = "upper left"
) -> None:
    """One legend outside the panels ("upper left" or "right upper"), each name once."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    columns = columns or (1 if side.startswith("right") else len(found))
    place: Any = f"outside {side}"  # matplotlib's own types do not know these names
    fig.legend(list(found.values()), list(found), loc=place, ncols=columns, handlelength=2.4)


def grouped_points(ax: Axes, summary: pd.DataFrame, group: str, groups: Iterable[str]) -> Axes:
    """Means with their intervals in per cent, one place per group and the conditions side by side in it."""
    groups, names = list(groups), list(dict.fromkeys(summary["condition"]))
    for index, name in enumerate(names):
        own = summary[summary["condition"] == name].set_index(group).reindex(groups)
        at = np.arange(len(groups)) + 0.2 * (index - (len(names) - 1) / 2)
        colour = COLOURS.get(str(name), CYCLE[index % len(CYCLE)])
        error = 100 * np.array([own["mean"] - own["low"], own["high"] - own["mean"]])
        marker = MARKERS[index % len(MARKERS)]
        ax.errorbar(at, 100 * own["mean"], error, fmt=marker, color=colour, capsize=2, label=str(name))
    ax.set_xticks(range(len(groups)), [str(each) for each in groups])
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.grid(False, axis="x")
    ax.set_ylabel("test accuracy (%)")
    return ax


def cost_against_loss(
    ax: Axes, table: pd.DataFrame, cost: str, *, xlabel: str, margin: float, goal: float
) -> Axes:
    """Differences in points to a reference against what each condition costs, with their intervals.

    `table` is that of `studies.economy.beside_reference`. A band marks what is within the margin, a dashed
    line the goal, a cost; the reference is the open circle at zero.
    """
    ax.axhspan(-100 * margin, 100 * margin, color=GREY, alpha=0.12, linewidth=0)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.axvline(goal, color=GREY, linewidth=1.1, dashes=(5, 2))
    twins = table.groupby(cost).cumcount()  # of equal cost: side by side
    for index, row in enumerate(table.itertuples(index=False)):
        x, y = getattr(row, cost) * 1.08 ** twins.iloc[index], 100 * row.difference
        reference = row.verdict == "reference"
        colour = "black" if reference else CYCLE[index % (len(CYCLE) - 1)]
        face = "white" if reference else colour
        error = [[y - 100 * row.low], [100 * row.high - y]]
        marker = MARKERS[index % len(MARKERS)]
        label = f"{row.condition} ({'reference' if reference else row.verdict})"
        ax.errorbar(x, y, error, fmt=marker, color=colour, markerfacecolor=face, capsize=3, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.margins(x=0.12)
    ax.set(xlabel=xlabel, ylabel="difference in test accuracy (points)")
    return ax


def ledger_figure(rows: pd.DataFrame, datasets: Sequence[str]) -> Figure:
    """A ledger (`studies.ledger`) on one page: a row per claim, a panel per dataset, a dot with its interval.

    The verdict is told by colour and shape. What is measured in times, or not tested, is written out.
    """
    claims = list(dict.fromkeys(rows["claim"]))
    letters = [claim[:3] for claim in claims]
    gaps = np.cumsum([0.0, *(1.0 + 0.5 * (a != b) for a, b in pairwise(letters))])
    place = dict(zip(claims, gaps, strict=True))
    fig, axes = plt.subplots(
        1, len(datasets), figsize=(9.2, 1.1 + 0.19 * gaps[-1]), sharex=True, sharey=True, squeeze=False
    )
    for ax, dataset in zip(axes[0], datasets, strict=True):
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(dataset)
        for row in rows.itertuples():
            y = place[row.claim]
            if row.verdict not in LOOKS:
                said, colour = (row.verdict, GREY) if ax is axes[0, 0] else ("", GREY)
            elif row.unit == "times":
                said, colour = f"{row.difference:.1f} times: {row.verdict}", LOOKS[row.verdict][1]
                said = said if ax is axes[0, 0] else ""
            else:
                said, colour = "", GREY
                if row.dataset == dataset:
                    marker, line, face = LOOKS[row.verdict]
                    ax.plot([100 * row.low, 100 * row.high], [y, y], color=line, linewidth=1.5)
                    ax.plot(
                        100 * row.difference, y, marker, color=line, markerfacecolor=face, label=row.verdict
                    )
            if said:
                ax.annotate(
                    said,
                    (0.02, y),
                    xycoords=("axes fraction", "data"),
                    color=colour,
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )
        ax.grid(False, axis="y")
    axes[0, 0].set_yticks(gaps, claims, fontsize=8)
    axes[0, 0].set_ylim(gaps[-1] + 0.8, -0.8)
    middle = axes[0, len(datasets) // 2]
    middle.set_xlabel("effect in points of test accuracy, 95 % interval")
    shared_legend(fig, axes[0])
    return fig
