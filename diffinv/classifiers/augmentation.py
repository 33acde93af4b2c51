"""Random crops and flips of a whole batch at once, from the run's own random stream.

Not kornia's, which need a generator forked for every batch (`policies`): these draw the same on every device,
and every classifier of every cache was trained with them.
"""

from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from diffinv.foundation.checks import check_choice

Augmentation = Literal["none", "crop", "crop_flip"]


def augment(
    images: UInt8[Tensor, "image side side 3"], kind: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "image side side 3"]:
    """Shift each image by up to side // 8 pixels over black, and mirror every other one ("crop_flip").

    `generator` is a CPU one whatever the images' device: the same seed gives the same crops everywhere.
    """
    check_choice("augmentation", kind, Augmentation)
    if kind == "none":
        return images
    count, side = images.shape[0], images.shape[1]
    padding = side // 8
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    steps = torch.arange(side)
    rows, columns = offsets[0] + steps, offsets[1] + steps
    if kind == "crop_flip":
        flipped = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    rows, columns = rows.to(images.device), columns.to(images.device)
    which = torch.arange(count, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]
