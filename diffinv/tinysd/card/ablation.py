"""Stage ``ablation``: denoisers that differ in one choice, by held-out loss after equal computing time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from diffinv.artefacts.writing import write_whole
from diffinv.studies.claims import markdown_table
from diffinv.tinysd.training.clip_stage import MAX_TOKENS
from diffinv.tinysd.training.curriculum import Curriculum, Mixture
from diffinv.tinysd.training.denoiser import (
    MAX_SNR,
    MIN_SNR,
    DenoisingLoss,
    mean_denoising_loss,
    new_denoiser,
)
from diffinv.tinysd.training.encoded_pairs import PASSES_PER_BLOCK, EncodedBlocks
from diffinv.tinysd.training.training_loop import SCHEDULES, Schedule, TrainingRun, seeded_initialisation

EVERYWHERE = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
}
# An average over few steps, and no fall of the learning rate: the clock ends the run, not the samples.
SHORT: Mapping[str, Any] = {"total_samples": 10**9, "warmup_samples": 2_000, "ema_decay": 0.99}
SCHEDULE = Schedule(batch_size=128, learning_rate=2e-3, **SHORT)


@dataclass(frozen=True)
class Variant:
    """One way to train the denoiser; what none of them says is as shipped, but for the balance."""

    schedule: Schedule = SCHEDULE
    network: Mapping[str, Any] = field(default_factory=dict)  # what differs from the shipped U-Net
    snr_bounds: tuple[float, float] = (MIN_SNR, MAX_SNR)
    passes_per_block: int = PASSES_PER_BLOCK
    num_tokens: int = MAX_TOKENS  # of the encoded caption that the U-Net attends to
    balanced: bool = False  # a concept is as likely as any other; False: an icon is
    everything: bool = False  # rarer concepts and emoji beside the commonest, from the first sample on

    def at_width(self, *block_out_channels: int) -> Variant:
        """The same with other numbers of channels."""
        return replace(self, network={**self.network, "block_out_channels": block_out_channels})


# An earlier TinySD's: the others differ from it in one choice, and what is shipped was chosen by them.
START = Variant(snr_bounds=(0.2, MAX_SNR)).at_width(48, 96, 128)
VARIANTS: Mapping[str, Variant] = {
    "starting point": START,
    "attention at 8 x 8 too": replace(START, network={**START.network, **EVERYWHERE}),
    "width 64-96-128": START.at_width(64, 96, 128),
    "no min-SNR weights": replace(START, snr_bounds=(0.0, float("inf"))),
    "width 64-96-128, SNR bound 0.05": Variant(),
    "Muon": replace(START, schedule=replace(SCHEDULE, optimiser="muon")),
    "concepts balanced": replace(START, balanced=True),
    "as shipped: width 64-96-128, SNR bound 0.05, Muon, batch 256, learning rate 2.5e-3, balanced": Variant(
        replace(SCHEDULES["unet"], **SHORT), balanced=True
    ),
    "min-SNR weights without a lower bound": replace(START, snr_bounds=(0.0, MAX_SNR)),
    "learning rate 1e-3": replace(START, schedule=replace(SCHEDULE, learning_rate=1e-3)),
    "learning rate 4e-3": replace(START, schedule=replace(SCHEDULE, learning_rate=4e-3)),
    "batch 32": replace(START, schedule=replace(SCHEDULE, batch_size=32)),
    "batch 64": replace(START, schedule=replace(SCHEDULE, batch_size=64)),
    "width 32-64-96": START.at_width(32, 64, 96),
    "width 64-128-192": START.at_width(64, 128, 192),
    "8 tokens of text": replace(START, num_tokens=8),
    "latents encoded for each step": replace(START, passes_per_block=1),
    "rarer concepts and emoji from the start": replace(START, everything=True),
}


def ablate(
    mixture: Mixture,
    held_out: Mixture,
    pipeline_folder: Path,
    path: Path,
    *,
    minutes: float,
    variants: Mapping[str, Variant] = VARIANTS,
) -> pd.DataFrame:
    """Train each variant for ``minutes`` of processor time and write ``path``, a CSV with one row each.

    Processor time, not the clock's, so that other work on the machine favours none. A variant that has its
    row is not trained again. The loss is the plain squared error of the predicted noise on held-out icons,
    the mean over timesteps, with their captions and with captions of other icons: the difference is what the
    network has learnt from words.
    """
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {row["variant"] for row in rows}
    for name, variant in variants.items():
        if name in done:
            continue
        rows.append({"variant": name, **_train(variant, mixture, held_out, pipeline_folder, minutes)})
        write_whole(path, pd.DataFrame(rows).to_csv(index=False))
    return pd.DataFrame(rows)


def _train(
    variant: Variant, mixture: Mixture, held_out: Mixture, pipeline_folder: Path, minutes: float
) -> dict[str, float]:
    with seeded_initialisation():
        unet = new_denoiser(**variant.network)
    mixture = replace(mixture, icons=replace(mixture.icons, balanced=variant.balanced))
    curriculum = Curriculum(mixture if variant.everything else mixture.icons.with_wider_share(0))
    blocks = EncodedBlocks(curriculum, pipeline_folder, passes=variant.passes_per_block)
    loss, batch_size = DenoisingLoss("cpu", variant.snr_bounds), variant.schedule.batch_size

    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(unet, variant.schedule, Path(folder), name="unet", clock=time.process_time)

        def loss_function(
            network: nn.Module, generator: np.random.Generator, noise: torch.Generator
        ) -> Tensor:
            latents, embeddings = blocks.batch(run.samples, batch_size)
            return loss(network, (latents, embeddings[:, : variant.num_tokens]), generator, noise)

        run.run(loss_function, minutes=minutes, save_every_seconds=float("inf"))
    unet.load_state_dict(run.ema_state())
    own, other = (
        mean_denoising_loss(
            unet.eval(), pipeline_folder, held_out.icons, swapped=swapped, num_tokens=variant.num_tokens
        )
        for swapped in (False, True)
    )
    return {
        "parameters": sum(parameter.numel() for parameter in unet.parameters()),
        "samples": run.samples,
        "processor_minutes": run.seconds / 60,
        "held_out_loss": own,
        "held_out_loss_other_captions": other,
    }


def table(rows: pd.DataFrame) -> str:
    """The rows as a Markdown table, lowest held-out loss first."""
    columns = ("variant", "parameters (M)", "samples seen", "held-out loss", "with other captions")
    lines = [
        [
            row.variant,
            f"{row.parameters / 1e6:.1f}",
            f"{row.samples:,}",
            f"{row.held_out_loss:.4f}",
            f"{row.held_out_loss_other_captions:.4f}",
        ]
        for row in rows.sort_values("held_out_loss").itertuples()
    ]
    return markdown_table(columns, lines)
