"""Stage ``vae``: the autoencoder, 32 px images to 8 x 8 latents of four channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffinv.tinysd.corpus.captions import Corpus
from diffinv.tinysd.training.curriculum import ImageSource
from diffinv.tinysd.training.training_loop import (
    Task,
    TrainingRun,
    mixed_precision,
    seeded_initialisation,
)

KL_WEIGHT = 1e-6


def new_autoencoder() -> Any:
    """Build the 0.7M-parameter autoencoder with random weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def to_pixel_values(images: np.ndarray) -> Tensor:
    """Turn float images ``[n, h, w, 3]`` in [0, 1] into ``pixel_values`` ``[n, 3, h, w]`` in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() * 2 - 1


def train_autoencoder(source: ImageSource, task: Task) -> TrainingRun:
    """Minimise L1 + L2 + 1e-6 KL on random colourings of the icons, and on emoji."""
    with seeded_initialisation():
        vae = new_autoencoder()
    run = TrainingRun(vae.to(task.device), task.schedule, task.folder, name="vae")

    def loss_function(network: Any, generator: np.random.Generator, noise: torch.Generator) -> Tensor:
        images, _, _ = source.draw(generator, task.schedule.batch_size)
        pixel_values = to_pixel_values(images).to(task.device)
        with mixed_precision(task.device):
            posterior = network.encode(pixel_values).latent_dist
            draws = torch.randn(posterior.mean.shape, generator=noise).to(task.device)
            reconstruction = network.decode(posterior.mean + posterior.std * draws).sample
        error = reconstruction.float() - pixel_values
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return error.abs().mean() + error.square().mean() + KL_WEIGHT * kl

    run.run(loss_function, minutes=task.minutes)
    return run


@torch.no_grad()
def finish_autoencoder(run: TrainingRun, corpus: Corpus) -> Any:
    """Take the EMA weights and set ``scaling_factor`` to 1 / std of the latents."""
    vae = new_autoencoder()
    vae.load_state_dict({key: value.cpu() for key, value in run.ema_state().items()})
    vae.eval()
    images, _, _ = corpus.draw(np.random.default_rng(1), 1024)
    latents = torch.cat([vae.encode(batch).latent_dist.mean for batch in to_pixel_values(images).split(128)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    return vae


@torch.no_grad()
def reconstruction_psnr(vae: Any, source: ImageSource, count: int = 512) -> float:
    """Peak signal-to-noise ratio in dB of reconstructed images (mean over them)."""
    images, _, _ = source.draw(np.random.default_rng(2), count)
    errors = []
    for batch in to_pixel_values(images).split(128):
        reconstruction = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((reconstruction - batch) / 2).square().mean((1, 2, 3)))
    return float((-10 * torch.cat(errors).log10()).mean())
