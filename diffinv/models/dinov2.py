"""A frozen DINOv2, and features by name: of whichever kind of network a checkpoint holds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import AutoConfig, AutoModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from diffinv.foundation.networks import usable_device
from diffinv.models.checkpoint import (
    PINNED_REVISIONS,
    CheckpointError,
    check_whole,
    is_hub_id,
    readable,
    tensor_faults,
)
from diffinv.models.clip import FrozenClip, FrozenEncoder, load_clip, preparation

KINDS = ("dinov2", "dinov2_with_registers")


class FrozenDinov2(FrozenEncoder):
    """A Dinov2Model: features that were learned without any caption or label (Oquab et al. 2023)."""

    @torch.no_grad()
    def image_features(
        self, images: UInt8[np.ndarray, "image height width 3"], *, batch_size: int = 64
    ) -> Float[Tensor, "image feature"]:
        """The class token of each image, float32 on the CPU."""
        batches = torch.from_numpy(np.ascontiguousarray(images)).split(batch_size)
        return torch.cat([self.model(self.pixels(batch)).pooler_output.cpu() for batch in batches])


def load_features(
    name: str | Path = "tinysd", *, device: str | torch.device | None = None
) -> FrozenClip | FrozenDinov2:
    """Load a network that makes features of images, by its configuration: a CLIP as `load_clip`, or a DINOv2.

    A DINOv2 is a folder or a hub id such as "facebook/dinov2-base". CheckpointError, one sentence, where that
    is not possible.
    """
    folder = Path(name).expanduser()
    of_hub = not folder.is_dir() and str(name) != "tinysd" and is_hub_id(name)
    if not (of_hub or (folder / "config.json").is_file()):
        return load_clip(name, device=device)
    place: Any = str(name) if of_hub else folder
    what, revision = f"checkpoint {str(name)!r}", PINNED_REVISIONS.get(str(name), "main")
    with readable(what, "check the name, or copy the folder again"):
        kind = AutoConfig.from_pretrained(place, revision=revision).model_type
    if kind == "clip":
        return load_clip(name, device=device)
    if kind not in KINDS:
        raise CheckpointError(f"{what} is a {kind}: give a CLIP or a DINOv2.")
    with readable(what, "check the name, or copy the folder again"):
        loader: Any = AutoModel.from_pretrained
        model, info = loader(
            place, revision=revision, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    check_whole(what, tensor_faults("model", model, info))
    how = preparation(place, revision)
    side = how.get("crop_size", model.config.image_size)
    return FrozenDinov2(
        model,
        name=str(name),
        device=usable_device(device),
        image_size=side["height"] if isinstance(side, dict) else side,
        image_mean=how.get("image_mean", IMAGENET_DEFAULT_MEAN),
        image_std=how.get("image_std", IMAGENET_DEFAULT_STD),
    )
