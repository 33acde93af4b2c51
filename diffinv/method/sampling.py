"""Stage 2: one visible denoising loop over any of diffusers' schedulers, one random stream per image."""

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffinv.foundation.checks import check_fields
from diffinv.foundation.progress import progress as progress_bar
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.models.schedulers import fitting_scheduler


@dataclass(frozen=True)
class Sampling:
    """How images are drawn from conditioning vectors (section 3.2)."""

    guidance_scale: float = (
        2.0  # 1 + w; 1 = unguided, and then half the work; 0 = the unconditional prediction
    )
    num_inference_steps: int = 20
    scheduler: str = "DDIMScheduler"  # a scheduler class of diffusers
    eta: float = 0.0  # noise added by each DDIM step; refused by schedulers that take none
    batch_size: int = 256  # changes the speed, not the images
    resolution: int | None = None  # side in pixels; None = that of the real images, where there are some

    def __post_init__(self) -> None:
        counts = ("num_inference_steps", "batch_size", "resolution")
        check_fields(self, counts=counts, at_least={"guidance_scale": 0}, between={"eta": (0, 1)})


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
) -> Iterator[DenoisingStep]:
    """Denoise one batch, whatever `settings.batch_size`, and yield every step; the last has the result.

    `unconditional` has one row for all or one per image, may differ from `conditioning` in its number of
    tokens, and may be None when unguided. Each stream gives its image's initial noise and then that of every
    step. ValueError for settings that cannot be honoured, a resolution of None among them: there is no real
    image here whose side it could stand for.
    """
    _check_inputs(diffusion, conditioning, unconditional, settings, streams)
    return _denoise(diffusion, conditioning, unconditional, settings, streams)


def sample(
    diffusion: FrozenDiffusion,
    conditioning: Float[Tensor, "image token channel"],
    unconditional: Float[Tensor, "one_or_image unconditional_token channel"] | None,
    settings: Sampling,
    streams: Sequence[torch.Generator],
    *,
    progress: bool = False,
) -> UInt8[np.ndarray, "image height width 3"]:
    """Draw one image per conditioning vector and stream, in batches that leave no trace in the images.

    Raises SamplingDiverged if a latent is not finite, else as `denoising_steps` does.
    """
    side = _check_inputs(diffusion, conditioning, unconditional, settings, streams)
    images = np.empty((len(streams), side, side, 3), dtype=np.uint8)
    starts = range(0, len(streams), settings.batch_size)
    for start in progress_bar(starts, total=len(starts), desc="sampling", enabled=progress):
        batch = slice(start, start + settings.batch_size)
        own = unconditional[batch] if unconditional is not None and len(unconditional) > 1 else unconditional
        steps = _denoise(diffusion, conditioning[batch], own, settings, streams[batch])
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
) -> Iterator[DenoisingStep]:
    scheduler = prepare_scheduler(diffusion, settings)
    extra = _step_arguments(scheduler, settings, streams)
    conditioning = conditioning.to(diffusion.device, diffusion.dtype)  # once, not at every step
    if unconditional is not None:
        unconditional = unconditional.to(diffusion.device, diffusion.dtype).expand(len(streams), -1, -1)
    latents = initial_noise(diffusion, settings, streams) * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = guided_prediction(
            diffusion, model_input, timestep, conditioning, unconditional, settings.guidance_scale
        )
        output = scheduler.step(prediction, timestep, latents, **extra)
        original = getattr(output, "pred_original_sample", None)
        if original is None:
            original = _predicted_original(scheduler, model_input, timestep, prediction)
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
    return torch.stack([torch.randn(shape, generator=own, device=own.device) for own in streams]).to(
        diffusion.device
    )


def prepare_scheduler(diffusion: FrozenDiffusion, settings: Sampling) -> Any:
    """Make a fresh scheduler with its timesteps set, or raise ValueError if it cannot honour the settings.

    Fresh for each batch, as PNDM, DPM-Solver++ and others remember past predictions.
    """
    steps, name = settings.num_inference_steps, settings.scheduler
    if steps > diffusion.num_train_timesteps:
        raise ValueError(
            f"num_inference_steps is {steps}, but the model knows only {diffusion.num_train_timesteps} "
            "timesteps; choose at most as many."
        )
    scheduler = fitting_scheduler(diffusion, name)
    if settings.eta > 0 and "eta" not in inspect.signature(scheduler.step).parameters:
        raise ValueError(f"{name} takes no eta; set eta=0 or choose DDIMScheduler.")
    scheduler.set_timesteps(steps, device=diffusion.device)
    if scheduler.timesteps[0] < scheduler.timesteps[-1]:
        raise ValueError(f"{name} goes from images to noise; choose one that denoises.")
    return scheduler


def _step_arguments(scheduler: Any, settings: Sampling, streams: Sequence[torch.Generator]) -> dict[str, Any]:
    accepted = inspect.signature(scheduler.step).parameters
    offered = {"eta": settings.eta, "generator": list(streams)}  # diffusers draws row i from generator i
    return {name: value for name, value in offered.items() if name in accepted}


def _predicted_original(scheduler: Any, model_input: Tensor, timestep: Tensor, prediction: Tensor) -> Tensor:
    """Solve z_t = sqrt(a) z_0 + sqrt(1 - a) eps for z_0, for the schedulers that do not say it themselves."""
    signal = scheduler.alphas_cumprod[int(timestep)].to(model_input)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (model_input - (1 - signal).sqrt() * prediction) / signal.sqrt()
        case "v_prediction":
            return signal.sqrt() * model_input - (1 - signal).sqrt() * prediction
        case _:
            return prediction


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
) -> int:
    """Refuse what cannot be sampled; the side of the images in pixels."""
    if len(conditioning) != len(streams):
        raise ValueError(
            f"{len(conditioning)} conditioning vectors came with {len(streams)} streams; give one each."
        )
    if unconditional is None and settings.guidance_scale != 1:
        raise ValueError(
            f"guidance_scale is {settings.guidance_scale} and needs an unconditional vector; "
            "pass one, or set it to 1."
        )
    if unconditional is not None and len(unconditional) not in (1, len(streams)):
        raise ValueError(
            f"{len(unconditional)} unconditional vectors came with {len(streams)} images; "
            "give one, or one per image."
        )
    side = _side(diffusion, settings)
    diffusion.check_resolution(side)
    return side
