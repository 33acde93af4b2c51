"""The pictures of an evaluation card's page, as PNG data URIs that need no file beside it."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from diffinv.figures.style import OKABE_ITO, style

LARGEST_SIDE = 96  # of an image on the page, in pixels of its file
INK, OTHER, SYNTHETIC = "#1b1f24", OKABE_ITO["blue"], OKABE_ITO["vermillion"]


@style()
def manifold_uri(shares: pd.DataFrame) -> str:
    """Points on a line for the shares of synthetic images beside those of test images, where these are known.

    A row is a share, named by the index; the columns are "synthetic" and "real".
    """
    figure = Figure(figsize=(5.2, 2.2))
    ax = figure.subplots()
    if shares["real"].notna().any():
        ax.plot(shares["real"], shares.index, "D", color=OTHER, markersize=7, label="test images")
    ax.plot(shares["synthetic"], shares.index, "o", color=SYNTHETIC, markersize=8, label="synthetic images")
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.invert_yaxis()
    ax.margins(y=0.15)
    ax.set_xlim(left=-0.02, right=max(1.05, 1.05 * float(shares[["synthetic", "real"]].max().max())))
    ax.set_xlabel("share (density: may exceed 1)")
    ax.grid(False, axis="y")
    return _plot_uri(figure)


@style()
def closeness_uri(
    curves: Mapping[str, Float[np.ndarray, " image"] | None], *, threshold: float, role: str
) -> str:
    """Rising curves of the distances to the nearest image of a set, whose images have the `role`.

    `curves` are named distances: within the set, of other real images (None if unknown), of synthetic ones.
    """
    figure = Figure(figsize=(5.2, 2.6))
    ax = figure.subplots()
    looks = [(INK, "--"), (OTHER, "-"), (SYNTHETIC, "-")]
    furthest = 1.5
    for (label, distances), (colour, dashes) in zip(curves.items(), looks, strict=True):
        if distances is not None:
            ax.ecdf(distances, color=colour, linestyle=dashes, label=label)
            # An outlier far away says nothing about copies.
            furthest = max(furthest, float(np.quantile(distances, 0.98)))
    ax.axvline(threshold, color=INK, linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, furthest), ylim=(0, 1), ylabel="images at least as near (%)")
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    ax.set_xlabel(f"distance to the nearest {role} image (1 = typical among them)")
    return _plot_uri(figure)


def strip_uri(images: Sequence[UInt8[np.ndarray, "side side 3"]]) -> str:
    """Images side by side, none larger than needed on a page; the page shows between them."""
    tiles = [Image.fromarray(image) for image in images]
    for tile in tiles:
        tile.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
    side, gap = tiles[0].width, max(2, tiles[0].width // 12)
    strip = Image.new("RGBA", (len(tiles) * (side + gap) - gap, side))
    for index, tile in enumerate(tiles):
        strip.paste(tile, (index * (side + gap), 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="PNG", optimize=True)
    return _uri(buffer)


def _plot_uri(figure: Figure) -> str:
    figure.legend(loc="outside upper left", ncols=3)
    figure.axes[0].tick_params(grid_color=INK, grid_alpha=0.12)  # seen on either ground
    # Without a ground of its own, one file serves the light page and, its lightness inverted, the dark one.
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=180, transparent=True, metadata={"Software": None})
    return _uri(buffer)


def _uri(png: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
