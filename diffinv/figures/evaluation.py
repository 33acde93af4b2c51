"""The plots and pictures of an evaluation card's page, as PNG data URIs that need no file beside it."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from diffinv.evaluation.card import EvaluationCard
from diffinv.figures.style import OKABE_ITO, style
from diffinv.metrics.copies import Closeness

LARGEST_SIDE = 96  # of an image on the page, in pixels of its file
SHARES = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Palette:
    """The colours of a plot on light or on dark ground; synthetic images keep theirs on both."""

    ground: str
    ink: str
    grid: str
    test: str
    synthetic: str = OKABE_ITO["vermillion"]


LIGHT = Palette(ground="#ffffff", ink="#1b1f24", grid="#e3e6ea", test=OKABE_ITO["blue"])
DARK = Palette(ground="#16191d", ink="#e8eaed", grid="#33393f", test=OKABE_ITO["sky"])


def manifold_plot(card: EvaluationCard, palette: Palette) -> Figure:
    """Precision, recall, density and coverage of the synthetic images beside those of the test images."""
    rows = card.metrics.set_index("metric").loc[list(SHARES)]
    figure = Figure(figsize=(6.4, 2.4))
    ax = figure.subplots()
    places = np.arange(len(rows))
    if rows["real"].notna().any():
        ax.plot(rows["real"], places, "D", color=palette.test, markersize=7, label="test images")
    ax.plot(rows["synthetic"], places, "o", color=palette.synthetic, markersize=8, label="synthetic images")
    ax.axvline(1, color=palette.ink, linewidth=0.8)
    ax.set_yticks(places, SHARES)
    ax.invert_yaxis()
    ax.margins(y=0.15)
    ax.set_xlim(left=-0.02, right=max(1.05, 1.05 * float(rows[["synthetic", "real"]].max().max())))
    ax.set_xlabel("share (density: may exceed 1)")
    ax.grid(False, axis="y")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def closeness_plot(
    found: Closeness, control: Closeness | None, names: Sequence[str], palette: Palette
) -> Figure:
    """The distances to the nearest image of a set, of synthetic images, of others, and within the set.

    `names` are those of the set and of the control.
    """
    figure = Figure(figsize=(6.4, 2.8))
    ax = figure.subplots()
    lines = [(f"{names[0]} images to each other", found.own_ratios, palette.ink, "--")]
    if control is not None:
        lines.append((f"{names[1]} images", control.ratios, palette.test, "-"))
    lines.append(("synthetic images", found.ratios, palette.synthetic, "-"))
    for label, ratios, colour, dashes in lines:
        values = np.sort(ratios.double().numpy())
        shares = np.arange(1, len(values) + 1) / len(values)
        ax.step(values, 100 * shares, where="post", color=colour, linestyle=dashes, label=label)
    ax.axvline(found.threshold, color=palette.ink, linewidth=0.8, linestyle=":")
    # An outlier far away says nothing about copies.
    ax.set_xlim(0, max(1.5, *(float(np.quantile(ratios.numpy(), 0.98)) for _, ratios, _, _ in lines)))
    ax.set_ylim(0, 100)
    ax.set_xlabel(f"distance to the nearest {names[0]} image (1 = typical among {names[0]} images)")
    ax.set_ylabel("images at least as near (%)")
    figure.legend(loc="outside upper left", ncols=len(lines))
    return figure


def plot_uris(draw: Callable[[Palette], Figure]) -> tuple[str, str]:
    """A plot on light and on dark ground."""
    light, dark = (_plot_uri(draw, palette) for palette in (LIGHT, DARK))
    return light, dark


def _plot_uri(draw: Callable[[Palette], Figure], palette: Palette) -> str:
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    grounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    colours: Any = dict.fromkeys(inks, palette.ink) | dict.fromkeys(grounds, palette.ground)
    with style(), mpl.rc_context({**colours, "grid.color": palette.grid}):
        buffer = io.BytesIO()
        draw(palette).savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return _uri(buffer.getvalue())


def strip_uri(images: UInt8[np.ndarray, "image height width 3"]) -> str:
    """Images side by side, none larger than needed on a page; ground shows between them."""
    tiles = [_small(image) for image in images]
    side, gap = tiles[0].shape[0], max(2, tiles[0].shape[0] // 12)
    strip = np.zeros((side, len(tiles) * (side + gap) - gap, 4), np.uint8)
    for index, tile in enumerate(tiles):
        left = index * (side + gap)
        strip[:, left : left + side, :3] = tile
        strip[:, left : left + side, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="PNG", optimize=True)
    return _uri(buffer.getvalue())


def _small(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "side side 3"]:
    side = image.shape[0]
    if side > LARGEST_SIDE:
        return np.asarray(
            Image.fromarray(image).resize((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
        )
    return image


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
