"""Small random checkpoints in the layout of Stable Diffusion, for tests that need parts but no knowledge."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"
# The noise schedule of every Stable Diffusion 1.x and 2.x.
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def build_tokenizer(model_max_length: int = 16) -> CLIPTokenizer:
    """A byte-pair tokenizer without merges: one token per character."""
    last_of_word = [character + "</w>" for character in CHARACTERS]
    tokens = [*CHARACTERS, *last_of_word, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=model_max_length)


def build_pipeline(prediction_type: str = "epsilon", *, seed: int = 0) -> StableDiffusionPipeline:
    """Autoencoder f = 4, U-Net with two levels, text encoder of width 16; about 100,000 random weights.

    Native resolution 32 px (8x8 latents); an image side must be divisible by 8.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
            scaling_factor=0.6,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        tokenizer = build_tokenizer()
        text_encoder = build_text_encoder(
            tokenizer,
            width=16,
            num_hidden_layers=1,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    scheduler = PNDMScheduler(**SCHEDULE, skip_prk_steps=True, prediction_type=prediction_type)
    return assemble(vae, unet, text_encoder, tokenizer, scheduler)


def write_checkpoint(folder: Path, prediction_type: str = "epsilon", *, seed: int = 0) -> Path:
    """Save a random checkpoint as `load_diffusion` and stock diffusers both read it."""
    build_pipeline(prediction_type, seed=seed).save_pretrained(folder, safe_serialization=True)
    return folder


def build_stable_diffusion(
    version: int, *, distilled: bool = False, seed: int = 0
) -> StableDiffusionPipeline:
    """The blocks of SD 1.x or 2.x with narrow layers: 77 tokens, f = 8, sides divisible by 64.

    Version 2 differs as the real one does: linear projections, heads of one width, a wider text encoder with
    another activation, prediction of the velocity, 768 px. Distilled, the U-Net loses blocks as the small
    models do: the middle, the innermost level, and a layer of each other.
    """
    tokenizer = build_clip_tokenizer(pad_token="<|endoftext|>" if version == 1 else "!")
    width = {1: 24, 2: 32}[version]
    heads = {1: 4, 2: [2, 4, 4, 4]}[version]  # of SD 1.x: 8 a layer; of SD 2.x: 5, 10, 20, 20
    blocks: dict = {"block_out_channels": (16, 32, 32, 32)}
    if distilled:
        blocks = {
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("CrossAttnDownBlock2D",) * 3,
            "mid_block_type": None,
            "up_block_types": ("CrossAttnUpBlock2D",) * 3,
            "layers_per_block": 1,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size={1: 64, 2: 96}[version],
            **blocks,
            cross_attention_dim=width,
            attention_head_dim=heads,
            use_linear_projection=version == 2,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size={1: 512, 2: 768}[version],
        )
        text_encoder = build_text_encoder(
            tokenizer,
            width,
            num_hidden_layers=2,
            hidden_act={1: "quick_gelu", 2: "gelu"}[version],
            bos_token_id=0,  # these three are in the real configurations, and not the tokenizer's own
            eos_token_id=2,
            pad_token_id=1,
        )
    scheduler = (
        PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
        if version == 1
        else DDIMScheduler(**SCHEDULE, clip_sample=False, prediction_type="v_prediction")
    )
    return assemble(vae, unet, text_encoder, tokenizer, scheduler)


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, **settings) -> CLIPTextModel:
    """CLIP's text encoder for this vocabulary, two heads wide; `settings` go to its configuration."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            **settings,
        )
    )


def assemble(vae, unet, text_encoder, tokenizer, scheduler) -> StableDiffusionPipeline:
    """The pipeline of these parts, without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_clip_tokenizer(pad_token: str) -> CLIPTokenizer:
    """CLIP's own vocabulary of bytes with a few merges: 77 tokens, any text."""
    characters = list(bytes_to_unicode().values())
    merges = [("c", "a"), ("ca", "t</w>"), ("a", "n"), ("o", "g</w>"), ("d", "og</w>")]
    tokens = [
        *characters,
        *(character + "</w>" for character in characters),
        *map("".join, merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad_token)


def write_as_published(pipeline: StableDiffusionPipeline, folder: Path, **settings) -> Path:
    """Save in the very files of the hub's Stable Diffusion: vocab.json and merges.txt, and an unused checker.

    `settings` go to `save_pretrained`: variant="fp16", which rounds, and max_shard_size.
    """
    if settings.get("variant") == "fp16":
        pipeline = pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True, **settings)
    tokenizer = folder / "tokenizer"
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def downloaded(hub_cache: Path, name: str, revision: str) -> Path:
    """The folder in which the hub's client keeps this commit of a checkpoint."""
    return hub_cache / f"models--{name.replace('/', '--')}" / "snapshots" / revision
