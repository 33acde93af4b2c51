"""Image classifiers of transformers and timm by name, with fresh or with pretrained weights."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.utils import cached_file

from diffinv.artefacts.keys import content_key
from diffinv.models.checkpoint import EMBEDDED, check_whole, is_hub_id, readable, tensor_faults

# Before the name of the library: all weights of the checkpoint are trained on, or those of a new head alone.
PRETRAINED, FROZEN = "pretrained ", "frozen "
TRANSFORMERS, TIMM = "hf:", "timm:"
NO_CODE = dict(trust_remote_code=False)


class LibraryName(NamedTuple):
    """What "pretrained hf:NAME" says: library, name, whose weights, and whether a head alone learns."""

    library: str
    name: str
    pretrained: bool
    frozen: bool


class Logits(nn.Module):
    """A network of another library as a plain one: pixels in, logits out.

    `side` is the one that it takes, None for any; `colours` the mean and the deviation that its pixels were
    normalised with, in 0 to 1, None where those of the training images serve.
    """

    def __init__(
        self,
        network: nn.Module,
        side: int | None = None,
        colours: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.side, self.colours = network, side, colours

    def forward(self, pixels: Float[Tensor, "image 3 h w"]) -> Float[Tensor, "image label"]:
        if self.side is not None and pixels.shape[2:] != (self.side, self.side):
            size = (self.side, self.side)
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        output = self.network(pixels)
        return output if isinstance(output, Tensor) else output.logits


def library_name(architecture: str) -> LibraryName | None:
    """The parts of such a name; None for an architecture of this package."""
    rest = architecture.removeprefix(PRETRAINED).removeprefix(FROZEN)
    for library in (TRANSFORMERS, TIMM):
        if rest.startswith(library):
            frozen = architecture.startswith(FROZEN)
            return LibraryName(library, rest.removeprefix(library), rest != architecture, frozen)
    return None


def check_library(asked: LibraryName) -> None:
    """ValueError, one sentence, where the library or the checkpoint is not there; nothing is loaded."""
    if asked.library == TIMM:
        if find_spec("timm") is None:
            raise ValueError(
                f"{TIMM}{asked.name} needs timm, which is not installed: pip install timm, or choose an "
                f"architecture of transformers by {TRANSFORMERS} and its name."
            )
    elif not (Path(_place(asked.name)) / "config.json").is_file() and not is_hub_id(asked.name):
        raise ValueError(
            f"there is no image classifier {asked.name!r}: give the folder of one that save_pretrained "
            "wrote, a hub id, or 'tinysd', the image half of the embedded CLIP."
        )


def load_from_library(
    asked: LibraryName, num_classes: int, generator: torch.Generator | None = None
) -> Logits:
    """A network of the library with a new head; all that is drawn for it comes from `generator`.

    Nothing is dropped at random in training, which would draw from torch's global generator at each step.
    CheckpointError, one sentence, where it cannot be read, is damaged, or has code or pickled weights of its
    own, which are never run.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    load = _from_timm if asked.library == TIMM else _from_transformers
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = load(asked, num_classes)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if asked.frozen:  # the head, the last linear layer, learns alone
        model.requires_grad_(False)
        [*_, head] = (module for module in model.modules() if isinstance(module, nn.Linear))
        head.requires_grad_(True)
    return model


def checkpoint_key(architecture: str) -> tuple[str, ...]:
    """What a name alone does not say of the network, for keys of the cache; () where there is nothing.

    That is the content of a folder, or the commit of a hub id, which it fetches the configuration of.
    """
    asked = library_name(architecture)
    if asked is None or asked.library == TIMM:
        return ()
    place = _place(asked.name)
    if not Path(place).is_dir():
        return (_commit(place),)
    files = sorted(path for path in Path(place).iterdir() if path.suffix in (".json", ".safetensors"))
    return (_content(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)),)


@cache  # a study asks for each of its cells
def _commit(name: str) -> str:
    with readable(f"image classifier {name!r}", "check the name and the connection"):
        return Path(str(cached_file(name, "config.json"))).parent.name


@cache
def _content(files: tuple[tuple[Path, int, int], ...]) -> str:
    # A study asks for each of its cells: the bytes are read once, unless size or time say that they changed.
    return content_key({path.name: path.read_bytes().hex() for path, _, _ in files})


def _place(name: str) -> str:
    return str(EMBEDDED / "clip") if name == "tinysd" else str(Path(name).expanduser())


def _from_transformers(asked: LibraryName, num_classes: int) -> Logits:
    place = _place(asked.name)
    what = f"image classifier {asked.name!r}"
    with readable(what, "give a checkpoint of transformers with safetensors weights and no code of its own"):
        config = AutoConfig.from_pretrained(place, num_labels=num_classes, **NO_CODE)
        _drop_nothing(config)
        options = {"config": config, **NO_CODE, "dtype": torch.float32}
        if not asked.pretrained:
            return Logits(AutoModelForImageClassification.from_config(**options), _side(config))
        model, info = AutoModelForImageClassification.from_pretrained(
            place,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # the head is of other classes
            output_loading_info=True,
            **options,
        )
        file = cached_file(place, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        colours = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    new = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    lacking = sorted(key for key in new if len(model.get_parameter(key)) != num_classes)
    check_whole(what, tensor_faults("network", model, {**info, "missing_keys": lacking}))
    known = "image_mean" in colours and "image_std" in colours
    return Logits(model, _side(config), (colours["image_mean"], colours["image_std"]) if known else None)


def _from_timm(asked: LibraryName, num_classes: int) -> Logits:
    import timm

    with readable(f"timm's {asked.name!r}", "choose one of timm.list_models()"):
        model = timm.create_model(asked.name, pretrained=asked.pretrained, num_classes=num_classes)
    about = model.pretrained_cfg
    colours = (about["mean"], about["std"]) if asked.pretrained else None
    return Logits(model, about["input_size"][-1], colours)


def _drop_nothing(config: Any) -> None:
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
        elif hasattr(value, "model_type"):  # such as the vision half of a CLIP
            _drop_nothing(value)


def _side(config: Any) -> int | None:
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    return side if isinstance(side, int) else None
