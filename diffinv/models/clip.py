"""A frozen CLIP: features of images and of sentences in one space, for metrics, filters and retrieval."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from diffinv.artefacts.keys import content_key
from diffinv.foundation.networks import LoadedAgain, usable_device, weights_fingerprint
from diffinv.models.checkpoint import (
    EMBEDDED,
    PINNED_REVISIONS,
    CheckpointError,
    check_tokenizer,
    check_whole,
    is_hub_id,
    readable,
    tensor_faults,
)

Features = Float[Tensor, "item feature"]
Images = UInt8[np.ndarray, "image height width 3"]


class FrozenEncoder:
    """A network with its way of preparing images, every weight frozen; `image_size` is the side it takes."""

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        device: str | torch.device,
        image_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ) -> None:
        self.device = torch.device(device)
        self.model = model.requires_grad_(False).eval().to(self.device)
        self.name, self.image_size = name, image_size
        self.image_mean = torch.tensor(image_mean, device=self.device).view(3, 1, 1)
        self.image_std = torch.tensor(image_std, device=self.device).view(3, 1, 1)

    def pixels(self, images: UInt8[Tensor, "image height width 3"]) -> Float[Tensor, "image 3 side side"]:
        """Images as the network takes them."""
        pixels = images.to(self.device).permute(0, 3, 1, 2).float() / 255
        side = self.image_size
        if pixels.shape[2:] != (side, side):
            resized = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True, align_corners=False)
            pixels = resized.clamp(0, 1)
        return (pixels - self.image_mean) / self.image_std


class FrozenClip(LoadedAgain, FrozenEncoder):
    """A CLIPModel with its tokenizer."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: Any,
        *,
        name: str = "in memory",
        device: str | torch.device = "cpu",
        image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: Sequence[float] = OPENAI_CLIP_STD,
    ) -> None:
        vision: Any = model.config.vision_config
        colours = {"image_mean": image_mean, "image_std": image_std}
        super().__init__(model, name=name, device=device, image_size=vision.image_size, **colours)
        self.tokenizer = tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """A key of the weights, vocabulary and image preparation, the same wherever it was loaded from."""
        vision, text = self.model.config.vision_config, self.model.config.text_config
        constants = {
            "heads": [vision.num_attention_heads, text.num_attention_heads],
            "activations": [vision.hidden_act, text.hidden_act],
            "image_size": self.image_size,
            "mean": self.image_mean.flatten().tolist(),
            "std": self.image_std.flatten().tolist(),
            "vocabulary": self.tokenizer.get_vocab(),
        }
        return content_key(weights_fingerprint(self.model), constants)

    @torch.no_grad()
    def image_features(self, images: Images, *, batch_size: int = 64) -> Features:
        """A vector of length 1 for each image, float32 on the CPU."""
        features = []
        for batch in torch.from_numpy(np.ascontiguousarray(images)).split(batch_size):
            pooled = self.model.vision_model(pixel_values=self.pixels(batch)).pooler_output
            features.append(F.normalize(self.model.visual_projection(pooled), dim=-1).cpu())
        return torch.cat(features)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Features:
        """A vector of length 1 for each sentence, float32 on the CPU; long sentences are cut off."""
        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=min(self.tokenizer.model_max_length, longest),
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        pooled = self.model.text_model(**inputs).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1).cpu()

    @torch.no_grad()
    def zero_shot(self, images: Images, class_prompts: Sequence[str]) -> Float[Tensor, "image class"]:
        """Probability of each class for each image, given one sentence a class."""
        if len(class_prompts) < 2:
            raise ValueError(
                f"a choice takes at least 2 prompts, not {len(class_prompts)}: give one per class."
            )
        scale = self.model.logit_scale.exp().cpu()
        similarity = self.image_features(images) @ self.text_features(class_prompts).T
        return (scale * similarity).softmax(dim=-1)


def load_clip(name: str | Path = "tinysd", *, device: str | torch.device | None = None) -> FrozenClip:
    """Load a frozen CLIP: that of "tinysd", a folder, or a hub id such as "openai/clip-vit-base-patch32".

    A folder holds clip/ and tokenizer/, or all files itself. Only safetensors weights are read; the paper's
    CLIP has a pinned commit of the hub, as the well-known Stable Diffusions have.
    CheckpointError, one sentence, where that is not possible.
    """
    device = usable_device(device)
    place, tokenizer = _find(name)
    revision = PINNED_REVISIONS.get(str(name), "main")
    with readable(f"CLIP {str(name)!r}", "check the name, or copy the folder again"):
        loader: Any = CLIPModel.from_pretrained  # whose types know of the model alone
        model, info = loader(
            place, revision=revision, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        if isinstance(tokenizer, Path):
            check_tokenizer(f"CLIP {str(name)!r}", tokenizer)
        words = CLIPTokenizer.from_pretrained(tokenizer, revision=revision)
    check_whole(f"CLIP {str(name)!r}", tensor_faults("model", model, info))
    how = preparation(place, revision)
    colours = {name: how[name] for name in ("image_mean", "image_std") if name in how}
    clip = FrozenClip(model, words, name=str(name), device=device, **colours)
    clip.origin = partial(load_clip, name, device=device.type)
    return clip


def _find(name: str | Path) -> tuple[str | Path, str | Path]:
    folder = EMBEDDED if str(name) == "tinysd" else Path(name).expanduser()
    if not folder.is_dir():
        if is_hub_id(name):
            return name, name
        raise CheckpointError(f"CLIP {str(name)!r} does not exist: give 'tinysd', a folder, or a hub id.")
    place = folder / "clip" if (folder / "clip").is_dir() else folder
    if not (place / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no CLIP model: give the folder of a saved CLIPModel.")
    tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else place
    return place, tokenizer


def preparation(place: str | Path, revision: str) -> dict[str, Any]:
    """How a checkpoint says that images are prepared; empty where it does not say."""
    with suppress(OSError):
        return ImageProcessingMixin.get_image_processor_dict(place, revision=revision)[0]
    return {}
