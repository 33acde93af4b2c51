"""Small random checkpoints in the layout of Stable Diffusion, for tests that need parts but no knowledge."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"


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
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                projection_dim=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
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


def write_checkpoint(folder: Path, prediction_type: str = "epsilon", *, seed: int = 0) -> Path:
    """Save a random checkpoint as `load_diffusion` and stock diffusers both read it."""
    build_pipeline(prediction_type, seed=seed).save_pretrained(folder, safe_serialization=True)
    return folder
