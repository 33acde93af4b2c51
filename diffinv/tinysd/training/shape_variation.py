"""Icons of a set drawn as another set might have drawn them: turned, slanted, bolder, thinner, hollow.

Drawn from the run's own generator, which kornia's augmentations do not take.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOVED = 0.8  # share of the icons that are turned, slanted, scaled and shifted
DEGREES, SLANT_DEGREES, SCALE, SHIFT = 12.0, 8.0, (0.8, 1.2), 0.06  # the shift in sides of the image
# Shares of the icons; the rest keep their strokes.
BOLDER, THINNER, HOLLOW = 0.25, 0.15, 0.1
THINNEST = 0.6  # of the way to the eroded mask: a stroke of two pixels would be gone


def vary_shapes(masks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return masks ``uint8 [icon, height, width]``, each varied in its own way."""
    scaled = torch.from_numpy(masks).float().div(255).unsqueeze(1)
    strokes = _vary_strokes(scaled, *_uniform(generator, 2, len(masks), 1, 1, 1))
    grid = F.affine_grid(_placements(generator, len(masks)), [*strokes.shape], align_corners=False)
    moved = F.grid_sample(strokes, grid, align_corners=False)
    return moved.squeeze(1).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()


def _uniform(generator: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(generator.random(shape, dtype=np.float32))


def _vary_strokes(masks: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
    grown, shrunk = F.max_pool2d(masks, 3, 1, 1), -F.max_pool2d(-masks, 3, 1, 1)
    thinner, hollow = kind < BOLDER + THINNER, kind < BOLDER + THINNER + HOLLOW
    varied = torch.where(hollow, masks - shrunk, masks)
    varied = torch.where(thinner, masks + THINNEST * amount * (shrunk - masks), varied)
    return torch.where(kind < BOLDER, masks + amount * (grown - masks), varied)


def _placements(generator: np.random.Generator, count: int) -> Tensor:
    """Affine maps ``[icon, 2, 3]`` from places in the new image to places in the old one."""
    share, turn, slant, scale, x, y = _uniform(generator, 6, count)
    moved = (share < MOVED).float()
    angle = torch.deg2rad((2 * turn - 1) * DEGREES) * moved
    slope = torch.tan(torch.deg2rad((2 * slant - 1) * SLANT_DEGREES)) * moved
    size = 1 + moved * (SCALE[0] + scale * (SCALE[1] - SCALE[0]) - 1)
    cos, sin = angle.cos() / size, angle.sin() / size
    shifts = torch.stack([2 * x - 1, 2 * y - 1], 1) * 2 * SHIFT * moved[:, None]  # an image is 2 wide
    turned = torch.stack([cos, slope * cos - sin, sin, slope * sin + cos], 1).view(-1, 2, 2)
    return torch.cat([turned, shifts[..., None]], 2)
