"""Result rows or images in, matplotlib out: the look, the files, and the plots of rows; nothing is computed.

The pictures made of images have their home in `image_grids` and are to be had from here too.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from diffinv.cache import write_atomically
from diffinv.image_grids import gallery, image_grid, interpolation_row

__all__ = [
    "COLOURS", "GREY", "OKABE_ITO", "accuracy_curve", "bars", "forest", "gallery", "image_grid",
    "interpolation_row", "loss_curves", "save_figure", "shared_legend", "style", "use_style",
]  # fmt: skip

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
    "GAN": OKABE_ITO["sky"],
    "GAN inversion": OKABE_ITO["purple"],
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
    return _name_rows(ax, summary[label], xlabel)


def forest(ax: Axes, effects: pd.DataFrame, label: str, *, xlabel: str, scale: float = 100.0) -> Axes:
    """One row an effect with its interval, beside a line at zero; grey where the interval holds zero."""
    for position, row in enumerate(effects.itertuples(index=False)):
        colour = GREY if row.low <= 0 <= row.high else COLOURS["real + DI"] if row.low > 0 else COLOURS["DI"]
        ax.plot([scale * row.low, scale * row.high], [position] * 2, color=colour, linewidth=1.8)
        ax.plot(scale * row.difference, position, "o", color=colour)
    ax.axvline(0, color="black", linewidth=0.8)
    return _name_rows(ax, effects[label], xlabel)


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
