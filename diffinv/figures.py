"""Result rows or images in, matplotlib out: this module draws and computes nothing."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from diffinv.cache import write_atomically

#: Okabe and Ito's palette, which stays apart under the common kinds of colour blindness.
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
GREY = "#595959"
#: One colour a concept, the same in every lesson.
COLOURS = {
    "real": OKABE_ITO["black"],
    "DI": OKABE_ITO["vermillion"],
    "real + DI": OKABE_ITO["blue"],
    "prompts": OKABE_ITO["green"],
    "label kept": OKABE_ITO["green"],
}
_CYCLE = [OKABE_ITO[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black")]
_MARKERS = "os^Dv<>"

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": mpl.rcsetup.cycler(color=_CYCLE),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure of the package, for the duration of the context."""
    with mpl.rc_context(_STYLE):
        yield


def use_style() -> None:
    """The look of every figure of the package, from here to the end of the process: for notebooks."""
    mpl.rcParams.update(_STYLE)


def save_figure(
    fig: Figure,
    name: str,
    data: pd.DataFrame | None = None,
    folder: str | Path = "figures",
    *,
    dpi: int = 200,
) -> Path:
    """Write `<name>.png`, `<name>.svg` and, given data, the `<name>.csv` behind them; return the PNG's path.

    The same figure gives the same bytes on every run. Each file is whole or absent, never half written.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"a figure's name is a plain file name without folders, not {name!r}")
    folder = Path(folder)
    with mpl.rc_context({"svg.hashsalt": name}):
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            fig.savefig(buffer, format=suffix, dpi=dpi, metadata=metadata)
            with write_atomically(folder / f"{name}.{suffix}") as file:
                file.write(buffer.getvalue())
    if data is not None:
        with write_atomically(folder / f"{name}.csv") as file:
            file.write(data.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
    return folder / f"{name}.png"


# ---------------------------------------------------------------------------------------------------- images


def image_grid(
    ax: Axes,
    images: UInt8[np.ndarray, "row column height width 3"] | Sequence[Sequence[np.ndarray | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    gap: float = 0.08,
    split_after: int | None = None,
    label_size: float = 8.5,
) -> Axes:
    """Images as one mosaic with names at its left and top; `None` leaves a cell blank.

    `split_after=1` opens a wider gap behind the first column, which sets originals apart from samples.
    ValueError when rows differ in length, images in size, or labels in number.
    """
    rows = [list(row) for row in images]
    columns = len(rows[0]) if rows else 0
    shapes = {np.asarray(image).shape for row in rows for image in row if image is not None}
    if columns == 0 or any(len(row) != columns for row in rows) or len(shapes) != 1:
        raise ValueError("image_grid needs at least one image, rows of equal length and images of one size")
    for labels, count, side in ((row_labels, len(rows), "row"), (column_labels, columns, "column")):
        if len(labels) not in (0, count):
            raise ValueError(f"image_grid got {len(labels)} {side} labels for {count} {side}s")
    height, width = shapes.pop()[:2]
    gap_pixels = max(1, round(gap * width))
    extra = [
        4 * gap_pixels if split_after is not None and column >= split_after else 0
        for column in range(columns)
    ]
    lefts = [column * (width + gap_pixels) + extra[column] for column in range(columns)]
    tops = [row * (height + gap_pixels) for row in range(len(rows))]
    mosaic = np.full((tops[-1] + height, lefts[-1] + width, 3), 255, np.uint8)
    for row, top in zip(rows, tops, strict=True):
        for image, left in zip(row, lefts, strict=True):
            if image is not None:
                mosaic[top : top + height, left : left + width] = image
    ax.imshow(mosaic, interpolation="nearest", aspect="equal")
    _hide_frame(ax)
    ax.xaxis.tick_top()
    ax.set_xticks([left + (width - 1) / 2 for left in lefts] if column_labels else [], list(column_labels))
    ax.set_yticks([top + (height - 1) / 2 for top in tops] if row_labels else [], list(row_labels))
    ax.tick_params(length=0, labelsize=label_size, pad=3)
    return ax


def gallery(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Mapping[str, Sequence[str]],
    *,
    width: float = 7.2,
) -> Figure:
    """Originals at the left of a gap, their samples at its right, one panel a dataset (the paper's Fig. 3).

    `panels[dataset] = (real [row height width 3], samples [row column height width 3])`.
    """
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    rows, copies = next(iter(panels.values()))[1].shape[:2]
    cell = (width / columns - 0.6) / (copies + 1.5)  # what the class names at the left leave
    fig, axes = plt.subplots(
        lines, columns, figsize=(width, lines * (rows * cell * 1.05 + 0.5)), squeeze=False
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (dataset, (real, samples)) in zip(axes.flat, panels.items(), strict=False):
        ax.set_axis_on()
        mosaic = [[original, *row] for original, row in zip(real, samples, strict=True)]
        labels = ["real"] + ["samples" if column == (copies - 1) // 2 else "" for column in range(copies)]
        image_grid(ax, mosaic, class_names[dataset], labels, split_after=1, label_size=7.5)
        ax.set_title(dataset, fontweight="bold", pad=6)
    return fig


def interpolation_row(
    ax: Axes,
    images: UInt8[np.ndarray, "pair weight height width 3"],
    weights: Sequence[float],
    originals: UInt8[np.ndarray, "pair 2 height width 3"] | None = None,
    row_labels: Sequence[str] = (),
) -> Axes:
    """Samples along the weight of the partner, between the two originals when given (the paper's Fig. 9)."""
    columns = [f"{weight:g}" for weight in weights]
    rows: list[list[np.ndarray]] = [list(row) for row in images]
    if originals is not None:
        rows = [[pair[0], *row, pair[1]] for pair, row in zip(originals, rows, strict=True)]
        columns = ["real A", *columns, "real B"]
    image_grid(ax, rows, row_labels, columns)
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("weight of image B's vectors", labelpad=6)
    return ax


def _hide_frame(ax: Axes) -> None:
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


# ---------------------------------------------------------------------------------------------------- curves


def loss_curves(
    ax: Axes,
    losses: Float[np.ndarray, "update image"],
    names: Sequence[str] = (),
    levels: Mapping[str, float] | None = None,
    *,
    updates: Sequence[int] | None = None,
) -> Axes:
    """Denoising loss against updates: a line an image, their mean in bold, levels to compare with."""
    losses = np.asarray(losses)
    x = np.arange(1, len(losses) + 1) if updates is None else np.asarray(updates)
    for column in range(losses.shape[1]):
        label = names[column] if names else None
        ax.plot(
            x, losses[:, column], color=_CYCLE[column % len(_CYCLE)], linewidth=0.9, alpha=0.75, label=label
        )
    ax.plot(x, losses.mean(axis=1), color="black", linewidth=2.2, label="mean of the images")
    for (name, level), dashes in zip(
        (levels or {}).items(), ((5, 2), (1.5, 1.5), (6, 2, 1, 2)), strict=False
    ):
        ax.axhline(level, color=GREY, linewidth=1.3, dashes=dashes, label=name)
    ax.set_xlabel("updates of the vectors")
    ax.set_ylabel("denoising loss")
    ax.set_xlim(0, x[-1])
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
) -> Axes:
    """Means with their intervals against `x`, one line a series.

    `summary` has the columns `x`, `series`, mean, low, high; `reference[name] = (mean, low, high)` is drawn
    as a horizontal line with its interval. Values are multiplied by `scale`; `bounds`, such as (0, 1) for a
    share, cuts intervals off where no value can lie.
    """
    colours = {**COLOURS, **(colours or {})}
    lowest, highest = bounds or (-np.inf, np.inf)
    for name, (mean, low, high) in (reference or {}).items():
        colour = colours.get(name, "black")
        ax.axhspan(
            scale * max(low, lowest), scale * min(high, highest), color=colour, alpha=0.10, linewidth=0
        )
        ax.axhline(scale * mean, color=colour, linewidth=1.4, dashes=(5, 2), label=name)
    for index, (name, rows) in enumerate(summary.groupby(series, sort=False)):
        rows = rows.sort_values(x)
        colour = colours.get(str(name), _CYCLE[index % len(_CYCLE)])
        at, low, high = rows[x], rows["low"].clip(lower=lowest), rows["high"].clip(upper=highest)
        ax.fill_between(at, scale * low, scale * high, color=colour, alpha=0.14, linewidth=0)
        marker = _MARKERS[index % len(_MARKERS)]
        ax.plot(at, scale * rows["mean"], color=colour, marker=marker, label=str(name))
    if log:
        ax.set_xscale("log")
    values = sorted(summary[x].unique())
    ax.xaxis.set_major_locator(FixedLocator([float(value) for value in values]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return ax


def bars(
    ax: Axes,
    summary: pd.DataFrame,
    label: str = "condition",
    *,
    xlabel: str = "test accuracy (%)",
    scale: float = 100.0,
) -> Axes:
    """Horizontal points with intervals, one row a label, the value written beside it."""
    for position, row in enumerate(summary.itertuples(index=False)):
        name, mean = str(getattr(row, label)), scale * row.mean
        colour = COLOURS.get(name, _CYCLE[position % len(_CYCLE)])
        error = [[max(0.0, mean - scale * row.low)], [max(0.0, scale * row.high - mean)]]
        ax.barh(position, mean, height=0.55, color=colour, alpha=0.25, linewidth=0)
        ax.errorbar(mean, position, xerr=error, fmt="o", color=colour, capsize=3, linewidth=1.4)
        ax.annotate(
            f"{mean:.0f}", (mean, position), (0, 9), textcoords="offset points", ha="center", fontsize=8.5
        )
    ax.set_yticks(range(len(summary)), [str(name) for name in summary[label]])
    ax.invert_yaxis()
    ax.margins(y=0.18)
    ax.grid(False, axis="y")
    ax.set_xlabel(xlabel)
    return ax


def forest(ax: Axes, effects: pd.DataFrame, label: str, *, xlabel: str, scale: float = 100.0) -> Axes:
    """One row an effect with its interval, beside a line at zero; grey where the interval holds zero."""
    for position, row in enumerate(effects.itertuples(index=False)):
        colour = GREY if row.low <= 0 <= row.high else COLOURS["real + DI"] if row.low > 0 else COLOURS["DI"]
        ax.plot([scale * row.low, scale * row.high], [position] * 2, color=colour, linewidth=1.8)
        ax.plot(scale * row.difference, position, "o", color=colour)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(effects)), [str(name) for name in effects[label]])
    ax.invert_yaxis()
    ax.margins(y=0.15)
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
