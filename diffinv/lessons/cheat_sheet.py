"""The method on one page: the paper's equations beside the lines of code that they are, and its settings.

    python -m diffinv.lessons.cheat_sheet docs

writes `docs/cheat_sheet.pdf` and `docs/cheat_sheet.png`.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diffinv.artefacts.writing import write_atomically
from diffinv.classifiers.training import Training
from diffinv.figures.style import GREY, OKABE_ITO
from diffinv.method import inversion, perturbation, sampling
from diffinv.synthesizers import base


@dataclass(frozen=True)
class Row:
    """An equation in words, in symbols, and the lines of `function` that begin like `begin`."""

    words: str
    equation: str
    function: Callable[..., Any]
    begin: Sequence[str]

    @property
    def code(self) -> list[str]:
        """The lines as the source has them. ValueError where a beginning does not name just one."""
        lines = [line.strip() for line in inspect.getsource(self.function).splitlines()]
        found = []
        for begin in self.begin:
            match [line for line in lines if line.startswith(begin)]:
                case [line]:
                    found.append(line.split("  #")[0])
                case others:
                    name = self.function.__name__
                    raise ValueError(f"{len(others)} lines of {name} begin with {begin!r}: name just one.")
        return found

    @property
    def place(self) -> str:
        return f"{self.function.__module__.removeprefix('diffinv.').replace('.', '/')}.py"


SHEET: dict[str, Sequence[Row]] = {
    "Stage 1: inversion. Learn the vectors c of one real image x; the model stays as it is.": (
        Row(
            "encode the image, once",
            r"$z = \mu(x) + \sigma(x)\,\epsilon'$",
            inversion.inversion_steps,
            ("latents = mean",),
        ),
        Row(
            "add noise at a random timestep t",
            r"$z_t = \sqrt{\bar\alpha_t}\,z + \sqrt{1-\bar\alpha_t}\,\epsilon$",
            inversion.denoising_losses,
            ("noisy =",),
        ),
        Row(
            "how far is the predicted noise off?",
            r"$L(c) = \|\epsilon - \epsilon_\theta(z_t, t, c)\|^2$",
            inversion.denoising_losses,
            ("error =", "return error"),
        ),
        Row(
            "move c, and nothing else",
            r"$c \leftarrow c - \eta\,\mathrm{AdamW}(\partial L / \partial c)$",
            inversion.inversion_steps,
            ("(gradient,) =", "optimiser.step"),
        ),
    ),
    "Stage 2: sampling. Change the vectors a little, and denoise fresh noise under them.": (
        Row(
            "mix with another image of the class",
            r"$\hat c = \alpha\,c_1 + (1-\alpha)\,c_2$",
            perturbation.interpolate,
            ("return",),
        ),
        Row(
            "add noise to the vectors",
            r"$\hat c \leftarrow \hat c + \lambda\,\epsilon$",
            perturbation.add_noise,
            ("return embeddings +",),
        ),
        Row(
            "what guidance leads away from",
            r"$c_u = \mathrm{mean}_i\;c_i$",
            perturbation.unconditional_embedding,
            ("return store.mean",),
        ),
        Row(
            "guided prediction, g = 1 + w",
            r"$\hat\epsilon = \epsilon_\theta(c_u) + g\,(\epsilon_\theta(\hat c) - \epsilon_\theta(c_u))$",
            sampling.guided_prediction,
            ("return without",),
        ),
        Row(
            "one step towards the image",
            r"$z_t \rightarrow z_{t-1}$",
            sampling._denoise,
            ("output =", "latents = output"),
        ),
        Row("decode", r"$\hat x = D(z_0)$", sampling.sample, ("images[batch] =",)),
    ),
    "Stage 3: a classifier. A sample has the label of its image.": (
        Row("label the samples", r"$y(\hat x) = y(x)$", base.labelled, ("labels=",)),
        Row(
            "half of each batch is real",
            r"$|B_{\mathrm{synthetic}}| = \frac{1}{2}\,|B|$",
            Training,
            ("synthetic_share:",),
        ),
    ),
}
# The paper's symbol, the setting's name here, and whose default it has.
SETTINGS: Sequence[tuple[str, str, type]] = (
    ("vectors per image", "num_tokens", inversion.Inversion),
    ("updates per image", "steps_per_image", inversion.Inversion),
    (r"$\eta$, learning rate", "learning_rate", inversion.Inversion),
    (r"$\lambda$, noise", "noise_std", perturbation.Perturbation),
    (r"$1-\alpha$, partner's weight", "interpolation_weight", perturbation.Perturbation),
    (r"$g = 1 + w$, guidance", "guidance_scale", sampling.Sampling),
    ("denoising steps", "num_inference_steps", sampling.Sampling),
    ("share of samples in a batch", "synthetic_share", Training),
)


def sheet_text() -> str:
    """All that the sheet says, as plain text: what it is compared by, and read by those who cannot see it."""
    lines = []
    for title, rows in SHEET.items():
        lines += [
            title,
            *(f"{row.words}: {row.equation}: {'; '.join(row.code)} ({row.place})" for row in rows),
        ]
    return "\n".join([*lines, *(f"{symbol}: {name} = {default}" for symbol, name, default in _defaults())])


def cheat_sheet() -> Figure:
    """The sheet, on a page of A4."""
    width, height = 8.27, 11.69
    fig = plt.figure(figsize=(width, height))
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    ax.text(0.5, 0.62, "Diffusion Inversion on one page", fontsize=18, weight="bold", va="center")
    source = "Zhou, Sahak and Ba 2023, arXiv 2305.15316. The lines are those of the package, diffinv/."
    ax.text(0.5, 0.95, source, fontsize=8.5, color=GREY, va="center")
    y = 1.42
    for (title, rows), colour in zip(SHEET.items(), ("vermillion", "blue", "green"), strict=True):
        ax.add_patch(Rectangle((0.5, y - 0.15), 0.07, 0.3, color=OKABE_ITO[colour]))
        stage, what = title.split(". ", 1)
        ax.text(0.68, y, f"{stage}.", fontsize=11, weight="bold", va="center")
        ax.text(0.68, y + 0.24, what, fontsize=8.5, color=GREY, va="center")
        y += 0.58
        for row in rows:
            y = _draw(ax, row, y)
        y += 0.22
    ax.text(0.5, y, "Settings and their defaults", fontsize=11, weight="bold", va="center")
    for place, (symbol, name, default) in enumerate(_defaults()):
        x, down = 0.5 + 3.7 * (place % 2), y + 0.3 + 0.24 * (place // 2)
        ax.text(x, down, symbol, fontsize=8.5, va="center")
        ax.text(x + 1.75, down, f"{name} = {default}", fontsize=8, family="monospace", va="center")
    return fig


def _draw(ax: Any, row: Row, y: float) -> float:
    """Words, equation and code of a row that begins at `y`; where the next one begins."""
    high = 0.26 + 0.16 * len(row.code)
    ax.add_patch(Rectangle((3.52, y - 0.1), 4.28, high, color="#F3F5F8", zorder=0))
    ax.text(0.68, y + 0.02, row.words, fontsize=8.5, color=GREY, va="center")
    ax.text(0.68, y + 0.23, row.equation, fontsize=11.5, va="center")
    for place, line in enumerate(row.code):
        ax.text(3.6, y + 0.03 + 0.16 * place, line, fontsize=6.6, family="monospace", va="center")
    ax.text(3.6, y + 0.03 + 0.16 * len(row.code), row.place, fontsize=6, color=GREY, va="center")
    return y + max(0.5, high + 0.08)


def _defaults() -> list[tuple[str, str, Any]]:
    values = {kind: {each.name: each.default for each in fields(kind)} for _, _, kind in SETTINGS}
    return [(symbol, name, values[kind][name]) for symbol, name, kind in SETTINGS]


def main(folder: str = "docs") -> None:
    """Write the sheet as PDF and PNG, each with `sheet_text` inside, the same bytes on every run."""
    fig = cheat_sheet()
    for kind, said, silent in (("pdf", "Subject", "CreationDate"), ("png", "Description", "Software")):
        with write_atomically(Path(folder) / f"cheat_sheet.{kind}") as file:
            fig.savefig(file, format=kind, dpi=150, metadata={said: sheet_text(), silent: None})


if __name__ == "__main__":
    main(*sys.argv[1:])
