"""A frozen Stable-Diffusion-style model: autoencoder, denoiser, text encoder and their constants."""

import hashlib
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from diffinv.foundation.networks import LoadedAgain, go_faster, hash_weights, usable_device
from diffinv.models.checkpoint import (
    COMPONENTS,
    NETWORKS,
    CheckpointError,
    check_parts,
    find_checkpoint,
    read_folder,
)
from diffinv.models.memory import (
    AUTOENCODER_BATCH,
    MemorySettings,
    Workload,
    apply_memory_settings,
    autoencoder_batch,
    available_memory,
    memory_need,
    memory_settings_for,
)
from diffinv.models.single_file import read_single_file

Images = UInt8[np.ndarray, "image height width 3"]
Latents = Float[Tensor, "image latent_channel h w"]

# What, besides the weights, decides what a learned vector means. Only these: a new diffusers release may add
# configuration keys, and that must not turn an old store into one of "another checkpoint".
FINGERPRINTED_CONFIG = {
    "vae": ("scaling_factor", "shift_factor"),
    "unet": ("attention_head_dim", "num_attention_heads", "norm_num_groups", "cross_attention_dim"),
    "scheduler": ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"),
}


@dataclass
class NetworkCalls:
    """How many images have gone through a U-Net, and how many of them came back with a gradient."""

    images: int = 0
    with_gradient: int = 0


class FrozenDiffusion(LoadedAgain):
    """The model of the paper's section 3, every weight frozen: E, D, eps_theta and c_theta.

    `latents` are always scaled (the U-Net's units), `images` are uint8 arrays, height x width x RGB.
    `scheduler` supplies the noise schedule only; `make_scheduler` builds the one to sample with.
    """

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        *,
        name: str = "in memory",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        memory: MemorySettings | None = None,
    ) -> None:
        # Any: their configurations are typed by no one.
        self.vae: Any = vae
        self.unet: Any = unet
        self.text_encoder: Any = text_encoder
        self.tokenizer = tokenizer
        self.scheduler: Any = scheduler
        self.name, self.device, self.dtype = name, torch.device(device), dtype
        self.memory, self.calls = memory or MemorySettings(), NetworkCalls()
        if any(weight.dtype != dtype for weight in unet.parameters()):
            _ = self.fingerprint  # taken before rounding, so that it is the same in every dtype
        for network in (vae, unet, text_encoder):
            # The plain method: that of diffusers warns about layers to keep in float32 where there are none.
            place = "cpu" if self.memory.cpu_offload else self.device
            nn.Module.to(network.requires_grad_(False).eval(), device=place, dtype=dtype)
            # A tenth faster on CPUs than the default.
            nn.Module.to(network, memory_format=torch.channels_last)  # type: ignore[call-overload]
        apply_memory_settings((vae, unet, text_encoder), self.memory, self.device)
        # Adding noise is the same arithmetic for every discrete schedule; a sampler's class may lack it.
        self._noise_schedule: Any = DDPMScheduler.from_config(self.scheduler.config)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights, rounded to float16, and the constants that give them their meaning.

        Rounded, so that a checkpoint and its half-precision variant are the same one.
        """
        digest = hashlib.sha256()
        for part, keys in FINGERPRINTED_CONFIG.items():
            config = getattr(self, part).config
            digest.update(repr([(key, config.get(key)) for key in keys]).encode())
        for part in NETWORKS:
            weights = sorted(getattr(self, part).state_dict().items())
            hash_weights(digest, ((f"{part}.{key.removeprefix('text_model.')}", w) for key, w in weights))
        return digest.hexdigest()

    @property
    def embedding_width(self) -> int:
        return self.unet.config.cross_attention_dim

    @property
    def downsampling_factor(self) -> int:
        """Image side over latent side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def prediction_type(self) -> str:
        return self._noise_schedule.config.prediction_type

    @property
    def num_train_timesteps(self) -> int:
        return self._noise_schedule.config.num_train_timesteps

    @property
    def native_resolution(self) -> int:
        """Side of the images that the U-Net was trained on last."""
        return self.unet.config.sample_size * self.downsampling_factor

    def suitable_resolution(self, resolution: int) -> int:
        """The next side, from this one on, of images that pass through autoencoder and U-Net unpadded."""
        multiple = self.downsampling_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        return max(multiple, multiple * math.ceil(resolution / multiple))

    def check_resolution(self, resolution: int) -> None:
        """Raise a ValueError unless images of this side pass through autoencoder and U-Net unpadded."""
        if (nearest := self.suitable_resolution(resolution)) != resolution:
            raise ValueError(
                f"resolution {resolution} does not suit the checkpoint {self.name!r}, whose image sides must "
                f"be divisible by {self.suitable_resolution(1)}: resize the images first, for instance with "
                f".resize({nearest})."
            )

    @torch.no_grad()
    def latent_moments(
        self, images: Images, *, batch_size: int = AUTOENCODER_BATCH
    ) -> tuple[Latents, Latents]:
        """Scaled mean and standard deviation of E(x), float32, CPU: `mean + std * noise` is a latent."""
        means, stds = [], []
        batch_size = autoencoder_batch(images.shape[1], batch_size)
        for batch in np.array_split(images, max(1, math.ceil(len(images) / batch_size))):
            pixels = torch.tensor(batch, device=self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            posterior = self.vae.encode(pixels.to(self.dtype)).latent_dist
            means.append((posterior.mean.float() - self._latent_shift) * self.vae.config.scaling_factor)
            stds.append(posterior.std.float() * self.vae.config.scaling_factor)
        return torch.cat(means).cpu(), torch.cat(stds).cpu()

    @torch.no_grad()
    def decode(self, latents: Latents, *, batch_size: int = AUTOENCODER_BATCH) -> Images:
        """D(z) as uint8 images, rounded as diffusers' own pipelines do."""
        images = []
        side = latents.shape[-1] * self.downsampling_factor
        for batch in latents.split(autoencoder_batch(side, batch_size)):
            scaled = batch.to(self.device, torch.float32)
            codes = (scaled / self.vae.config.scaling_factor + self._latent_shift).to(self.dtype)
            pixels = self.vae.decode(codes, return_dict=False)[0].float()
            rounded = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            images.append(rounded.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(images)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Float[Tensor, "prompt token channel"]:
        """c_theta of each prompt, padded to the tokenizer's length as in the stock pipeline; float32, CPU."""
        inputs = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        # Only checkpoints that say so attend to the words alone; SD 1.x and 2.x see the padding too.
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = inputs.attention_mask.to(self.device) if masked else None
        return self.text_encoder(inputs.input_ids.to(self.device), attention_mask=mask)[0].float().cpu()

    def add_noise(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " image"]) -> Latents:
        """z_t, the latents with as much noise as each timestep has."""
        return self._noise_schedule.add_noise(latents, noise, timesteps)

    def training_target(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " image"]) -> Latents:
        """What the U-Net was trained to predict: the noise, the velocity or the latents."""
        if self.prediction_type == "v_prediction":
            return self._noise_schedule.get_velocity(latents, noise, timesteps)
        return noise if self.prediction_type == "epsilon" else latents

    def predict(
        self,
        noisy: Latents,
        timesteps: Shaped[Tensor, "..."],  # one per image or one for all; some schedulers have fractions
        encoder_hidden_states: Float[Tensor, "image token channel"],
    ) -> Latents:
        """The raw U-Net call, in the network's dtype; differentiable with respect to the vectors."""
        self.calls.images += len(noisy)
        self.calls.with_gradient += len(noisy) * (
            torch.is_grad_enabled() and encoder_hidden_states.requires_grad
        )
        latents, conditioning = noisy.to(self.dtype), encoder_hidden_states.to(self.dtype)
        return self.unet(latents, timesteps, encoder_hidden_states=conditioning, return_dict=False)[0]

    def make_scheduler(self, name: str) -> Any:
        """A fresh diffusers scheduler of this class name with the checkpoint's noise schedule.

        PNDM starts without Runge-Kutta steps, as with every published Stable Diffusion that names it.
        """
        scheduler_class = getattr(diffusers, name, None)
        if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
            raise ValueError(
                f"scheduler {name!r} is not a scheduler class of diffusers: use for instance "
                "'DDIMScheduler', 'DPMSolverMultistepScheduler' or 'PNDMScheduler'."
            )
        # What a configuration leaves to diffusers' defaults when another scheduler saved it. Latents are not
        # confined to [-1, 1], and Runge-Kutta takes at least four steps, and thrice the predictions.
        wanted = {"clip_sample": False, "skip_prk_steps": True}
        accepted = wanted.keys() & inspect.signature(scheduler_class).parameters.keys()
        return scheduler_class.from_config(self.scheduler.config, **{key: wanted[key] for key in accepted})

    @property
    def _latent_shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0


def load_diffusion(
    name: str | Path = "tinysd",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    config: str | Path | None = None,
    memory: MemorySettings | Workload | None = None,
    fast: bool = False,
) -> FrozenDiffusion:
    """Load a frozen model: the embedded "tinysd", a folder in diffusers' layout, a single file, or a hub id.

    The device is the best one present, the dtype float32, unless given; for half precision the "fp16" files
    are read where there are any. `revision` is a commit, tag or branch of the hub; well-known names have one
    of their own (PINNED_REVISIONS). `config`, for a single file, is the folder or hub id of a checkpoint of
    its kind. `memory` says what to trade for less of it, or for which work to choose that. `fast` compiles
    the U-Net, and lets a GPU round float32 products to TF32: other low bits, less time. Only safetensors
    weights are read, no code of the checkpoint is run, and the safety checker is left out. Raises
    CheckpointError, one sentence, where that is not possible.
    """
    device, dtype = usable_device(device), dtype or torch.float32
    path = find_checkpoint(name, revision, dtype)
    if config is not None and not path.is_file():
        raise CheckpointError(f"checkpoint {str(name)!r} has a configuration of its own: leave out config=.")
    pipeline = read_single_file(path, config) if path.is_file() else read_folder(str(name), path, dtype)
    check_parts(str(name), pipeline)
    how: dict[str, Any] = {"dtype": dtype, "revision": revision, "config": config, "memory": memory}
    if isinstance(memory, Workload):
        need = memory_need(memory, [getattr(pipeline, part) for part in NETWORKS], dtype)
        memory = memory_settings_for(available_memory(device), need, device)
    diffusion = FrozenDiffusion(
        **{part: getattr(pipeline, part) for part in COMPONENTS},
        name=path.name if Path(name).exists() else str(name),
        device=device,
        dtype=dtype,
        memory=memory,
    )
    if fast:
        diffusion.unet = go_faster(diffusion.unet)
    # Not the number of the GPU: another process may see others.
    diffusion.origin = partial(load_diffusion, name, device=device.type, fast=fast, **how)
    return diffusion
