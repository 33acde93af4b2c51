"""The look of every figure, its palette, and the files that a figure is saved as."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from diffinv.artefacts.writing import write_whole

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
#: One colour per concept, the same in every lesson.
COLOURS = {
    "real": OKABE_ITO["black"],
    "DI": OKABE_ITO["vermillion"],
    "real + DI": OKABE_ITO["blue"],
    "prompts": OKABE_ITO["green"],
    "real + augmentation": OKABE_ITO["orange"],
    "GAN": OKABE_ITO["sky"],
    "GAN inversion": OKABE_ITO["purple"],
    "label kept": OKABE_ITO["green"],
}
CYCLE = [OKABE_ITO[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black")]
MARKERS = "os^Dv<>"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=CYCLE),
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
    caption: str | None = None,
    alt: str | None = None,
) -> Path:
    """Write `<name>.png`, `<name>.svg` and, given data, the `<name>.csv` behind them; return the PNG's path.

    The caption says what the figure shows, `alt` tells it to those who cannot see it (default: the caption).
    Both images carry them as Title and Description, and the site shows them. The same figure gives the
    same bytes on every run. Each file is whole or absent, never half written.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"a figure's name is a plain file name without folders, not {name!r}")
    folder = Path(folder)
    said = {"Title": caption, "Description": alt or caption}
    words = {key: text for key, text in said.items() if text}
    with mpl.rc_context({"svg.hashsalt": name}):
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            fig.savefig(buffer, format=suffix, dpi=200, metadata={**metadata, **words})
            write_whole(folder / f"{name}.{suffix}", buffer.getvalue())
    if data is not None:
        rows = data.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_whole(folder / f"{name}.csv", rows)
    return folder / f"{name}.png"
