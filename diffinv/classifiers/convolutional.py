"""Convolutional networks in own code: residual ones, VGG and ShuffleNetV2, for small images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def stem(width: int, *, narrow: bool = False) -> nn.Sequential:
    """The first layer: at full resolution, or ImageNet's in small, which leaves a quarter of the side.

    On a CPU nearly all the time goes to the large maps, so that narrow networks have none.
    """
    size, stride = (5, 2) if narrow else (3, 1)
    convolution = nn.Conv2d(3, width, size, stride, padding=size // 2, bias=False)
    layers = [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2)) if narrow else nn.Sequential(*layers)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, figure 2)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            projection = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "image c h w"]) -> Float[Tensor, "image d i j"]:
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """A stem, stages of blocks, the mean over places, and one linear layer."""

    def __init__(
        self,
        first: nn.Module,
        widths: tuple[int, ...],
        strides: tuple[int, ...],
        blocks_per_stage: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.stem = first
        stages: list[nn.Module] = []
        width_in = widths[0]
        for width, stride in zip(widths, strides, strict=True):
            for number in range(blocks_per_stage):
                stages.append(Block(width_in, width, stride if number == 0 else 1))
                width_in = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(width_in, num_classes)

    def forward(self, pixels: Float[Tensor, "image 3 h w"]) -> Float[Tensor, "image label"]:
        # A plain mean: the backward pass of adaptive pooling is not deterministic on CUDA.
        return self.head(self.stages(self.stem(pixels)).mean(dim=(2, 3)))


class VGG(nn.Module):
    """3x3 convolutions with a halving of the side after each stage (Simonyan and Zisserman 2014, figure D).

    As usual for small images, the mean over places and one linear layer stand in for the three wide ones.
    """

    def __init__(
        self,
        widths: Sequence[int],
        layers_per_stage: Sequence[int],
        num_classes: int,
        first: nn.Module | None = None,
        width_in: int = 3,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if first is None else [first]
        for width, count in zip(widths, layers_per_stage, strict=True):
            for _ in range(count):
                # Biases before a batch norm do nothing, but the published network has them.
                layers += [
                    nn.Conv2d(width_in, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                width_in = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # the last pixel of an odd side is kept
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width_in, num_classes)

    def forward(self, pixels: Float[Tensor, "image 3 h w"]) -> Float[Tensor, "image label"]:
        return self.head(self.features(pixels).mean(dim=(2, 3)))


class ShuffleUnit(nn.Module):
    """Half of the channels pass by, the others are convolved; then both are shuffled (Ma et al. 2018)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        half = width // 2
        self.stride = stride
        # The stride halves the side in both branches, which then both see every channel.
        taken = width_in if stride > 1 else half
        self.passing: nn.Module = nn.Identity()
        if stride > 1:
            self.passing = nn.Sequential(*_depthwise(taken, stride), *_pointwise(taken, half))
        self.convolved = nn.Sequential(
            *_pointwise(taken, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: Float[Tensor, "image c h w"]) -> Float[Tensor, "image d i j"]:
        passing, convolved = (x, x) if self.stride > 1 else x.chunk(2, dim=1)
        both = torch.stack([self.passing(passing), self.convolved(convolved)], dim=2)
        return both.flatten(1, 2)  # channels of the two branches in turn


class ShuffleNetV2(nn.Module):
    """A stem, stages of shuffled units, a wide pointwise layer, the mean over places, a linear layer."""

    def __init__(
        self,
        first: nn.Module,
        width_in: int,
        widths: Sequence[int],
        units_per_stage: Sequence[int],
        width_last: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [first]
        for width, count in zip(widths, units_per_stage, strict=True):
            for number in range(count):
                layers.append(ShuffleUnit(width_in, width, 2 if number == 0 else 1))
                width_in = width
        self.features = nn.Sequential(*layers, *_pointwise(width_in, width_last))
        self.head = nn.Linear(width_last, num_classes)

    def forward(self, pixels: Float[Tensor, "image 3 h w"]) -> Float[Tensor, "image label"]:
        return self.head(self.features(pixels).mean(dim=(2, 3)))


def _pointwise(width_in: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _depthwise(width: int, stride: int) -> tuple[nn.Module, ...]:
    return (nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False), nn.BatchNorm2d(width))
