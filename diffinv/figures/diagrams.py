"""The method's diagram (the paper's Fig. 1a and 2), drawn around images and vectors of an actual run."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from diffinv.figures.style import GREY, OKABE_ITO

_LEARNED, _FROZEN = OKABE_ITO["vermillion"], "#E9EEF4"


def method_diagram(
    *,
    image: UInt8[np.ndarray, "height width 3"],
    latents: Float[np.ndarray, "channel latent_height latent_width"],
    noisy_latents: Float[np.ndarray, "channel latent_height latent_width"],
    vectors: Float[np.ndarray, "token channel"],
    partner: Float[np.ndarray, "token channel"],
    perturbed: Float[np.ndarray, "token channel"],
    trajectory: Sequence[UInt8[np.ndarray, "height width 3"]],
    samples: Sequence[UInt8[np.ndarray, "height width 3"]],
    label: str,
) -> Figure:
    """Two stages: learn an image's vectors under the frozen model, then denoise under perturbed vectors.

    `trajectory` is a sample while it is denoised, noise first; `samples` are three finished ones.
    """
    fig = plt.figure(figsize=(7.4, 4.3))
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    _learn(ax, image, latents, noisy_latents, vectors)
    _sample(ax, vectors, partner, perturbed, trajectory, samples, label)
    ax.plot([0.15, 7.25], [2.12, 2.12], color="#D0D0D0", linewidth=0.8)
    ax.set(xlim=(0, 7.4), ylim=(0, 4.3), aspect="equal")
    ax.set_axis_off()
    return fig


def _learn(ax: Axes, image: np.ndarray, latents: np.ndarray, noisy: np.ndarray, vectors: np.ndarray) -> None:
    _heading(ax, 4.12, "Stage 1: inversion", "learn this image's vectors; the model stays as it is")
    middle = 3.4
    _picture(ax, image, 0.55, middle, 0.72, "image $x$")
    _box(ax, 1.33, middle, 0.46, 0.42, "$E$")
    _picture(ax, _as_rgb(latents), 2.1, middle, 0.62, "latents $z$")
    _picture(ax, _as_rgb(noisy), 3.2, middle, 0.62, "$z_t$ = noised $z$")
    _box(ax, 4.4, middle, 0.98, 0.74, "U-Net\n(frozen)")
    _box(ax, 6.2, middle, 1.3, 0.5, r"loss $\|\epsilon - \hat\epsilon\|^2$", face="white")
    for start, stop in ((0.93, 1.08), (1.58, 1.77), (2.43, 2.87), (3.53, 3.89), (4.91, 5.53)):
        _arrow(ax, (start, middle), (stop, middle))
    ax.text(2.65, middle + 0.07, r"$+\,\epsilon$", ha="center", fontsize=8.5)
    ax.text(5.22, middle + 0.07, r"$\hat\epsilon$", ha="center", fontsize=9.5)
    _strip(ax, vectors, 4.4, 2.52, "vectors $c$", learned=True)
    _arrow(ax, (4.4, 2.69), (4.4, 3.03))
    bend: Any = {"connectionstyle": "angle,angleA=90,angleB=0,rad=5", "linestyle": (0, (3, 2))}
    _arrow(ax, (6.2, 3.14), (4.97, 2.52), color=_LEARNED, **bend)
    ax.text(5.55, 2.57, "gradient, to $c$ only", fontsize=8, color=_LEARNED, ha="center", va="bottom")
    note: Any = {"fontsize": 7.5, "color": GREY, "va": "center"}
    ax.text(4.5, 2.85, "cross-attention", ha="left", **note)
    ax.text(3.72, 2.52, "in place of the text encoder's output", ha="right", **note)


def _sample(
    ax: Axes,
    vectors: np.ndarray,
    partner: np.ndarray,
    perturbed: np.ndarray,
    trajectory: Sequence[np.ndarray],
    samples: Sequence[np.ndarray],
    label: str,
) -> None:
    _heading(ax, 1.9, "Stage 2: sampling", "denoise fresh noise under perturbed vectors")
    middle = 0.78
    _strip(ax, vectors, 0.72, 1.3, "$c$, this image", learned=True)
    _strip(ax, partner, 0.72, 0.5, "$c'$, same class", learned=True)
    _strip(ax, perturbed, 2.25, 0.9, r"$\hat c$ = mix + $\lambda\,\epsilon$")
    _arrow(ax, (1.27, 1.3), (1.7, 0.98))
    _arrow(ax, (1.27, 0.5), (1.7, 0.82))
    size, left = 0.6, 3.34
    for index, step in enumerate(trajectory):
        _picture(ax, step, left + index * (size + 0.05), middle + 0.12, size, "")
    right = left + (len(trajectory) - 1) * (size + 0.05) + size / 2
    _arrow(ax, (2.8, 0.9), (left - size / 2 - 0.03, 0.9))
    ax.text(left - size / 2, 1.31, "noise", fontsize=8, ha="left")
    ax.text(right, 1.31, "image", fontsize=8, ha="right")
    ax.text((left - size / 2 + right) / 2, 0.44, "the same frozen U-Net, step by step", **_CAPTION)
    for index, sample in enumerate(samples[:3]):
        _picture(ax, sample, 6.95, middle + 0.18 + (1 - index) * 0.47, 0.44, "")
    _arrow(ax, (right + 0.04, 0.9), (6.67, 0.9))
    ax.text(7.25, 0.22, f"all labelled “{label}”", **{**_CAPTION, "ha": "right"})


_CAPTION: dict[str, Any] = {"fontsize": 8, "ha": "center", "va": "top", "linespacing": 1.1}


def _heading(ax: Axes, y: float, title: str, subtitle: str) -> None:
    ax.text(0.15, y, title, fontsize=10, fontweight="bold", va="center")
    ax.text(1.95, y, subtitle, fontsize=9, color=GREY, va="center")


def _as_rgb(latents: np.ndarray) -> np.ndarray:
    """The first three latent channels as colours: the eye needs no more than their layout."""
    shown = np.moveaxis(latents[:3], 0, -1)
    low, high = np.percentile(shown, [2, 98])
    return np.clip((shown - low) / max(high - low, 1e-6), 0, 1)


def _picture(ax: Axes, image: np.ndarray, x: float, y: float, size: float, caption: str) -> None:
    half = size / 2
    ax.imshow(image, extent=(x - half, x + half, y - half, y + half), interpolation="nearest", zorder=2)
    if caption:
        ax.text(x, y - half - 0.06, caption, **_CAPTION)


def _strip(ax: Axes, vectors: np.ndarray, x: float, y: float, caption: str, *, learned: bool = False) -> None:
    """The first channels of an image's vectors, a row a token."""
    shown = vectors[:, :24]
    half_width, half_height = 0.52, 0.15
    box = (x - half_width, x + half_width, y - half_height, y + half_height)
    limit = float(np.abs(shown).max()) or 1.0
    colours: Any = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    ax.imshow(shown, extent=box, aspect="auto", interpolation="nearest", **colours)
    line: Any = (
        {"edgecolor": _LEARNED, "linewidth": 1.4} if learned else {"edgecolor": GREY, "linewidth": 0.8}
    )
    ax.add_patch(Rectangle((box[0], box[2]), 2 * half_width, 2 * half_height, fill=False, zorder=3, **line))
    ax.text(x, y - half_height - 0.05, caption, **_CAPTION)


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, face: str = _FROZEN) -> None:
    corner = (x - width / 2, y - height / 2)
    look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.07", "edgecolor": GREY, "linewidth": 0.9}
    ax.add_patch(FancyBboxPatch(corner, width, height, facecolor=face, **look))
    ax.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(ax: Axes, start: tuple[float, float], stop: tuple[float, float], **look: Any) -> None:
    usual = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "#303030", "linewidth": 1.2, "zorder": 4}
    ax.add_patch(FancyArrowPatch(start, stop, **{**usual, "shrinkA": 0, "shrinkB": 0, **look}))
