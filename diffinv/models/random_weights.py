"""Networks of a published size with random weights, on which speed does not depend: nothing is downloaded."""

from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffinv.models.diffusion import FrozenDiffusion

# Of the U-Net, of the autoencoder and of the text encoder; what is not named is as in Stable Diffusion v1.
NETWORKS: dict[str, dict[str, Any]] = {
    "sd-v1": {
        "unet": {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
        "vae": {"block_out_channels": (128, 256, 512, 512)},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
    },
    "small": {
        "unet": {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
        },
        "vae": {"block_out_channels": (32, 32, 32, 32)},
        "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    },
}


def random_diffusion(network: str, device: torch.device, dtype: torch.dtype) -> FrozenDiffusion:
    """The network with random weights, made on the device."""
    tokenizer = CLIPTokenizer(
        vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[], model_max_length=77
    )
    with device:
        made: Any = networks(network)  # whose types diffusers keeps to itself
    # Cast before it is wrapped, which would hash a billion weights to tell checkpoints apart.
    vae, unet, text_encoder = (nn.Module.to(each, dtype=dtype) for each in made)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = PNDMScheduler(**schedule, skip_prk_steps=True)
    return FrozenDiffusion(
        vae, unet, text_encoder, tokenizer, scheduler, name=network, device=device, dtype=dtype
    )


def networks(network: str) -> tuple[AutoencoderKL, UNet2DConditionModel, CLIPTextModel]:
    """The autoencoder, U-Net and text encoder of that size, with random weights."""
    sizes = NETWORKS[network]
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        **sizes["vae"],
    )
    unet = UNet2DConditionModel(sample_size=64, **sizes["unet"])
    return vae, unet, CLIPTextModel(CLIPTextConfig(projection_dim=768, **sizes["text"]))
