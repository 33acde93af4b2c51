"""Stage 2: one visible denoising loop over any of diffusers' schedulers, one random stream per image."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffinv.artefacts.keys import ABSENT_AT_DEFAULT
from diffinv.foundation.checks import check_fields
from diffinv.foundation.progress import progress as progress_bar
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.models.schedulers import fitting_scheduler, predicted_original, step_arguments


@dataclass(frozen=True)
class Sampling:
    """How images are drawn from conditioning vectors (section 3.2)."""

    guidance_scale: float = 2.0  # 1 + w; 1 = unguided, half the work; 0 = the unconditional prediction
    num_inference_steps: int = 20
    scheduler: str = "DDIMScheduler"  # a scheduler class of diffusers
    eta: float = 0.0  # noise added by each DDIM step; refused by schedulers that take none
    batch_size: int = 256  # changes the speed, not the images
    resolution: int | None = None  # side in pixels; None = that of the real images, where there are some
    # Guidance only at timesteps from one of these shares of the training's to the other (arXiv 2404.07724).
    guidance_interval: tuple[float, float] = field(default=(0.0, 1.0), metadata=ABSENT_AT_DEFAULT)
    # diffusers' of img2img: this share of the steps, from the noised original; 1 = all, from noise alone.
    strength: float = field(default=1.0, metadata=ABSENT_AT_DEFAULT)

    def __post_init__(self) -> None:
        counts = ("num_inference_steps", "batch_size", "resolution")
        shares = {"eta": (0, 1), "strength": (0, 1)}
        check_fields(self, counts=counts, at_least={"guidance_scale": 0}, between=shares)
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval is {low} to {high}: choose rising numbers from 0 to 1.")
        if self.strength * self.num_inference_steps < 1:
            steps = f"strength {self.strength} of {self.num_inference_steps} num_inference_steps"
            raise ValueError(f"{steps} leaves no step: raise either.")


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """The state after one step of the loop."""

    step: int
    timestep: float
    latents: Float[Tensor, "image channel height width"]
    # The clean latents as guessed at this step.
    predicted_original: Float[Tensor, "image channel height width"]


def denoising_steps(
    diffusion: FrozenDiffusion,
    conditioning: Float[Tensor, "image token channel"],
    unconditional: Float[Tensor, "one_or_image unconditional_token channel"] | None,
    settings: Sampling,
    streams: Sequence[torch.Generator],
    originals: Float[Tensor, "image latent_channel h w"] | None = None,
) -> Iterator[DenoisingStep]:
    """Denoise one batch, whatever `settings.batch_size`, and yield every step; the last has the result.

    `unconditional` has one row for all or one per image, may differ from `conditioning` in its number of
    tokens, and may be None when unguided. Each stream gives its image's initial noise and then that of every
    step. `originals` are latents, needed where `strength` is below 1. ValueError for settings that cannot be
    honoured, a resolution of None among them, for which there is no real image here.
    """
    _check_inputs(diffusion, conditioning, unconditional, settings, streams, originals)
    return _denoise(diffusion, conditioning, unconditional, settings, streams, originals)


def sample(
    diffusion: FrozenDiffusion,
    conditioning: Float[Tensor, "image token channel"],
    unconditional: Float[Tensor, "one_or_image unconditional_token channel"] | None,
    settings: Sampling,
    streams: Sequence[torch.Generator],
    originals: Float[Tensor, "image latent_channel h w"] | None = None,
    *,
    progress: bool = False,
) -> UInt8[np.ndarray, "image height width 3"]:
    """Draw one image per conditioning vector and stream, in batches that leave no trace in the images.

    Raises SamplingDiverged if a latent is not finite, else as `denoising_steps` does.
    """
    side = _check_inputs(diffusion, conditioning, unconditional, settings, streams, originals)
    images = np.empty((len(streams), side, side, 3), dtype=np.uint8)
    starts = range(0, len(streams), settings.batch_size)
    for start in progress_bar(starts, total=len(starts), desc="sampling", enabled=progress):
        batch = slice(start, start + settings.batch_size)
        own = unconditional[batch] if unconditional is not None and len(unconditional) > 1 else unconditional
        first = None if originals is None else originals[batch]
        steps = _denoise(diffusion, conditioning[batch], own, settings, streams[batch], first)
        latents = deque(steps, maxlen=1).pop().latents
        if not latents.isfinite().all():
            raise SamplingDiverged(
                "Sampling produced values that are not finite; lower guidance_scale or noise_std, "
                "or load the model as float32."
            )
        images[batch] = diffusion.decode(latents)
    return images


@torch.no_grad()
def _denoise(
    diffusion: FrozenDiffusion,
    conditioning: Tensor,
    unconditional: Tensor | None,
    settings: Sampling,
    streams: Sequence[torch.Generator],
    originals: Tensor | None,
) -> Iterator[DenoisingStep]:
    scheduler = prepare_scheduler(diffusion, settings)
    extra = step_arguments(scheduler, eta=settings.eta, generator=list(streams))
    conditioning = conditioning.to(diffusion.device, diffusion.dtype)  # once, not at every step
    if unconditional is not None:
        unconditional = unconditional.to(diffusion.device, diffusion.dtype).expand(len(streams), -1, -1)
    plan = planned_steps(diffusion, scheduler, settings)
    latents = initial_noise(diffusion, settings, streams)
    if originals is not None and settings.strength < 1:
        latents = scheduler.add_noise(originals.to(latents), latents, plan[0][0].expand(len(latents)))
    else:
        latents = latents * scheduler.init_noise_sigma
    for step, (timestep, guidance_scale) in enumerate(plan):
        model_input = scheduler.scale_model_input(latents, timestep)
        sides = conditioning, unconditional, guidance_scale
        prediction = guided_prediction(diffusion, model_input, timestep, *sides)
        output = scheduler.step(prediction, timestep, latents, **extra)
        original = predicted_original(scheduler, output, model_input, timestep, prediction)
        latents = output.prev_sample
        yield DenoisingStep(step, float(timestep), latents, original)


class SamplingDiverged(ValueError):
    """The denoising loop left the range of finite numbers."""


def guided_prediction(
    diffusion: FrozenDiffusion,
    model_input: Float[Tensor, "image latent height width"],
    timestep: Tensor,
    conditioning: Float[Tensor, "image token channel"],
    unconditional: Float[Tensor, "image unconditional_token channel"] | None,
    guidance_scale: float,
) -> Float[Tensor, "image latent height width"]:
    """Combine the predictions to (1 + w) eps(c) - w eps(c_uncond), in fp32; unguided it is eps(c) alone."""
    timesteps = timestep.expand(len(model_input))
    if guidance_scale == 1 or unconditional is None:
        return diffusion.predict(model_input, timesteps, conditioning).float()
    if unconditional.shape == conditioning.shape:
        both = torch.cat([unconditional, conditioning])
        doubled = diffusion.predict(model_input.repeat(2, 1, 1, 1), timesteps.repeat(2), both).float()
        without, along = doubled.chunk(2)
    else:  # another number of tokens: padding would change the attention, so each half runs alone
        without = diffusion.predict(model_input, timesteps, unconditional).float()
        along = diffusion.predict(model_input, timesteps, conditioning).float()
    return without + guidance_scale * (along - without)


def initial_noise(
    diffusion: FrozenDiffusion, settings: Sampling, streams: Sequence[torch.Generator]
) -> Float[Tensor, "image channel height width"]:
    """Draw each image's standard normal latents from its own stream, in fp32 whatever the model's dtype."""
    side = _side(diffusion, settings) // diffusion.downsampling_factor
    shape = (diffusion.latent_channels, side, side)
    noises = [torch.randn(shape, generator=own, device=own.device) for own in streams]
    return torch.stack(noises).to(diffusion.device)


def prepare_scheduler(diffusion: FrozenDiffusion, settings: Sampling) -> Any:
    """Make a fresh scheduler with its timesteps set, or raise ValueError if it cannot honour the settings.

    Fresh for each batch, as PNDM, DPM-Solver++ and others remember past predictions.
    """
    steps, name = settings.num_inference_steps, settings.scheduler
    if steps > (most := diffusion.num_train_timesteps):
        known = f"num_inference_steps is {steps}, but the model knows only {most} timesteps"
        raise ValueError(f"{known}; choose at most as many.")
    scheduler = fitting_scheduler(diffusion, name)
    if settings.eta > 0 and not step_arguments(scheduler, eta=settings.eta):
        raise ValueError(f"{name} takes no eta; set eta=0 or choose DDIMScheduler.")
    scheduler.set_timesteps(steps, device=diffusion.device)
    if scheduler.timesteps[0] < scheduler.timesteps[-1]:
        raise ValueError(f"{name} goes from images to noise; choose one that denoises.")
    return scheduler


def planned_steps(
    diffusion: FrozenDiffusion, scheduler: Any, settings: Sampling
) -> list[tuple[Tensor, float]]:
    """The timesteps to denoise at, each with its guidance scale: 1 outside `guidance_interval`."""
    steps, scale = settings.num_inference_steps, settings.guidance_scale
    skipped = (steps - int(steps * settings.strength)) * scheduler.order  # rounded as in diffusers
    low, high = (share * diffusion.num_train_timesteps for share in settings.guidance_interval)
    return [(each, scale if low <= each <= high else 1.0) for each in scheduler.timesteps[skipped:]]


def _side(diffusion: FrozenDiffusion, settings: Sampling) -> int:
    if settings.resolution is None:
        raise ValueError(
            "resolution is None, the real images' own side, but vectors alone have none; set it, for "
            f"instance to {diffusion.native_resolution}, the model's native side."
        )
    return settings.resolution


def _check_inputs(
    diffusion: FrozenDiffusion,
    conditioning: Tensor,
    unconditional: Tensor | None,
    settings: Sampling,
    streams: Sequence[torch.Generator],
    originals: Tensor | None,
) -> int:
    """Refuse what cannot be sampled; the side of the images in pixels."""
    if len(conditioning) != len(streams):
        counts = f"{len(conditioning)} conditioning vectors came with {len(streams)} streams"
        raise ValueError(f"{counts}; give one each.")
    if unconditional is None and settings.guidance_scale != 1:
        wanted = f"guidance_scale is {settings.guidance_scale} and needs an unconditional vector"
        raise ValueError(f"{wanted}; pass one, or set it to 1.")
    if unconditional is not None and len(unconditional) not in (1, len(streams)):
        counts = f"{len(unconditional)} unconditional vectors came with {len(streams)} images"
        raise ValueError(f"{counts}; give one, or one per image.")
    if settings.strength < 1 and len(streams) != (0 if originals is None else len(originals)):
        wanted = f"strength is {settings.strength} and needs the latents of each image's original"
        raise ValueError(f"{wanted}; pass them, or set it to 1.")
    side = _side(diffusion, settings)
    diffusion.check_resolution(side)
    return side
