"""Stage 1: learn the conditioning vectors of each image under the model's own training loss (section 3.1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.foundation.randomness import stream
from diffinv.models.diffusion import FrozenDiffusion

Initialisation = Literal["normal", "class_prompt", "mean_prompt"]
TimestepSampling = Literal["uniform", "stratified"]

# Noise and timesteps are drawn for so many updates at once, which keeps Python out of the inner loop; it is
# also the number of strata of the timesteps. Part of what a seed means: another gives other vectors.
STEPS_PER_CHUNK = 25
RECIPE = 1  # part of every cache key: to be raised when the same settings would give other vectors


class InversionDiverged(ValueError):
    """The loss or the vectors of an image are no longer finite."""


@dataclass(frozen=True)
class Inversion:
    """How the vectors of an image are learned; `batch_size` alone has no bearing on the result."""

    num_tokens: int = 5  # vectors per image
    steps_per_image: int = 300  # updates that every image gets; 100 are the first 100 of 300
    learning_rate: float = 0.03  # constant
    weight_decay: float = 0.0  # AdamW's; upstream: 0.01
    batch_size: int = 64  # images optimised side by side
    initialisation: Initialisation = "normal"  # or the encoded class name, or the mean of all class names
    initial_std: float = 0.1  # of "normal"; upstream's linear layer over 100 images amounts to 0.058
    timestep_sampling: TimestepSampling = "stratified"  # upstream: uniform
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("num_tokens", "steps_per_image", "batch_size"),
            at_least={"weight_decay": 0, "initial_std": 0},
            above_zero=("learning_rate",),
        )


@dataclass(frozen=True, eq=False)
class InversionStep:
    """One update of a group of images; tensors on the model's device."""

    step: int  # updates done, from 1
    losses: Float[Tensor, " image"]  # before this update
    embeddings: Float[Tensor, "image token channel"]  # after this update; a copy


def inversion_steps(
    diffusion: FrozenDiffusion, real: LabelledImages, settings: Inversion
) -> Iterator[InversionStep]:
    """Update the vectors of all the images side by side, yielding after each update.

    The images make one group, held in memory together, whatever `settings.batch_size` is.
    """
    check_invertible(diffusion, real, settings)
    mean, std = (moment.to(diffusion.device) for moment in diffusion.latent_moments(real.images))
    embeddings = initial_embeddings(diffusion, real, settings).to(diffusion.device).requires_grad_()
    # Adam's update is elementwise, and the gradient of the summed loss with respect to one image's vectors is
    # that of its own loss: one optimiser over the table is one optimiser per image.
    optimiser = torch.optim.AdamW([embeddings], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    # The gradient of a mean over thousands of elements underflows in float16; undone in float32.
    gradient_scale = float(mean[0].numel()) if diffusion.dtype == torch.float16 else 1.0
    for step in range(settings.steps_per_image):
        place = step % STEPS_PER_CHUNK
        if place == 0:
            chunk = step // STEPS_PER_CHUNK
            noise, timesteps = draw_chunk(
                settings, real.ids, mean.shape[1:], diffusion.num_train_timesteps, chunk
            )
            noise, timesteps = noise.to(diffusion.device), timesteps.to(diffusion.device)
        latents = mean + std * noise[:, place, 0]
        with torch.enable_grad():
            losses = denoising_losses(diffusion, embeddings, latents, noise[:, place, 1], timesteps[:, place])
            (gradient,) = torch.autograd.grad(losses.sum() * gradient_scale, embeddings)
        embeddings.grad = gradient / gradient_scale
        optimiser.step()
        # Not after every update: a look at the numbers makes a GPU wait, and what is not finite stays so.
        if place == STEPS_PER_CHUNK - 1 or step == settings.steps_per_image - 1:
            check_finite(losses, embeddings, real.ids, step + 1)
        yield InversionStep(step + 1, losses.detach(), embeddings.detach().clone())


def denoising_losses(
    diffusion: FrozenDiffusion,
    embeddings: Float[Tensor, "image token channel"],
    latents: Float[Tensor, "image latent_channel h w"],
    noise: Float[Tensor, "image latent_channel h w"],
    timesteps: Int[Tensor, " image"],
) -> Float[Tensor, " image"]:
    """Each image's mean squared error of the model's own training objective, in float32."""
    noisy = diffusion.add_noise(latents, noise, timesteps)
    target = diffusion.training_target(latents, noise, timesteps)
    error = diffusion.predict(noisy, timesteps, embeddings).float() - target
    return error.square().flatten(1).mean(dim=1)


def draw_chunk(
    settings: Inversion, ids: Sequence[str], shape: Sequence[int], num_train_timesteps: int, chunk: int
) -> tuple[Float[Tensor, "image step 2 latent_channel h w"], Int[Tensor, "image step"]]:
    """The random numbers of one chunk of updates, each image's from its own stream.

    The two noises of a step are that of the latents (the autoencoder's) and that of the diffusion. Stratified
    timesteps are one from each of as many equal strata as there are steps, in random order: every image sees
    all noise levels equally often, which lowers the variance of its gradient.
    """
    noises, timesteps = [], []
    for image_id in ids:
        generator = stream(settings.seed, "inversion", image_id, chunk)
        noises.append(torch.randn(STEPS_PER_CHUNK, 2, *shape, generator=generator))
        places = torch.rand(STEPS_PER_CHUNK, generator=generator)
        if settings.timestep_sampling == "stratified":
            places = (torch.randperm(STEPS_PER_CHUNK, generator=generator) + places) / STEPS_PER_CHUNK
        timesteps.append((places * num_train_timesteps).long().clamp_(max=num_train_timesteps - 1))
    return torch.stack(noises), torch.stack(timesteps)


def initial_embeddings(
    diffusion: FrozenDiffusion, real: LabelledImages, settings: Inversion
) -> Float[Tensor, "image token channel"]:
    """The vectors before the first update, each image's drawn from its own stream; on the CPU."""
    shape = (settings.num_tokens, diffusion.embedding_width)
    if settings.initialisation == "normal":
        streams = [stream(settings.seed, "initial embedding", image_id) for image_id in real.ids]
        return settings.initial_std * torch.stack([torch.randn(shape, generator=each) for each in streams])
    # The first vectors of the encoded name: the start of the sentence, the words, then padding.
    prompts = diffusion.encode_prompt(real.class_names)[:, : settings.num_tokens]
    if settings.initialisation == "mean_prompt":
        return prompts.mean(dim=0).repeat(len(real), 1, 1)
    return prompts[torch.tensor(real.labels, dtype=torch.int64)]


def check_invertible(diffusion: FrozenDiffusion, real: LabelledImages, settings: Inversion) -> None:
    """Raise ValueError where there is nothing to invert, or where the model cannot take it."""
    if not len(real):
        raise ValueError("there is no image to invert: give a dataset with at least one.")
    diffusion.check_resolution(real.resolution)
    longest = diffusion.tokenizer.model_max_length
    if settings.initialisation != "normal" and settings.num_tokens > longest:
        raise ValueError(
            f"num_tokens is {settings.num_tokens} but an encoded class name has {longest} vectors: use fewer "
            "tokens, or initialisation='normal'."
        )


def check_finite(losses: Tensor, embeddings: Tensor, ids: Sequence[str], step: int) -> None:
    """Raise InversionDiverged, naming the first image whose loss or vectors are not finite."""
    finite = losses.detach().isfinite() & embeddings.detach().flatten(1).isfinite().all(dim=1)
    if not finite.all():
        culprit = ids[int(finite.int().argmin())]
        raise InversionDiverged(
            f"the inversion of image {culprit!r} is no longer finite after {step} updates: lower "
            "learning_rate, or load the model as torch.bfloat16 or torch.float32; finished groups are cached."
        )
