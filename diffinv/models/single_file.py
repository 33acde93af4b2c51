"""Stable Diffusion in a single .safetensors file, the layout of the original code and of most merges."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from safetensors import safe_open
from safetensors.torch import load_file

from diffinv.models.checkpoint import (
    NETWORKS,
    PINNED_REVISIONS,
    UNUSED,
    CheckpointError,
    check_channels,
    check_index,
    check_tokenizer,
    check_whole,
    read_index,
    readable,
    tensor_faults,
)

# Such a file holds weights only. Every SD 1.x has the configuration of this one; SD 2.x come in two kinds,
# which predict the noise or the velocity, and the file does not say which.
SD1_CONFIG = "CompVis/stable-diffusion-v1-4"
_FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
_AUTOENCODER = "first_stage_model.post_quant_conv.weight"
_TEXT_ENCODERS = ("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.")  # 1.x, 2.x, XL


def read_single_file(path: Path, config: str | Path | None) -> Any:
    """The pipeline of a .safetensors file, in float32 or the dtype of the file.

    `config` is a folder in diffusers' layout, which needs no weights, or a hub id: it says what the networks
    look like, and has the tokenizer and the scheduler. None stands for that of SD 1.x.
    """
    is_sd2 = _check_header(path)
    if config is None and is_sd2:
        raise CheckpointError(
            f"{path} holds an SD 2.x, but not whether it predicts the noise or the velocity: give config= a "
            "folder or hub id, such as 'stabilityai/stable-diffusion-2-1' for the velocity."
        )
    folder = _config_folder(path, config or SD1_CONFIG)
    try:
        with readable(str(path)):
            pipeline = diffusers.StableDiffusionPipeline.from_single_file(
                str(path), config=str(folder), local_files_only=True, **UNUSED
            )
    except CheckpointError as error:
        if isinstance(error.__cause__, NotImplementedError):  # a tensor without numbers, which has no name
            check_whole(str(path), _lacking(path, folder))
        raise
    networks = {part: getattr(pipeline, part) for part in NETWORKS}
    check_whole(str(path), [fault for each in networks.items() for fault in tensor_faults(*each)])
    return pipeline


def _lacking(path: Path, folder: Path) -> list[str]:
    """What the loader could not find in the file, by the names that diffusers has for it."""
    faults = []
    for part, convert in (("vae", convert_ldm_vae_checkpoint), ("unet", convert_ldm_unet_checkpoint)):
        kind = getattr(diffusers, read_index(folder)[part][1])
        config = kind.load_config(folder, subfolder=part)
        with torch.device("meta"):
            network = kind.from_config(config)
        found = convert(load_file(path), config=config)
        faults += tensor_faults(part, network, {"missing_keys": network.state_dict().keys() - found.keys()})
    return faults


def _check_header(path: Path) -> bool:
    """Whether the file holds an SD 2.x, by its names and shapes; CheckpointError if neither 1.x nor 2.x."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not a .safetensors file: single files of other kinds are not read.")
    with readable(str(path)), safe_open(path, framework="pt") as file:
        names = set(file.keys())
        shapes = {name: file.get_slice(name).get_shape() for name in names & {_FIRST_LAYER, _AUTOENCODER}}
    is_sd1, is_sd2, is_sdxl = (any(name.startswith(prefix) for name in names) for prefix in _TEXT_ENCODERS)
    if len(shapes) < 2 or not (is_sd1 or is_sd2):
        reason = "an SDXL" if is_sdxl else "no whole checkpoint"
        raise CheckpointError(
            f"{path} holds {reason} in the original layout: use a Stable Diffusion 1.x or 2.x checkpoint "
            "with its autoencoder and text encoder."
        )
    check_channels(str(path), shapes[_FIRST_LAYER][1], shapes[_AUTOENCODER][0])
    return is_sd2


def _config_folder(path: Path, config: str | Path) -> Path:
    folder = Path(config).expanduser()
    if not folder.is_dir():
        try:
            pinned, small = PINNED_REVISIONS.get(str(config)), ["*.json", "*.txt"]
            folder = Path(snapshot_download(str(config), revision=pinned, allow_patterns=small))
        except (OSError, ValueError, HTTPError) as error:
            raise CheckpointError(
                f"{path} holds weights only, and the configuration of {str(config)!r} is neither a folder "
                "nor to be had from the hub: give config= the folder of a checkpoint of the same kind."
            ) from error
    check_index(str(config), read_index(folder))
    check_tokenizer(f"the configuration {str(config)!r}", folder / "tokenizer")
    return folder
