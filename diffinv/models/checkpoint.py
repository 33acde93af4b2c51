"""Finding a Stable Diffusion checkpoint on disk or on the hub, reading it, and refusing what is not one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import hf_hub_download, list_repo_files
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the latter of whichever HTTP library it uses

from diffinv.foundation import ASSETS
from diffinv.foundation.errors import listed

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
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
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


def read_folder(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline of a folder in diffusers' layout, in float32 or the dtype of its files."""
    check_tokenizer(f"checkpoint {name!r}", folder / "tokenizer")
    index, files = read_index(folder), _files(folder)
    networks, faults = {}, []
    for part in NETWORKS:
        variant = weights_variant((file for file in files if file.startswith(f"{part}/")), dtype)
        with readable(f"the {part} of checkpoint {name!r}"):
            library, kind = index[part]
            # Rounded to the dtype asked for once loaded: the files' own and float32 are both exact.
            networks[part], info = getattr(import_module(library), kind).from_pretrained(
                folder / part,
                variant=variant,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        faults += tensor_faults(part, networks[part], info)
    check_whole(f"checkpoint {name!r}", faults)
    with readable(f"checkpoint {name!r}"):
        return diffusers.StableDiffusionPipeline.from_pretrained(
            folder, local_files_only=True, **networks, **UNUSED
        )


def tensor_faults(part: str, network: Any, info: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with the tensors of a network that was read; `info` is the loader's account of it.

    Loaders fill what they miss with random numbers, or leave it without any.
    """
    weights = network.state_dict()
    info = info or {"missing_keys": [key for key, weight in weights.items() if weight.is_meta]}
    missing = info["missing_keys"]
    others = sorted(info.get("unexpected_keys", ())) if missing else []
    spoilt = [key for key, weight in weights.items() if not weight.is_meta and not weight.isfinite().all()]
    lacks = f"lacks {listed(sorted(missing), 3, 'tensors')}" + (
        f" and has {listed(others, 3, 'tensors')} instead" if others else ""
    )
    faults = {
        f"its {part} {lacks}": missing,
        f"its {part} has numbers that are not finite in {listed(spoilt, 3, 'tensors')}": spoilt,
    }
    return [fault for fault, culprits in faults.items() if culprits]


def check_whole(what: str, faults: Sequence[str]) -> None:
    """Refuse networks whose tensors have faults."""
    if faults:
        raise CheckpointError(f"{what} is damaged, {'; '.join(faults)}: copy or download it again, in full.")


def check_tokenizer(what: str, folder: Path) -> None:
    """Refuse a tokenizer without all of its files: loaded, it would give every sentence the same tokens."""
    words = [folder / name for name in ("vocab.json", "merges.txt")]
    if (folder / "tokenizer.json").is_file() or not any(path.is_file() for path in words):
        words = [folder / "tokenizer.json"]
    if lacking := [path.name for path in (*words, folder / "tokenizer_config.json") if not path.is_file()]:
        raise CheckpointError(
            f"the tokenizer of {what} lacks {' and '.join(lacking)}: copy or download it again, in full."
        )


def weights_variant(files: Iterable[str], dtype: torch.dtype) -> str | None:
    """ "fp16" where half precision is asked for and there, or all that is there for some network.

    `files` are paths inside the checkpoint. Networks without half-precision weights use their full ones.
    """
    weights = [(path.parent.name, path.name) for path in map(Path, files) if str(path.parent) in NETWORKS]
    half = {part for part, file in weights if _HALF_WEIGHTS.fullmatch(file)}
    full = {part for part, file in weights if _FULL_WEIGHTS.fullmatch(file)}
    return "fp16" if half and (dtype in HALF_PRECISION or not half <= full) else None


def check_parts(name: str, pipeline: Any) -> None:
    """Refuse parts that do not fit one another, and those of other kinds of models.

    The U-Net has to take latents, a timestep and vectors, and no more.
    """
    unet, text, scheduler = pipeline.unet.config, pipeline.text_encoder.config, pipeline.scheduler
    check_channels(name, unet.in_channels, pipeline.vae.config.latent_channels)
    if unet.addition_embed_type or unet.class_embed_type:
        raise CheckpointError(
            f"the U-Net of {name!r} wants more than text as its condition: use a Stable Diffusion 1.x or 2.x "
            "checkpoint."
        )
    if not isinstance(unet.sample_size, int):
        raise CheckpointError(
            f"the U-Net of {name!r} has a sample_size of {unet.sample_size}: write the side of the latents "
            "that it was trained on, such as 64, into its config.json."
        )
    width, known, places = unet.cross_attention_dim, text.vocab_size, text.max_position_embeddings
    words, longest = len(pipeline.tokenizer), pipeline.tokenizer.model_max_length
    fits = {
        f"text_encoder makes vectors {text.hidden_size} wide but its U-Net takes {width}": text.hidden_size
        == width,
        f"tokenizer has {words} tokens but its text_encoder knows {known}": words <= known,
        f"tokenizer makes {longest} tokens of a text but its text_encoder takes {places}": longest <= places,
    }
    if misfits := [what for what, fit in fits.items() if not fit]:
        raise CheckpointError(
            f"parts of {name!r} do not fit: the {', and the '.join(misfits)}: use those of one checkpoint."
        )
    kind = scheduler.config.get("prediction_type", "epsilon")
    culprit = f"prediction_type {kind!r}" if kind not in PREDICTION_TYPES else None
    if not hasattr(scheduler, "alphas_cumprod"):
        culprit = f"class {type(scheduler).__name__}"
    if culprit is not None:
        raise CheckpointError(
            f"the scheduler of {name!r} has the {culprit}, which no Stable Diffusion 1.x or 2.x was trained "
            f"with: use a checkpoint that predicts {' or '.join(PREDICTION_TYPES)}."
        )


def check_channels(name: str, taken: int, made: int) -> None:
    """Refuse a U-Net that takes more or fewer channels than its autoencoder makes."""
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
    except (CheckpointError, MemoryError):
        raise
    # Loaders of several libraries raise of every kind, and tokenizers a plain Exception.
    except Exception as error:
        raise CheckpointError(f"{what} cannot be read ({first_line(error)}): {remedy}.") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the bars over parts and shards, advice to install torchvision, and what is checked here."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with ExitStack() as afterwards:
        for module in (diffusers_logging, transformers_logging):
            afterwards.callback(module.set_verbosity, module.get_verbosity())
            module.set_verbosity_error()
            if module.is_progress_bar_enabled():
                afterwards.callback(module.enable_progress_bar)
                module.disable_progress_bar()
        yield


def first_line(error: Exception) -> str:
    """The reason in an error of another library, ready to stand inside a sentence."""
    text = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    reason = text.strip().split("\n")[0].rstrip(".") or type(error).__name__
    return f"it lacks {reason}" if isinstance(error, KeyError) else reason


def read_index(folder: Path) -> dict:
    """The model_index.json of a checkpoint."""
    path = folder / "model_index.json"
    with readable(str(path), "give a folder written by StableDiffusionPipeline.save_pretrained"):
        return json.loads(path.read_text(encoding="utf-8"))


def check_index(name: str, index: dict) -> None:
    """Refuse pipelines whose parts are not Stable Diffusion's, and those that bring code of their own."""
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
