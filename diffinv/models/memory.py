"""How much memory there is, how much the work needs, and what to trade for less of it."""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

AUTOENCODER_BATCH = 64  # images that pass through it at once, or fewer that have so many pixels:
AUTOENCODER_PIXELS = AUTOENCODER_BATCH * 128**2  # more of them fill a GPU's memory and save it no time
USABLE = 0.9  # of what is free: allocators round up and fragment
# The U-Net of SD 1.x, every allocation of an update counted on shapes alone, at 128, 256 and 512 px: the peak
# less the weights, with gradient checkpointing over that without.
CHECKPOINTED = 0.3


@dataclass(frozen=True)
class MemorySettings:
    """What is traded for memory: each field costs time and leaves the vectors and images as they are.

    To rounding, that is, with one exception: above the autoencoder's own resolution its tiles overlap, and
    what they make of an image differs slightly from the whole.
    """

    attention_slicing: bool = False  # attention in parts; a loss where the fused kernels of torch run
    vae_tiling: bool = False  # the autoencoder takes one image at a time, and large ones in tiles
    gradient_checkpointing: bool = False  # activations are computed again in the backward pass
    cpu_offload: bool = False  # each network is on the device only while it works


@dataclass(frozen=True)
class Workload:
    """The largest update: images of this side, so many of them at once."""

    resolution: int | None  # None = the images' own, taken to be at most the model's native one
    batch_size: int


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a workload takes where nothing is traded."""

    weights: int  # of all three networks
    activations: int  # kept by an update for its backward pass
    decoding: int  # feature maps of the autoencoder


def memory_settings_for(
    available_bytes: int, need: MemoryNeed, device: str | torch.device = "cuda"
) -> MemorySettings:
    """Trade no more than it takes to fit the need into the available bytes.

    Activations go first, for a third more time; slicing and offloading, which cost more, only if that is not
    enough, and only where they help: CUDA and CPU have fused attention, and on the CPU there is nowhere to
    offload to.
    """
    free, kind = USABLE * available_bytes - need.weights, torch.device(device).type
    tight = CHECKPOINTED * need.activations > free
    return MemorySettings(
        attention_slicing=tight and kind == "mps",
        vae_tiling=need.decoding > free,
        gradient_checkpointing=need.activations > free,
        cpu_offload=tight and kind != "cpu",
    )


def memory_need(workload: Workload, networks: Sequence[Any], dtype: torch.dtype) -> MemoryNeed:
    """What the workload takes with these networks (autoencoder, U-Net, text encoder) in the dtype."""
    vae, unet, _ = networks
    channels = vae.config.block_out_channels
    factor = 2 ** (len(channels) - 1)
    resolution = workload.resolution or unet.config.sample_size * factor
    latent_side = resolution // factor
    kept = workload.batch_size * latent_side**2 * kept_per_latent_pixel(unet)
    # The last stage of the decoder: a residual block's input, both halves of its work, and its output.
    pixels = autoencoder_batch(resolution) * resolution**2
    weights = sum(weight.numel() for network in networks for weight in network.parameters())
    return MemoryNeed(
        weights=weights * dtype.itemsize,
        activations=round(kept * dtype.itemsize),
        decoding=4 * pixels * max(channels[:2]) * dtype.itemsize,
    )


def autoencoder_batch(resolution: int, most: int = AUTOENCODER_BATCH) -> int:
    """How many images of this side pass through the autoencoder at once, `most` of small ones."""
    return max(1, min(most, AUTOENCODER_PIXELS // resolution**2))


def kept_per_latent_pixel(unet: nn.Module) -> float:
    """Numbers that a forward pass keeps for the backward pass, per pixel of the latents.

    Counted in a pass over one image of the smallest side: attention is fused, so all of it grows with the
    pixels. Freezes the U-Net.
    """
    config: Any = unet.config
    side = 2 ** (len(config.block_out_channels) - 1)
    weights = {weight.untyped_storage().data_ptr() for weight in unet.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes() // tensor.itemsize
        return tensor

    first = next(unet.parameters())
    latents = torch.zeros(1, config.in_channels, side, side).to(first)
    vectors = torch.zeros(1, 1, config.cross_attention_dim).to(first).requires_grad_()
    unet.requires_grad_(False)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        # Bound to a name: what the graph keeps has addresses of its own only as long as the graph lives.
        prediction = unet(latents, 0, encoder_hidden_states=vectors, return_dict=False)[0]
    del prediction
    return sum(kept.values()) / side**2


def available_memory(device: str | torch.device) -> int:
    """Bytes free on the device, or in the machine's memory for the CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    from accelerate.utils import get_max_memory

    found = get_max_memory()  # a machine with unified memory gives it the name of its accelerator
    return found.get("cpu") or found["mps"]


def apply_memory_settings(
    networks: Sequence[Any], settings: MemorySettings, device: str | torch.device
) -> None:
    """Switch on diffusers' own implementation of each, for the autoencoder, U-Net and text encoder given.

    They must be on the CPU to be offloaded from `device`.
    """
    vae, unet, text_encoder = networks
    if settings.attention_slicing:
        unet.set_attention_slice("auto")
    if settings.vae_tiling:
        vae.enable_slicing()
        vae.enable_tiling()
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if settings.cpu_offload:
        from accelerate import cpu_offload_with_hook

        previous = None  # a network that starts to work sends the one before it back
        for network in (text_encoder, unet, vae):
            _, previous = cpu_offload_with_hook(network, device, prev_module_hook=previous)


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, where the platform can: CUDA, and the memory of a process on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak: of the tensors on a GPU, of the whole process on the CPU; None if nobody tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
