"""Which schedulers of diffusers can sample from a checkpoint, with one random stream per image."""

import inspect
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from diffinv.models.diffusion import FrozenDiffusion

# These draw the whole batch's noise from a Brownian tree of their own and take no generator.
_WITHOUT_STREAMS = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")


def fitting_scheduler(diffusion: FrozenDiffusion, name: str) -> Any:
    """A fresh scheduler of this class; ValueError unless it fits the model's noise schedule and our loop."""
    if name in _WITHOUT_STREAMS:
        raise ValueError(
            f"{name} cannot draw each image's noise from a stream of its own; "
            "choose EulerAncestralDiscreteScheduler or DDIMScheduler with eta=1."
        )
    with suppress(TypeError):  # it wants arguments that no Stable Diffusion checkpoint has
        scheduler = diffusion.make_scheduler(name)
        if _fits(scheduler, diffusion):
            return scheduler
    raise ValueError(
        f"{name} does not fit this model's noise schedule and loop; "
        "choose DDIMScheduler, PNDMScheduler, DPMSolverMultistepScheduler or EulerDiscreteScheduler."
    )


def step_arguments(scheduler: Any, **offered: Any) -> dict[str, Any]:
    """Those that the scheduler's `step` takes; of a list of generators, row i draws from the i-th."""
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in offered.items() if name in accepted}


def predicted_original(
    scheduler: Any, output: Any, model_input: Tensor, timestep: Tensor, prediction: Tensor
) -> Tensor:
    """The clean latents as a step guesses them; where its output lacks them, solved from the prediction.

    That is z_t = sqrt(a) z_0 + sqrt(1 - a) eps, solved for z_0.
    """
    if (original := getattr(output, "pred_original_sample", None)) is not None:
        return original
    signal = scheduler.alphas_cumprod[int(timestep)].to(model_input)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (model_input - (1 - signal).sqrt() * prediction) / signal.sqrt()
        case "v_prediction":
            return signal.sqrt() * model_input - (1 - signal).sqrt() * prediction
        case _:
            return prediction


def _fits(scheduler: Any, diffusion: FrozenDiffusion) -> bool:
    """Whether it steps along the noise schedule that the model was trained with, given a prediction alone."""
    trained, own = diffusion.scheduler.alphas_cumprod, getattr(scheduler, "alphas_cumprod", None)
    if own is None or own.shape != trained.shape or not torch.allclose(own.to(trained), trained, atol=1e-4):
        return False
    parameters = inspect.signature(getattr(scheduler, "step", lambda: None)).parameters.items()
    required = {key for key, parameter in parameters if parameter.default is parameter.empty}
    return required == {"model_output", "timestep", "sample"}
