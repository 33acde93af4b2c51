"""Differentiable augmentation of what a discriminator sees (Zhao et al. 2020), so that it needs fewer images.

Its colours, shifts and holes happen to real and generated images alike and let gradients through: the
generator learns to please the discriminator without learning to augment.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SHIFT = 1 / 8  # of the side, at most, in each direction
HOLE = 1 / 2  # side of the square cut out, in parts of the image's


def augment_differentiably(
    pixels: Float[Tensor, "image 3 side side"], generator: torch.Generator
) -> Float[Tensor, "image 3 side side"]:
    """Change brightness, saturation and contrast, shift over grey, and cut out a square, each at random.

    `generator` is a CPU one whatever the device: the same seed gives the same augmentation everywhere.
    """
    draws = torch.rand(7, len(pixels), 1, 1, 1, generator=generator).to(pixels)
    pixels = _colour(pixels, *draws[:3])
    pixels = _shift(pixels, *draws[3:5])
    return _cut_out(pixels, *draws[5:])


def _colour(pixels: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    pixels = pixels + (brightness - 0.5)
    pixels = torch.lerp(pixels.mean(dim=1, keepdim=True), pixels, 2 * saturation)
    return torch.lerp(pixels.mean(dim=(1, 2, 3), keepdim=True), pixels, contrast + 0.5)


def _shift(pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    # As products with shifted identities: exact, and deterministic backwards on every device.
    side = pixels.shape[-1]
    reach = int(side * SHIFT + 0.5)
    places = torch.arange(side, device=pixels.device)
    rows = (down * (2 * reach + 1)).long().clamp_(max=2 * reach) - reach
    columns = (right * (2 * reach + 1)).long().clamp_(max=2 * reach) - reach
    moves_rows = (places[:, None] == places + rows).to(pixels)  # [image, 1, side, side]
    moves_columns = (places[:, None] + columns == places).to(pixels)
    return moves_rows @ pixels @ moves_columns


def _cut_out(pixels: Tensor, middle_row: Tensor, middle_column: Tensor) -> Tensor:
    side = pixels.shape[-1]
    size = int(side * HOLE + 0.5)
    places = torch.arange(side, device=pixels.device)
    # The middle may be anywhere: at the border half of the hole lies outside.
    top, left = ((middle * side).floor() - size // 2 for middle in (middle_row, middle_column))
    rows, columns = ((places >= start) & (places < start + size) for start in (top, left))
    return pixels * ~(rows.transpose(-1, -2) & columns)
