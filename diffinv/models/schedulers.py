"""Which schedulers of diffusers can sample from a checkpoint, with one random stream per image."""

import inspect
from contextlib import suppress
from typing import Any

import torch

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


def _fits(scheduler: Any, diffusion: FrozenDiffusion) -> bool:
    """Whether it steps along the noise schedule that the model was trained with, given a prediction alone."""
    trained, own = diffusion.scheduler.alphas_cumprod, getattr(scheduler, "alphas_cumprod", None)
    if own is None or own.shape != trained.shape or not torch.allclose(own.to(trained), trained, atol=1e-4):
        return False
    parameters = inspect.signature(getattr(scheduler, "step", lambda: None)).parameters.items()
    required = {key for key, parameter in parameters if parameter.default is parameter.empty}
    return required == {"model_output", "timestep", "sample"}
