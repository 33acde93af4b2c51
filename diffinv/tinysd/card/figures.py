"""Drawings of a pre-training: its loss curves, latents as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffinv.figures.plots import shared_legend
from diffinv.figures.style import OKABE_ITO

#: What a stage trains, by the name of its log.
STAGES = {
    "vae": "autoencoder",
    "clip": "CLIP",
    "vision": "CLIP, image half",
    "unet": "U-Net",
    "unet64": "U-Net, 64 px",
}
_SOURCES = (OKABE_ITO["blue"], OKABE_ITO["vermillion"])


def training_curves(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss against samples seen, both on a log axis: a panel per stage, a line per training.

    `logs[name]` has the columns stage, samples, loss. Losses of different stages are different things.
    """
    every = list(dict.fromkeys(stage for log in logs.values() for stage in log["stage"]))
    stages = [*(stage for stage in STAGES if stage in every), *(s for s in every if s not in STAGES)]
    columns = len(stages) if len(stages) < 5 else 3
    lines = -(-len(stages) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(7.2, 2.4 * lines + 0.3), squeeze=False)
    for ax in axes.flat[len(stages) :]:
        ax.set_axis_off()
    for ax, stage in zip(axes.flat, stages, strict=False):
        for (name, log), colour in zip(logs.items(), _SOURCES, strict=False):
            rows = log[log["stage"] == stage]
            marker = "o" if len(rows) < 4 else ""
            ax.loglog(rows["samples"], rows["loss"], color=colour, marker=marker, label=name)
        ax.set_title(STAGES.get(stage, stage))
        ax.set_xlabel("samples seen")
        _plain_numbers(ax)
    for ax in axes[:, 0]:
        ax.set_ylabel("training loss")
    if len(logs) > 1:
        shared_legend(fig, axes.flat)
    return fig


def milestones(
    rows: pd.DataFrame, axes: Sequence[Axes], *, real_right: float, shipped: tuple[float, float]
) -> None:
    """How good a denoiser was after how many samples, on two axes: held-out loss, samples named right in %.

    `rows` has the columns samples, held_out_loss, named_right; `real_right` is that share of real images, and
    `shipped` are the samples behind the shipped weights, after the learning rate's fall, and their share.
    """
    millions = rows["samples"] / 1e6
    axes[0].plot(millions, rows["held_out_loss"], marker="o", color=_SOURCES[0])
    axes[0].set_ylabel("held-out denoising loss")
    axes[1].plot(millions, 100 * rows["named_right"], marker="o", color=_SOURCES[0], label="samples")
    axes[1].plot(shipped[0] / 1e6, 100 * shipped[1], "D", color=_SOURCES[1], label="samples, as shipped")
    axes[1].axhline(100 * real_right, color="0.4", linestyle="--", label="real icons")
    axes[1].set_ylabel("named right by CLIP (%)")
    axes[1].set_ylim(0, 100)
    axes[1].legend()
    for ax in axes:
        ax.set_xlabel("samples seen (millions)")
        ax.set_xlim(0, 1.05 * max(millions.max(), shipped[0] / 1e6))


def _plain_numbers(ax: Axes) -> None:
    """Few ticks, written out: a log axis that spans less than a decade has none, or far too many."""
    low, high = ax.get_ylim()
    subs = (1, 2, 5) if high > 3 * low else tuple(range(1, 10))
    ax.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=subs))
    ax.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())


def channel_pictures(
    latents: Float[np.ndarray, "image channel h w"], side: int
) -> UInt8[np.ndarray, "image channel side side 3"]:
    """Each channel as a picture of `side` pixels: blue is low, red is high, white is zero.

    All channels share one scale, cut off where the largest hundredth of the values begins.
    """
    limit = float(np.quantile(np.abs(latents), 0.99)) or 1.0
    coloured = mpl.colormaps["RdBu_r"](latents / limit / 2 + 0.5)[..., :3]
    factor = side // latents.shape[-1]
    pictures = (255 * coloured).round().astype(np.uint8)
    return pictures.repeat(factor, axis=2).repeat(factor, axis=3)
