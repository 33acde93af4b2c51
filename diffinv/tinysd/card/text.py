"""The card's words: what TinySD is, how it was trained, what was measured, and whose icons it has seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from diffinv.artefacts.writing import write_whole
from diffinv.studies.claims import markdown_table
from diffinv.tinysd.card import ablation

GOALS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "autoencoder PSNR on held-out icons (dB)": (">= 26", lambda value: value >= 26),
    "CLIP zero-shot top-1 on icons10's test split": (">= 0.85", lambda value: value >= 0.85),
    "samples that CLIP names right among all concepts": (">= 0.80", lambda value: value >= 0.80),
    "one inversion update (ms per image)": ("<= 4", lambda value: value <= 4),
    "one 20-step guided sample (ms)": ("<= 60", lambda value: value <= 60),
    "size of the shipped files (MB)": ("<= 25", lambda value: value <= 25),
}


def goal_of(figure: str, value: float) -> tuple[str, str]:
    """The goal of a figure of the card, and "yes" or "no" for whether it is met; blank where it has none."""
    goal, is_met = GOALS.get(figure, ("", None))
    return goal, "" if is_met is None else "yes" if is_met(value) else "no"


def write_notice(path: Path, facts: dict) -> None:
    """Write ``NOTICE``: every icon and emoji set that was trained on, measured on or made into a dataset."""
    lines = [
        "TinySD was trained on icons and emoji of these sets "
        "(those marked 'held out' only measured it or made the datasets).",
        "",
    ]
    for kind, sets in (("icons", facts["sets"]), ("emoji", facts["emoji"]["sets"])):
        for name, entry in sets.items():
            part = "held out" if entry["held_out"] else "trained on"
            lines.append(
                f"{entry['name']} ({name}), {entry['author']}, {entry['licence']}, "
                f"{entry['icons']} {kind}, {part}, {entry['url']}"
            )
    write_whole(path, "\n".join(lines) + "\n")


def outlook(log: Path, milestones: Path, shipped_right: float) -> str:
    """What another hour on the machine that trained last would bring, from the denoiser's log and milestones.

    From measures on held-out icons, as the curriculum moves the training's own loss too; ``shipped_right`` is
    the share of samples of the shipped weights that are named right.
    """
    rows = pd.DataFrame([json.loads(line) for line in log.read_text().splitlines()])
    recent = rows.iloc[-max(2, len(rows) // 10) :]
    rate = 3600 * np.diff(recent["samples"]).sum() / max(np.diff(recent["seconds"]).sum(), 1e-9)
    speed = (
        f"The denoiser's last samples went by at {rate:,.0f} per hour on the machine that trained it. Its "
        "own loss against the samples seen: `logs/unet.jsonl`, drawn in `notebooks/90_pretrain_tinysd.ipynb`."
    )
    if not milestones.exists():
        return speed
    kept = pd.read_csv(milestones)
    lines = [
        [f"{row.samples:,}", f"{row.held_out_loss:.4f}", f"{row.named_right:.1%}"]
        for row in kept.itertuples()
    ]
    columns = ("samples of stage unet", "held-out loss", "samples named right")
    text = f"{speed} Measured on held-out icons after so many samples:\n\n{markdown_table(columns, lines)}\n"
    if len(kept) < 2:
        return text
    power, scale = np.polyfit(np.log(kept["samples"]), np.log(kept["held_out_loss"]), 1)
    latest = kept["samples"].iloc[-1]
    now, later = (float(np.exp(scale) * samples**power) for samples in (latest, latest + rate))
    return (
        f"{text}\nA power law through the held-out losses of the table goes from {now:.4f} to {later:.4f} "
        "with another hour of that machine at this learning rate. In what follows the last row, stage "
        f"unet64, the rate falls to zero: after it {shipped_right:.2%} are named right."
    )


def card_text(
    folder: Path, figures: dict[str, float], training: dict[str, dict[str, float]], facts: dict, note: str
) -> str:
    """Write the card of the shipped ``folder`` as Markdown."""
    rows = [(name, f"{value:.4g}", *goal_of(name, value)) for name, value in figures.items()]
    missed = [name for name in GOALS if goal_of(name, figures[name])[1] == "no"]
    scale = (
        "All goals are met: this is TinySD at release scale."
        if not missed
        else "Not at release scale yet. Goals not met: " + "; ".join(missed) + "."
    )
    stages = [
        (
            stage,
            f"{int(entry['samples']):,} of {int(entry['planned_samples']):,}",
            f"{entry['seconds'] / 60:.0f}",
            f"{entry.get('loss', float('nan')):.4f}",
        )
        for stage, entry in training.items()
    ]
    named_right = figures["samples that CLIP names right among all concepts"]
    icons, concepts = facts["icons"], facts["concepts"]
    num_emoji = facts["emoji"]["icons"]["train"]
    variants = _variants(folder / "logs" / "ablation.csv")
    measured = [(*row, "**no**" if met == "no" else met) for *row, met in rows]
    return f"""# TinySD

A complete Stable Diffusion in miniature, in diffusers layout: autoencoder (f = 4, four latent channels), a
U-Net with cross-attention, a CLIP text encoder, a tokenizer and a scheduler, and beside them the whole CLIP.
It draws icons and emoji of 32 to 64 pixels, so that everything in `diffinv` can be shown and tested offline
on a laptop.

{scale}

## Training

Corpus: {icons["train"]:,} monochrome icons of {concepts["train"]:,} concepts from
`@iconify/json` {facts["iconify_version"]}, {icons.get("wider", 0):,} more of the
{concepts.get("wider", 0):,} next commonest, each in random colours with a caption, and
{num_emoji:,} emoji; whole sets held out; the words of novel10 left out. sha256 of the
icons: `{facts["sha256"]}`, of the emoji:
`{facts["emoji"]["sha256"]}`.
Licences of all sets: `NOTICE`. Loss curves: `logs/*.jsonl`.

{markdown_table(("stage", "samples seen, of the recipe's", "minutes", "last loss"), stages)}

{note}
{outlook(folder / "logs" / "unet.jsonl", folder / "logs" / "milestones.csv", named_right)}
{variants}
## Measured on held-out icon sets

{markdown_table(("figure", "value", "goal", "met"), measured)}

"All concepts" are the {concepts["held_out"]:,} of them that held-out sets show too. Times are of the
machine that wrote this card. Again: `diffinv pretrain --stage card`.

Samples of 32 px, and the same prompts at 64 px:

![samples](samples.png)

![samples of 64 px](samples_64px.png)
"""


def _variants(path: Path) -> str:
    if not path.exists():
        return ""
    rows = pd.read_csv(path)
    minutes = f"{rows['processor_minutes'].mean():.1f}"
    return f"""
## Choices of the denoiser

Each variant differs in one choice from a starting point, the denoiser of an earlier TinySD (width 48-96-128,
min-SNR weights with a lower bound of 0.2, AdamW, learning rate 2e-3, batches of 128, the commonest concepts
alone), and was trained from scratch for {minutes} minutes of one core's time. The loss is the plain squared
error of the predicted noise on held-out icons, with their captions and with captions of other icons; the
difference is what was learnt from words. Width and lower bound of what is shipped were chosen before the long
training; most other rows were measured after it. No bound at all is best here, but leaves the noisiest steps,
where a caption is all there is to go by, next to no weight. Minutes tell what learns fastest at first, not
what is best after hours: Muon, no better than AdamW here, was chosen by a trial that went on from a million
samples, where the loss fell much faster with it. Concepts are balanced for the sake of those with few icons,
of which this loss, a mean over icons, says little.
Again: `diffinv pretrain --stage ablation`.

{ablation.table(rows)}
"""
