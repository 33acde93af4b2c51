"""What the card says and draws of its inversion test; rows come in, nothing is measured here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.figure import Figure

from diffinv.figures.image_grids import image_grid
from diffinv.figures.plots import accuracy_curve, shared_legend
from diffinv.figures.style import style
from diffinv.studies.claims import markdown_table, verdict
from diffinv.studies.statistics import summarise

EMPTY_PROMPT, AUTOENCODER, LEARNED = "empty prompt", "autoencoder", "learned vectors"
# What is drawn, in the order of the panels' rows, with the name of its axis.
EFFECTS = {
    "change": "loss above the\nempty prompt's",
    "resemblance": "CLIP cosine to own original\nabove that to others",
}


def effects(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with two paired effects: ``change`` of loss from the empty prompt's, and ``resemblance``.

    ``resemblance`` is the CLIP cosine to the own original minus the mean one to the dataset's others. The
    ``seed`` of a row, by which intervals count repetitions, is its image.
    """
    empty = rows[rows["condition"] == EMPTY_PROMPT].set_index(["dataset", "image"])["loss"]
    at_empty = empty.reindex(pd.MultiIndex.from_frame(rows[["dataset", "image"]])).to_numpy()
    return rows.assign(
        change=rows["loss"] - at_empty,
        resemblance=rows["clip_to_own"] - rows["clip_to_others"],
        seed=pd.factorize(rows["dataset"] + "/" + rows["image"])[0],
    )


def draw_losses(rows: pd.DataFrame) -> Figure:
    """Loss and resemblance against the number of updates: a column a dataset, a line a number of vectors."""
    rows = effects(rows)
    learned = rows[rows["condition"] == LEARNED]
    datasets = list(learned["dataset"].unique())
    with style():
        fig, axes = plt.subplots(
            2, len(datasets), figsize=(0.8 + 2.3 * len(datasets), 4.6), squeeze=False, sharey="row"
        )
        for line, (effect, name) in zip(axes, EFFECTS.items(), strict=True):
            table = summarise(learned, by=["dataset", "num_tokens", "updates"], value=effect)
            table["vectors"] = [f"{n:.0f} vector{'s' * (n > 1)}" for n in table["num_tokens"]]
            for ax, dataset in zip(line, datasets, strict=True):
                own = table[table["dataset"] == dataset]
                accuracy_curve(ax, own, "updates", "vectors", xlabel="", ylabel="", scale=1, log=False)
                ax.axhline(0, color="black", linewidth=0.8)
            line[0].set_ylabel(name)
        for ax, dataset in zip(axes[0], datasets, strict=True):
            ax.set_title(dataset, fontweight="bold")
        for ax in axes[1]:
            ax.set_xlabel("updates of the vectors")
        shared_legend(fig, axes.flat)
    return fig


def draw_samples(
    columns: Mapping[str, UInt8[np.ndarray, "image height width 3"]],
    datasets: Sequence[str],
    names: Sequence[str],
) -> Figure:
    """Originals, reconstructions, samples after so many updates; a panel per dataset, a row per image."""
    pictures = np.stack(list(columns.values()), axis=1)
    panels = list(dict.fromkeys(datasets))
    rows = max(datasets.count(dataset) for dataset in panels)
    size = (len(panels) * (0.8 + 0.62 * len(columns)), 1.2 + 0.66 * rows)
    with style():
        fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
        for ax, dataset in zip(axes[0], panels, strict=True):
            own = [index for index, name in enumerate(datasets) if name == dataset]
            labels = [names[index] for index in own]
            image_grid(ax, pictures[own], labels, list(columns), split_after=2, label_size=7.5)
            ax.set_title(f"{dataset}: one sample after so many updates", fontsize=9)
    return fig


def summary(rows: pd.DataFrame, num_tokens: int) -> pd.DataFrame:
    """One row per dataset for one number of vectors: losses, resemblance with its interval, and a verdict.

    The verdict is that of the claim that samples after the last update are more like their own originals
    than like other originals of the dataset.
    """
    rows = effects(rows)
    learned = rows[(rows["condition"] == LEARNED) & (rows["num_tokens"] == num_tokens)]
    last = learned[learned["updates"] == learned["updates"].max()]
    by_dataset = {
        condition: own.groupby("dataset", sort=False) for condition, own in rows.groupby("condition")
    }
    table = summarise(last, by=["dataset"], value="resemblance").set_index("dataset")
    means = last.groupby("dataset", sort=False)
    table = table.rename(columns={"mean": "resemblance", "n": "images"}).drop(columns="std")
    table["resemblance_of_autoencoder"] = by_dataset[AUTOENCODER]["resemblance"].mean()
    table["nearest_by_clip"] = means["nearest_by_clip_is_own"].mean()
    table["nearest_by_pixels"] = means["nearest_by_pixels_is_own"].mean()
    table["loss_empty_prompt"] = by_dataset[EMPTY_PROMPT]["loss"].mean()
    for updates, own in learned.groupby("updates"):
        table[f"loss_after_{updates:.0f}"] = own.groupby("dataset", sort=False)["loss"].mean()
    table["verdict"] = list(map(partial(verdict, margin=0), table["low"], table["high"]))
    return table.reset_index()


def section(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    candidates: Mapping[str, int],
    num_tokens: int,
    learning_rate: float,
) -> str:
    """The card's section on inversion, in Markdown; ``table`` is the ``summary`` for ``num_tokens``."""
    last = int(rows["updates"].max())
    entries = table.to_dict("records")
    columns = [
        "dataset", "loss: empty prompt", "start", f"after {last} updates",
        "cosine to own minus to other originals (95 %)", "autoencoder's",
        "nearest original is its own: CLIP", "pixels", "chance",
    ]  # fmt: skip
    per_dataset = [_cells(entry, last, candidates[str(entry["dataset"])]) for entry in entries]
    learned = rows[rows["condition"] == LEARNED]
    losses = learned.pivot_table(index="num_tokens", columns="updates", values="loss")
    nearest = learned[learned["updates"] == last].groupby("num_tokens")["nearest_by_clip_is_own"].mean()
    by_tokens = [
        [f"{tokens:.0f}", *(f"{loss:.4f}" for loss in line), f"{nearest[tokens]:.0%}"]
        for tokens, line in zip(losses.index, losses.to_numpy(), strict=True)
    ]
    updates = ["start" if number == 0 else f"{number:.0f}" for number in losses.columns]
    each = int(table["images"].iloc[0])
    return f"""## Does inversion work on it?

{_verdicts(entries)} The first image of each of {each} classes of each dataset, none of which
TinySD was trained on, was inverted with learning rate {learning_rate:g}; losses are on noise and timesteps
that no inversion saw. A sample is drawn from noise of its own, without perturbation, guided away from the
dataset's mean vector; cosines are between CLIP features, and no sample can be more like its original than
the autoencoder's reconstruction is. With {num_tokens} vectors per image:

{markdown_table(columns, per_dataset)}

Mean loss over all {each * len(table)} images by the numbers of vectors and of updates, and how often the
original nearest to a sample (CLIP, after {last} updates) is its own:

{markdown_table(["vectors", *updates, "nearest"], by_tokens)}

![loss and resemblance against updates](inversion.png)

Samples beside their originals, {num_tokens} vectors per image; nobody picked the images:

![samples after more and more updates](inversion_samples.png)
"""


def _verdicts(entries: Sequence[Mapping[Hashable, object]]) -> str:
    supported = [str(entry["dataset"]) for entry in entries if entry["verdict"] == "supported"]
    rest = [
        f"{entry['dataset']} ({entry['verdict']})" for entry in entries if entry["verdict"] != "supported"
    ]
    said = [f"Samples resemble their originals on {', '.join(supported)}."] if supported else []
    return " ".join([*said, *([f"That they do is not shown on {', '.join(rest)}."] if rest else [])])


def _cells(entry: Mapping[Hashable, Any], last: int, candidates: int) -> list[str]:
    losses = [f"{entry[name]:.4f}" for name in ("loss_empty_prompt", "loss_after_0", f"loss_after_{last}")]
    interval = f"{entry['low']:+.2f} to {entry['high']:+.2f}"
    return [
        entry["dataset"],
        *losses,
        f"{entry['resemblance']:+.2f} ({interval})",
        f"{entry['resemblance_of_autoencoder']:+.2f}",
        f"{entry['nearest_by_clip']:.0%}",
        f"{entry['nearest_by_pixels']:.0%}",
        f"{1 / candidates:.0%}",
    ]
