"""Stages ``unet`` and ``unet64``: the text-conditioned denoiser, on Stable Diffusion's noise schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffinv.foundation.randomness import stream
from diffinv.models.checkpoint import quiet_loading
from diffinv.tinysd.training.clip_stage import MAX_TOKENS
from diffinv.tinysd.training.curriculum import Curriculum, PairSource
from diffinv.tinysd.training.encoded_pairs import PAIRS_PER_BLOCK, EncodedBlocks, PairEncoder
from diffinv.tinysd.training.training_loop import (
    Task,
    TrainingRun,
    mixed_precision,
    seeded_initialisation,
    world_size,
)

# Weights of the squared error of x0: min-SNR's upper bound, and a lower one. Without the lower bound the
# noisiest steps, where a caption is all there is to go by, weigh next to nothing: words are learnt very late.
MIN_SNR, MAX_SNR = 0.05, 5.0
MILESTONE_SAMPLES = 500_000  # of stage unet: so often its weights are kept, to see what more would bring
FINE_SHARE = 1 / 3  # of a batch of stage unet64: the 64 px images, whose latents cost four times as much


def new_denoiser(**changes: Any) -> Any:
    """Build the 5.6M-parameter U-Net: plain convolutions at 8 x 8, cross-attention at 4 x 4 and 2 x 2.

    ``changes`` are for what the ablation varies.
    """
    shipped: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (64, 96, 128),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 128,
        "attention_head_dim": 4,
        "norm_num_groups": 16,
    }
    return UNet2DConditionModel(**(shipped | changes))


def new_scheduler() -> Any:
    """Stable Diffusion's scaled-linear schedule of 1,000 steps."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class DenoisingLoss:
    """The squared error of the predicted noise, with min-SNR weights (Hang et al. 2023) bounded below too."""

    def __init__(self, device: str, snr_bounds: tuple[float, float] = (MIN_SNR, MAX_SNR)) -> None:
        self.device = device
        self.scheduler = new_scheduler()
        snr = self.scheduler.alphas_cumprod / (1 - self.scheduler.alphas_cumprod)
        self.weights = (snr.clamp(*snr_bounds) / snr).to(device)

    def __call__(
        self,
        network: nn.Module,
        pairs: tuple[Tensor, Tensor],
        generator: np.random.Generator,
        noise: torch.Generator,
    ) -> Tensor:
        """Mean over a batch of latents and text embeddings, at timesteps drawn one from each stratum."""
        latents, embeddings = pairs
        epsilon = torch.randn(latents.shape, generator=noise).to(self.device)
        strata = (np.arange(len(latents)) + generator.random(len(latents))) / len(latents)
        timesteps = torch.from_numpy((strata * len(self.weights)).astype(np.int64)).to(self.device)
        noisy = self.scheduler.add_noise(latents, epsilon, timesteps)
        with mixed_precision(self.device):
            prediction = network(noisy, timesteps, embeddings).sample
        errors = (prediction.float() - epsilon).square().mean((1, 2, 3))
        return (self.weights[timesteps] * errors).mean()


def train_denoiser(
    curriculum: Curriculum, pipeline_folder: Path, task: Task, *, pairs: int | None = None
) -> TrainingRun:
    """Train the U-Net on the latents of 32 px images, ``pairs`` of which are encoded at a time."""
    with seeded_initialisation():
        unet = new_denoiser()
    run = TrainingRun(unet.to(task.device), task.schedule, task.folder, name="unet")
    blocks = EncodedBlocks(curriculum, pipeline_folder, pairs=pairs or PAIRS_PER_BLOCK, device=task.device)
    loss, local_batch = DenoisingLoss(task.device), task.schedule.batch_size // world_size()

    def loss_function(network: nn.Module, generator: np.random.Generator, noise: torch.Generator) -> Tensor:
        return loss(network, blocks.batch(run.samples // world_size(), local_batch), generator, noise)

    run.run(loss_function, minutes=task.minutes, milestone_samples=MILESTONE_SAMPLES)
    return run


def tune_denoiser(coarse: Curriculum, fine: Curriculum, pipeline_folder: Path, task: Task) -> TrainingRun:
    """Tune the U-Net to 64 px, ``FINE_SHARE`` of every batch, and keep it at 32 px with the rest.

    It starts from the weights in ``pipeline_folder``, as Stable Diffusion went from 256 to 512 px.
    """
    unet = UNet2DConditionModel.from_pretrained(pipeline_folder / "unet")
    schedule, device = task.schedule, task.device
    run = TrainingRun(unet.to(device), schedule, task.folder, name="unet64")
    local_batch = schedule.batch_size // world_size()
    num_fine = max(1, round(FINE_SHARE * local_batch))
    fine_blocks = EncodedBlocks(fine, pipeline_folder, name="fine", pairs=PAIRS_PER_BLOCK // 4, device=device)
    coarse_blocks = EncodedBlocks(
        coarse, pipeline_folder, name="coarse", pairs=PAIRS_PER_BLOCK, device=device
    )
    parts = ((fine_blocks, num_fine), (coarse_blocks, local_batch - num_fine))
    loss = DenoisingLoss(device)

    def loss_function(network: nn.Module, generator: np.random.Generator, noise: torch.Generator) -> Tensor:
        step = run.samples // schedule.batch_size
        losses = [
            loss(network, blocks.batch(step * count, count), generator, noise) for blocks, count in parts
        ]
        return torch.stack(losses).mean()

    run.run(loss_function, minutes=task.minutes)
    return run


def save_denoiser(run: TrainingRun, pipeline_folder: Path, *, sample_size: int = 8) -> None:
    """Write ``unet/``, ``scheduler/`` and ``model_index.json`` beside the parts that are there already.

    ``sample_size`` is the side of the latents that a pipeline draws unless told otherwise.
    """
    unet = new_denoiser()
    unet.load_state_dict({key: value.cpu() for key, value in run.ema_state().items()})
    unet.register_to_config(sample_size=sample_size)
    with quiet_loading():
        pipeline: Any = diffusers.StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(pipeline_folder / "vae"),
            text_encoder=CLIPTextModel.from_pretrained(pipeline_folder / "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer"),
            unet=unet,
            scheduler=new_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(pipeline_folder, safe_serialization=True)


def mean_denoising_loss(
    unet: Any, pipeline_folder: Path, source: PairSource, *, count: int = 512, **how: Any
) -> float:
    """Mean over the timesteps from 50 to 950, of `denoising_loss_by_timestep` with its other arguments."""
    levels = range(50, 1000, 100)
    losses = denoising_loss_by_timestep(pipeline_folder, source, unet=unet, levels=levels, count=count, **how)
    return float(np.mean(list(losses.values())))


@torch.no_grad()
def denoising_loss_by_timestep(
    pipeline_folder: Path,
    source: PairSource,
    *,
    unet: Any = None,
    levels: Sequence[int] = (50, 250, 500, 750, 950),
    count: int = 256,
    swapped: bool = False,
    num_tokens: int = MAX_TOKENS,
) -> dict[int, float]:
    """Mean squared error of the predicted noise on captioned images, at fixed timesteps and noise.

    At the resolution of ``source``, of the pipeline's own U-Net unless another is given. ``swapped`` gives
    every image another image's caption.
    """
    unet = unet or UNet2DConditionModel.from_pretrained(pipeline_folder / "unet").float().eval()
    images, captions, _ = source.draw(np.random.default_rng(3), count)
    if swapped:
        captions = captions[1:] + captions[:1]
    latents, embeddings = PairEncoder(pipeline_folder)(images, captions)
    embeddings = embeddings[:, :num_tokens]
    scheduler, losses = new_scheduler(), {}
    for level in levels:
        noise = torch.randn(latents.shape, generator=stream(0, "loss", level))
        timesteps = torch.full((count,), level)
        prediction = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, embeddings).sample
        losses[level] = float((prediction - noise).square().mean())
    return losses
