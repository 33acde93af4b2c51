"""FrozenGAN: a trained generator and its discriminator, made once per set of images, settings and seed."""

import json
import warnings
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.writing import provenance, write_whole
from diffinv.datasets import LabelledImages
from diffinv.foundation.networks import best_device
from diffinv.foundation.progress import progress
from diffinv.synthesizers.base import Stage
from diffinv.synthesizers.gan.architectures import Discriminator, Generator, working_side
from diffinv.synthesizers.gan.training import (
    STEPS_PER_CHECK,
    GANState,
    GANTraining,
    describe_collapse,
    gan_steps,
)

RECIPE = 1  # part of every cache key: to be raised when the same settings would give another GAN

_COUNTS = ("steps_done", "seconds", "mean_discriminator_loss", "diversity", "collapsed_since")


class FrozenGAN:
    """The averaged generator and the discriminator of a finished training, every weight frozen."""

    def __init__(self, state: GANState, side: int, record: dict[str, Any]) -> None:
        self.generator: Generator = state.averaged.requires_grad_(False).eval()
        self.discriminator: Discriminator = state.discriminator.requires_grad_(False).eval()
        self.device, self.side = state.device, side
        self.provenance = record

    @property
    def collapsed(self) -> str | None:
        """What is wrong with it and what to try, in one sentence; None for a GAN that works."""
        return self.provenance["collapsed"]

    @property
    def stage(self) -> Stage:
        """What the training cost: the discriminator sees a batch of images, the generator makes one."""
        settings = self.provenance["settings"]
        batches = settings["optimiser_steps"] * (settings["discriminator_updates"] + 1)
        return Stage("GAN training", self.provenance["training_seconds"], batches * settings["batch_size"])

    @cached_property
    def fingerprint(self) -> str:
        """A key of the weights of both networks."""
        weights = [*self.generator.state_dict().values(), *self.discriminator.state_dict().values()]
        return content_key(*(weight.cpu().numpy() for weight in weights))

    @torch.no_grad()
    def images(
        self, codes: Float[Tensor, "image layer code"], *, batch_size: int = 256
    ) -> UInt8[np.ndarray, "image height width 3"]:
        """The generator's images of these codes."""
        batches = []
        for batch in codes.split(batch_size):
            pixels = self.generator(batch.to(self.device))
            rounded = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            batches.append(rounded.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(batches)

    @torch.no_grad()
    def codes(
        self, latents: Float[Tensor, "image latent"], labels: Int[np.ndarray, " image"]
    ) -> Float[Tensor, "image layer code"]:
        """The codes of images of these classes."""
        return self.generator.codes(latents.to(self.device), torch.tensor(labels, device=self.device))


def train_gan(
    real: LabelledImages,
    settings: GANTraining,
    *,
    seed: int,
    device: str | torch.device | None = None,
    cache_dir: Path | None = None,
) -> FrozenGAN:
    """Drain `gan_steps`, or find the result in the cache.

    A run that was killed goes on from its last look for a collapse, to the very weights that it would have
    reached. A collapse is a property of the result, `collapsed`: the caller decides what it means.
    """
    key = content_key(RECIPE, settings, real.fingerprint, seed)
    path = (cache_dir or default_cache_dir()) / "gan" / f"{key}.safetensors"
    state = GANState(real, settings, seed=seed, device=torch.device(device or best_device()))
    _resume(path, state)
    steps = gan_steps(real, settings, seed, state=state)
    total = settings.optimiser_steps - state.steps_done
    for _ in progress(steps, total=total, desc="GAN", enabled=total > 0):
        if state.steps_done % STEPS_PER_CHECK == 0 or state.steps_done == settings.optimiser_steps:
            _save(path, state)
    record = provenance(
        settings=asdict(settings),
        seed=seed,
        real_fingerprint=real.fingerprint,
        device=str(state.device),
        training_seconds=round(state.seconds, 3),
        mean_discriminator_loss=state.mean_discriminator_loss,
        diversity=state.diversity,
        collapsed=describe_collapse(state, seed),
    )
    return FrozenGAN(state, working_side(real.resolution), record)


def _tensors(state: GANState) -> dict[str, Tensor]:
    """Every tensor of a training, alive, by its name on disk."""
    parts = {name: getattr(state, name).state_dict() for name in ("generator", "averaged", "discriminator")}
    for number, optimiser in enumerate(state.optimisers):
        for index, weight in enumerate(optimiser.param_groups[0]["params"]):
            parts[f"optimiser.{number}.{index}"] = optimiser.state[weight]
    return {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}


def _save(path: Path, state: GANState) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in _tensors(state).items()}
    counts = {name: getattr(state, name) for name in _COUNTS}
    write_whole(path, save(tensors, metadata={"counts": json.dumps(counts)}))


def _resume(path: Path, state: GANState) -> None:
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            counts = json.loads(file.metadata()["counts"])
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        # Written in one piece, so the disk has spoilt it since; training again gives the same weights.
        warnings.warn(f"{path} cannot be read ({error}) and is ignored.", stacklevel=3)
        return
    for optimiser in state.optimisers:
        for weight in optimiser.param_groups[0]["params"]:
            # What Adam makes in its first step, in the weight's memory order, which it takes for granted.
            moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            optimiser.state[weight] = {"step": torch.zeros((), device=weight.device), **moments}
    with torch.no_grad():
        for name, tensor in _tensors(state).items():
            tensor.copy_(saved[name])
    for name in _COUNTS:
        setattr(state, name, counts[name])
