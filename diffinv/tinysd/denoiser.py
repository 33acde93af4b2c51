"""Stage ``unet``: the text-conditioned denoiser of 8 x 8 latents, on Stable Diffusion's noise schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffinv.randomness import numpy_stream, stream
from diffinv.tinysd.autoencoder import to_pixel_values
from diffinv.tinysd.captions import EMPTY_CAPTION_SHARE, Corpus
from diffinv.tinysd.clip_stage import tokenize
from diffinv.tinysd.training_loop import Schedule, TrainingRun, rank, seeded_initialisation, world_size

# Weights of the squared error of x0: min-SNR's upper bound, and a lower one. Without the lower bound the
# noisiest steps, where a caption is all there is to go by, weigh next to nothing: words are learnt very late.
MIN_SNR, MAX_SNR = 0.2, 5.0
PAIRS_PER_BLOCK = 8192
PASSES_PER_BLOCK = 3
PLAIN_SHARE = 0.4  # of the pairs: at full contrast, shapes make up most of the loss


def new_denoiser() -> Any:
    """Build the 5.3M-parameter U-Net: plain convolutions at 8 x 8, cross-attention at 4 x 4 and 2 x 2."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


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


class EncodedBlocks:
    """Latents and text embeddings of drawn pairs, encoded once a block and seen ``PASSES_PER_BLOCK`` times.

    Encoding on the fly costs about a third of a training step; the noise is fresh on every pass. A block is a
    pure function of (seed, block, process), so a resumed run sees the same pairs.
    """

    def __init__(self, corpus: Corpus, pipeline_folder: Path, *, seed: int = 0, device: str = "cpu") -> None:
        self.corpus, self.seed, self.device = corpus, seed, device
        self.vae = AutoencoderKL.from_pretrained(pipeline_folder / "vae").eval().to(device)
        # Transformers keeps the precision of the files, which are halved when they are shipped.
        text_encoder: Any = CLIPTextModel.from_pretrained(
            pipeline_folder / "text_encoder", dtype=torch.float32
        )
        self.text_encoder = text_encoder.eval().to(device)
        self.tokenizer = CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer")
        self._block, self._pairs = -1, (torch.empty(0), torch.empty(0))

    def batch(self, samples_seen: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return ``latents [n, 4, 8, 8]`` and ``encoder_hidden_states [n, 16, 128]`` of a step."""
        step = samples_seen // batch_size
        steps_per_pass = max(1, PAIRS_PER_BLOCK // batch_size)
        block, position = divmod(step, steps_per_pass * PASSES_PER_BLOCK)
        if block != self._block:
            self._block, self._pairs = block, self._encode(block)
        # Each pass has its own order, so that a pair meets new neighbours.
        pass_index, step_in_pass = divmod(position, steps_per_pass)
        order = numpy_stream(self.seed, "order", block, pass_index).permutation(PAIRS_PER_BLOCK)
        rows = torch.from_numpy(order[step_in_pass * batch_size : (step_in_pass + 1) * batch_size])
        latents, embeddings = self._pairs
        return latents[rows].float().to(self.device), embeddings[rows].float().to(self.device)

    @torch.no_grad()
    def _encode(self, block: int) -> tuple[Tensor, Tensor]:
        generator = numpy_stream(self.seed, "pairs", block, rank())
        latents, embeddings = [], []
        for _ in range(PAIRS_PER_BLOCK // 256):
            images, captions, _ = self.corpus.draw(generator, 256, plain_share=PLAIN_SHARE)
            captions = ["" if generator.random() < EMPTY_CAPTION_SHARE else text for text in captions]
            posterior = self.vae.encode(to_pixel_values(images).to(self.device)).latent_dist
            latents.append((posterior.mean * self.vae.config.scaling_factor).half().cpu())
            ids = tokenize(self.tokenizer, captions).to(self.device)
            embeddings.append(self.text_encoder(ids).last_hidden_state.half().cpu())
        return torch.cat(latents), torch.cat(embeddings)


def train_denoiser(
    corpus: Corpus,
    pipeline_folder: Path,
    folder: Path,
    schedule: Schedule,
    *,
    minutes: float,
    device: str = "cpu",
) -> TrainingRun:
    """Train the U-Net with min-SNR weights (Hang et al. 2023), bounded below too; stratified timesteps."""
    with seeded_initialisation():
        unet = new_denoiser()
    run = TrainingRun(unet.to(device), schedule, folder, name="unet")
    blocks = EncodedBlocks(corpus, pipeline_folder, device=device)
    scheduler = new_scheduler()
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weights = (snr.clamp(MIN_SNR, MAX_SNR) / snr).to(device)
    local_batch = schedule.batch_size // world_size()

    def loss_function(network: nn.Module, generator: np.random.Generator, noise: torch.Generator) -> Tensor:
        latents, embeddings = blocks.batch(run.samples // world_size(), local_batch)
        epsilon = torch.randn(latents.shape, generator=noise).to(device)
        strata = (np.arange(local_batch) + generator.random(local_batch)) / local_batch
        timesteps = torch.from_numpy((strata * len(weights)).astype(np.int64)).to(device)
        noisy = scheduler.add_noise(latents, epsilon, timesteps)
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            prediction = network(noisy, timesteps, embeddings).sample
        errors = (prediction.float() - epsilon).square().mean((1, 2, 3))
        return (weights[timesteps] * errors).mean()

    run.run(loss_function, minutes=minutes)
    return run


def save_denoiser(run: TrainingRun, pipeline_folder: Path) -> None:
    """Write ``unet/``, ``scheduler/`` and ``model_index.json`` beside the parts that are there already."""
    unet = new_denoiser()
    unet.load_state_dict({key: value.cpu() for key, value in run.ema_state().items()})
    pipeline: Any = StableDiffusionPipeline(
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


@torch.no_grad()
def denoising_loss_by_timestep(
    pipeline_folder: Path,
    corpus: Corpus,
    *,
    count: int = 256,
    levels: tuple[int, ...] = (50, 250, 500, 750, 950),
) -> dict[str, float]:
    """Mean squared error of the predicted noise on captioned icons, at fixed timesteps and noise."""
    unet = UNet2DConditionModel.from_pretrained(pipeline_folder / "unet").eval()
    blocks = EncodedBlocks(corpus, pipeline_folder)
    images, captions, _ = corpus.draw(np.random.default_rng(3), count)
    latents = blocks.vae.encode(to_pixel_values(images)).latent_dist.mean * blocks.vae.config.scaling_factor
    embeddings = blocks.text_encoder(tokenize(blocks.tokenizer, captions)).last_hidden_state
    scheduler, losses = new_scheduler(), {}
    for level in levels:
        noise = torch.randn(latents.shape, generator=stream(0, "loss", level))
        timesteps = torch.full((count,), level)
        prediction = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, embeddings).sample
        losses[str(level)] = float((prediction - noise).square().mean())
    return losses
