"""The denoising loss on noise that no inversion has seen: one yardstick for vectors, prompts and means."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import stream
from diffinv.method.inversion import denoising_losses
from diffinv.models.diffusion import FrozenDiffusion


@torch.no_grad()
def held_out_loss(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    vectors: Float[Tensor, "one_or_image token channel"],
    *,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 256,
) -> Float[Tensor, " image"]:
    """Mean squared error of the model's prediction for each image under its vectors; lower is better.

    Every image meets the same `draws` noises at the same evenly spaced timesteps, so that two sets of
    vectors, or two stages of learning, differ by the vectors alone. ValueError unless there is one row of
    vectors, or one per image.
    """
    if len(vectors) not in (1, len(real)):
        raise ValueError(
            f"{len(vectors)} rows of vectors came with {len(real)} images: give one, or one per image."
        )
    diffusion.check_resolution(real.resolution)
    latents = diffusion.latent_moments(real.images)[0]
    vectors = vectors.to(diffusion.device).expand(len(real), -1, -1)
    total = torch.zeros(len(real))
    for draw in range(draws):
        timestep = int((draw + 0.5) / draws * diffusion.num_train_timesteps)
        noise = torch.randn(latents.shape[1:], generator=stream(seed, "held-out noise", draw))
        for start in range(0, len(real), batch_size):
            rows = slice(start, start + batch_size)
            clean = latents[rows].to(diffusion.device)
            timesteps = torch.full((len(clean),), timestep, device=clean.device)
            epsilon = noise.to(clean).expand_as(clean)
            total[rows] += denoising_losses(diffusion, vectors[rows], clean, epsilon, timesteps).cpu()
    return total / draws
