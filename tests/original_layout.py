"""Writes a pipeline as the single file of the original Stable Diffusion: diffusers' loader, backwards."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

Renaming = Iterable[tuple[str, str]]

RESIDUAL = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
UNET = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
AUTOENCODER = (
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"^encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
)
OPEN_CLIP = (
    (r"^embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm1\.", ".ln_1."),
    (r"\.layer_norm2\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)


def write_single_file(pipeline, path: Path) -> Path:
    """Save the weights of an SD 1.x or 2.x pipeline; which of the two its projections tell."""
    is_sd2 = pipeline.unet.config.use_linear_projection
    text = _open_clip(pipeline.text_encoder) if is_sd2 else _clip(pipeline.text_encoder)
    parts = {
        "model.diffusion_model": {
            _unet_name(name): weight for name, weight in pipeline.unet.state_dict().items()
        },
        "first_stage_model": {
            _autoencoder_name(name): _as_convolution(name, weight)
            for name, weight in pipeline.vae.state_dict().items()
        },
        "cond_stage_model": text,
    }
    save_file(
        {
            f"{part}.{name}": weight.contiguous()
            for part, weights in parts.items()
            for name, weight in weights.items()
        },
        path,
    )
    return path


def _rename(name: str, rules: Renaming) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _unet_name(name: str) -> str:
    name = _rename(name, UNET)
    if ".resnets." in name or name.startswith("middle_block"):
        name = _rename(name, RESIDUAL) if ".attn" not in name and ".transformer" not in name else name
    if found := re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name):
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if side == "down" and kind == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.{rest.replace('conv.', 'op.')}"
        if side == "down":
            return f"input_blocks.{3 * block + layer + 1}.{int(kind == 'attentions')}.{rest}"
        if kind == "upsamplers":  # behind an attention, where the block has them
            return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.{rest}"
        return f"output_blocks.{3 * block + layer}.{int(kind == 'attentions')}.{rest}"
    return name


def _autoencoder_name(name: str) -> str:
    name = _rename(name, AUTOENCODER)
    if found := re.match(r"decoder\.up_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name):
        level, rest = 3 - int(found[1]), found[4]
        return f"decoder.up.{level}." + (
            f"upsample.{rest}" if found[2] == "upsamplers" else f"block.{found[3]}.{rest}"
        )
    return name


def _as_convolution(name: str, weight: torch.Tensor) -> torch.Tensor:
    is_projection = re.search(r"attentions\.0\.to_(q|k|v|out\.0)\.weight", name)
    return weight[:, :, None, None] if is_projection else weight


def _clip(text_encoder) -> dict[str, torch.Tensor]:
    weights = text_encoder.state_dict()
    named = {f"transformer.text_model.{name.removeprefix('text_model.')}": weights[name] for name in weights}
    positions = torch.arange(text_encoder.config.max_position_embeddings)[None]
    return named | {"transformer.text_model.embeddings.position_ids": positions}


def _open_clip(text_encoder) -> dict[str, torch.Tensor]:
    weights = {name.removeprefix("text_model."): each for name, each in text_encoder.state_dict().items()}
    named = {}
    for name, weight in weights.items():
        if found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            three = [weights[name.replace("q_proj", f"{each}_proj")] for each in "qkv"]
            named[f"model.transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = torch.cat(three)
        elif not re.search(r"\.[kv]_proj\.", name):
            named[f"model.{_rename(name, OPEN_CLIP)}"] = weight
    width = text_encoder.config.hidden_size
    return named | {"model.text_projection": torch.eye(width), "model.logit_scale": torch.tensor(1.0)}
