"""Finding a Stable Diffusion checkpoint on disk or on the hub, and refusing what is not one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub.errors import HTTPError  # of whichever HTTP library the hub client uses

EMBEDDED = Path(__file__).parent / "assets" / "tinysd"
COMPONENTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
# Parts that a checkpoint may carry and that nothing here uses: neither downloaded nor loaded.
UNUSED = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "requires_safety_checker": False,
}


class CheckpointError(ValueError):
    """A checkpoint is missing, or is not a Stable Diffusion that this package can use."""


def find_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: "tinysd", a folder in diffusers' layout, or a hub id, downloaded once."""
    if str(name) == "tinysd":
        if not (EMBEDDED / "model_index.json").is_file():
            raise CheckpointError(
                f"the embedded checkpoint is missing from {EMBEDDED}: install diffinv again, or make it with "
                "`diffinv pretrain`."
            )
        return EMBEDDED
    path = Path(name).expanduser()
    if path.exists():
        _check_index(str(name), _read_index(path))
        for part in ("vae", "unet", "text_encoder"):
            _check_safetensors(path / part)
        return path
    # An owner and a name: anything else can only have been meant as a folder.
    if isinstance(name, Path) or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(
            f"checkpoint {str(name)!r} does not exist: give 'tinysd', a folder in diffusers' layout, or a "
            "hub id like 'CompVis/stable-diffusion-v1-4'."
        )
    return _download(str(name), revision)


def check_networks(name: str, vae: Any, unet: Any) -> None:
    """Refuse Stable Diffusion variants whose U-Net takes more than latents, a timestep and vectors."""
    if unet.config.in_channels != vae.config.latent_channels:
        raise CheckpointError(
            f"the U-Net of {name!r} takes {unet.config.in_channels} channels but its autoencoder makes "
            f"{vae.config.latent_channels}: use a text-to-image variant, not inpainting or depth."
        )
    if unet.config.addition_embed_type or unet.config.class_embed_type:
        raise CheckpointError(
            f"the U-Net of {name!r} wants more than text as its condition: use a Stable Diffusion 1.x or 2.x "
            "checkpoint."
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the bars over parts and shards, and advice to install torchvision."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggings = (diffusers_logging, transformers_logging)
    bars = [module for module in loggings if module.is_progress_bar_enabled()]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    for module in bars:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in bars:
            module.enable_progress_bar()
        transformers_logging.set_verbosity(verbosity)


def _download(name: str, revision: str | None) -> Path:
    with quiet_loading():
        pipeline_class = diffusers.StableDiffusionPipeline  # imported on first use, with warnings
    try:
        # The index first: a checkpoint of another kind is refused before gigabytes of it are fetched.
        _check_index(name, pipeline_class.load_config(name, revision=revision))
        return Path(pipeline_class.download(name, revision=revision, use_safetensors=True, **UNUSED))
    except CheckpointError:
        raise
    except (OSError, ValueError, HTTPError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise CheckpointError(
            f"checkpoint {name!r} could not be fetched from the hub ({reason}): check the name and the "
            "connection, or use the embedded one with load_diffusion('tinysd')."
        ) from error


def _read_index(folder: Path) -> dict:
    try:
        return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} has no readable model_index.json: give a folder written by "
            "StableDiffusionPipeline.save_pretrained."
        ) from error


def _check_index(name: str, index: dict) -> None:
    # A part may be listed without being there: [null, null].
    present = {part for part, origin in index.items() if isinstance(origin, list | tuple) and origin[0]}
    missing = [part for part in COMPONENTS if part not in present]
    second = sorted(part for part in present if part.endswith(("_2", "_3")))
    if missing or second:
        reason = f"lacks {', '.join(missing)}" if missing else f"has a {second[0]} as SDXL does"
        raise CheckpointError(
            f"checkpoint {name!r} is a {index.get('_class_name', 'pipeline')} that {reason}: "
            "use a Stable Diffusion 1.x or 2.x checkpoint."
        )


def _check_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} holds pickled weights only, and unpickling can run any code: convert them with "
            "save_pretrained(safe_serialization=True)."
        )
    raise CheckpointError(
        f"{folder} holds no safetensors weights: the checkpoint is incomplete, copy it again."
    )
