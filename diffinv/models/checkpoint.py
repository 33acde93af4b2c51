"""Finding a Stable Diffusion checkpoint on disk or on the hub, reading it, and refusing what is not one."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import hf_hub_download, list_repo_files
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the latter of whichever HTTP library it uses
from safetensors import SafetensorError

from diffinv.foundation import ASSETS

EMBEDDED = ASSETS / "tinysd"
NETWORKS = ("vae", "unet", "text_encoder")
COMPONENTS = (*NETWORKS, "tokenizer", "scheduler")
# Parts that a checkpoint may carry and that nothing here uses: neither downloaded nor loaded. The safety
# checker is one of them by choice: it would blacken some samples, and with them the data of a class.
UNUSED = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "requires_safety_checker": False,
}
# The commit that a name stands for unless `revision` says otherwise, so that it means the same weights next
# year. Each is a snapshot folder of the hub's cache (models--OWNER--NAME/snapshots/COMMIT) to which several
# public repositories refer, or one author's for bk-sdm-small. Names that none confirms are left out.
PINNED_REVISIONS = {
    "CompVis/stable-diffusion-v1-4": "133a221b8aa7292a167afc5127cb63fb5005638b",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    "stabilityai/stable-diffusion-2": "1e128c8891e52218b74cde8f26dbfc701cb99d79",
    "stabilityai/stable-diffusion-2-1": "5cae40e6a2745ae2b01ad92ae5043f95f23644d6",
    "stabilityai/stable-diffusion-2-1-base": "5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06",
    "nota-ai/bk-sdm-small": "572238db7ed3a10858900803f3fc8cca53e893e0",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
}
HALF_PRECISION = (torch.float16, torch.bfloat16)
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_FULL_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")
_HALF_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)\.fp16(-\d+-of-\d+)?\.safetensors")


class CheckpointError(ValueError):
    """A checkpoint is missing, or is not a Stable Diffusion that this package can use."""


def find_checkpoint(name: str | Path, revision: str | None, dtype: torch.dtype) -> Path:
    """The folder or single file of a checkpoint: "tinysd", a path, or a hub id, downloaded once."""
    if str(name) == "tinysd":
        if not (EMBEDDED / "model_index.json").is_file():
            remedy = "install diffinv again, or make it with `diffinv pretrain`"
            raise CheckpointError(f"the embedded checkpoint is missing from {EMBEDDED}: {remedy}.")
        return EMBEDDED
    path = Path(name).expanduser()
    if path.suffix in PICKLED:
        raise CheckpointError(
            f"{path} is a pickled checkpoint, and unpickling can run any code: use a .safetensors file or a "
            "folder in diffusers' layout."
        )
    if path.is_file():
        return path
    if path.exists():
        check_index(str(name), read_index(path))
        _check_weights(str(name), _files(path))
        return path
    if not is_hub_id(name):
        raise CheckpointError(
            f"checkpoint {str(name)!r} does not exist: give 'tinysd', a folder in diffusers' layout, a "
            ".safetensors file, or a hub id like 'CompVis/stable-diffusion-v1-4'."
        )
    return _download(str(name), revision or PINNED_REVISIONS.get(str(name)), dtype)


def is_hub_id(name: str | Path) -> bool:
    """Whether it is an owner and a name: anything else can only have been meant as a path."""
    text = str(name)
    is_path = isinstance(name, Path) or text.startswith((".", "/", "~")) or text.endswith(".safetensors")
    return not is_path and text.count("/") == 1


def read_folder(folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline of a folder in diffusers' layout, in float32 or the dtype of its files."""
    variant = weights_variant(_files(folder), dtype)
    # Rounded to the dtype asked for once loaded: the files' own and float32 are both exact.
    return diffusers.StableDiffusionPipeline.from_pretrained(
        folder, variant=variant, local_files_only=True, use_safetensors=True, **UNUSED
    )


def weights_variant(files: Iterable[str], dtype: torch.dtype) -> str | None:
    """ "fp16" where half precision is asked for and there, or all that is there for some network.

    `files` are paths inside the checkpoint. Networks without half-precision weights use their full ones.
    """
    weights = [(path.parent.name, path.name) for path in map(Path, files) if str(path.parent) in NETWORKS]
    half = {part for part, file in weights if _HALF_WEIGHTS.fullmatch(file)}
    full = {part for part, file in weights if _FULL_WEIGHTS.fullmatch(file)}
    return "fp16" if half and (dtype in HALF_PRECISION or not half <= full) else None


def check_networks(name: str, vae: Any, unet: Any) -> None:
    """Refuse Stable Diffusion variants whose U-Net takes more than latents, a timestep and vectors."""
    check_channels(name, unet.config.in_channels, vae.config.latent_channels)
    if unet.config.addition_embed_type or unet.config.class_embed_type:
        raise CheckpointError(
            f"the U-Net of {name!r} wants more than text as its condition: use a Stable Diffusion 1.x or 2.x "
            "checkpoint."
        )


def check_channels(name: str, taken: int, made: int) -> None:
    """Refuse a U-Net that takes other channels than its autoencoder makes."""
    if taken != made:
        raise CheckpointError(
            f"the U-Net of {name!r} takes {taken} channels but its autoencoder makes {made}: use a "
            "text-to-image variant, not inpainting or depth."
        )


@contextmanager
def readable(what: str, remedy: str = "copy or download it again") -> Iterator[None]:
    """Read quietly, and turn what the loaders raise about missing or damaged files into one sentence."""
    try:
        with quiet_loading():
            yield
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{what} cannot be read ({first_line(error)}): {remedy}.") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the bars over parts and shards, and advice to install torchvision."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with ExitStack() as afterwards:
        afterwards.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity_error()
        for module in (diffusers_logging, transformers_logging):
            if module.is_progress_bar_enabled():
                afterwards.callback(module.enable_progress_bar)
                module.disable_progress_bar()
        yield


def first_line(error: Exception) -> str:
    """The reason in an error of another library, ready to stand inside a sentence."""
    return str(error).strip().split("\n")[0].rstrip(".")


def read_index(folder: Path) -> dict:
    """The model_index.json of a checkpoint."""
    path = folder / "model_index.json"
    with readable(str(path), "give a folder written by StableDiffusionPipeline.save_pretrained"):
        return json.loads(path.read_text(encoding="utf-8"))


def check_index(name: str, index: dict) -> None:
    """Refuse pipelines of other parts than Stable Diffusion's, and those that bring code of their own."""
    # A part may be listed without being there: [null, null].
    origins = {part: origin for part, origin in index.items() if isinstance(origin, list | tuple)}
    present = {part for part, origin in origins.items() if origin and origin[0]}
    libraries = {origins[part][0] for part in present & set(COMPONENTS)}
    if "_class_name" in origins or libraries - {"diffusers", "transformers"}:
        raise CheckpointError(
            f"checkpoint {name!r} brings code of its own, which is never run: use one made of the classes of "
            "diffusers and transformers alone."
        )
    missing = [part for part in COMPONENTS if part not in present]
    second = sorted(part for part in present if part.endswith(("_2", "_3")))
    if missing or second:
        reason = f"lacks {', '.join(missing)}" if missing else f"has a {second[0]} as SDXL does"
        raise CheckpointError(
            f"checkpoint {name!r} is a {index.get('_class_name', 'pipeline')} that {reason}: "
            "use a Stable Diffusion 1.x or 2.x checkpoint."
        )


def _download(name: str, revision: str | None, dtype: torch.dtype) -> Path:
    with quiet_loading():
        pipeline_class = diffusers.StableDiffusionPipeline  # imported on first use, with warnings
    try:
        # The index first: a checkpoint of another kind is refused before gigabytes of it are fetched.
        check_index(name, pipeline_class.load_config(name, revision=revision))
        try:
            files = list_repo_files(name, revision=revision)
        except (OSError, HTTPError):  # no connection: what was downloaded before lies beside its index
            folder = Path(hf_hub_download(name, "model_index.json", revision=revision, local_files_only=True))
            _check_weights(name, _files(folder.parent))
            return folder.parent
        _check_weights(name, files)
        variant = weights_variant(files, dtype)
        options = {"revision": revision, "variant": variant, "use_safetensors": True, **UNUSED}
        with quiet_loading():
            return Path(pipeline_class.download(name, **options))
    except CheckpointError:
        raise
    except (OSError, ValueError, HTTPError) as error:
        answered = any(isinstance(each, HfHubHTTPError) for each in (error, error.__context__))
        trouble = "the hub does not give it" if answered else "the hub cannot be reached"
        raise CheckpointError(
            f"no copy of checkpoint {name!r} is on this machine, and {trouble} ({first_line(error)}): check "
            "the name and the connection, or give the folder of a copy or 'tinysd', which need neither."
        ) from error


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.is_file()]


def _check_weights(name: str, files: Iterable[str]) -> None:
    for part in NETWORKS:
        suffixes = {Path(file).suffix for file in files if file.startswith(f"{part}/")}
        if ".safetensors" in suffixes:
            continue
        if suffixes & set(PICKLED):
            raise CheckpointError(
                f"the {part} of {name!r} has pickled weights only, and unpickling can run any code: convert "
                "them with save_pretrained(safe_serialization=True)."
            )
        raise CheckpointError(f"the {part} of {name!r} has no safetensors weights: copy it again, in full.")
