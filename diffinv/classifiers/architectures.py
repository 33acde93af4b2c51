"""Residual networks for small images: the paper's ResNet18, and a narrow one for two CPU cores."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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
        stem: nn.Module,
        widths: tuple[int, ...],
        strides: tuple[int, ...],
        blocks_per_stage: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.stem = stem
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


def _resnet18(num_classes: int) -> nn.Module:
    # The stem for small images: no stride and no pooling before the first stage.
    convolution = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    stem = nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    return ResNet(stem, (64, 128, 256, 512), (1, 2, 2, 2), 2, num_classes)


def _resnet10_narrow(num_classes: int) -> nn.Module:
    # The ImageNet stem in small: on a CPU nearly all the time goes to the large maps, so there are none.
    stem = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
    return ResNet(stem, (16, 24, 48, 96), (1, 1, 2, 2), 1, num_classes)


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": _resnet18,  # 11M weights, section 4.1 of the paper
    "resnet10_narrow": _resnet10_narrow,  # 180k weights, some 2M multiplications per image of 32 px
}
SMALLEST_RESOLUTION = 8  # below it the last stage has no place left


def build_classifier(
    architecture: str, num_classes: int, resolution: int, *, generator: torch.Generator | None = None
) -> nn.Module:
    """A network from normalised pixels [image, 3, side, side] to logits [image, label].

    The weights come from `generator` alone (torch's default if None). ValueError for an unknown name, fewer
    than two classes, or images below 8 px.
    """
    check_architecture(architecture)
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, not {num_classes}: add another class.")
    if resolution < SMALLEST_RESOLUTION:
        remedy = f"resize them to {SMALLEST_RESOLUTION} px or more"
        raise ValueError(f"images of {resolution} px are too small for {architecture}: {remedy}.")
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator
        model = ARCHITECTURES[architecture](num_classes)
    model = model.to_empty(device="cpu")
    _initialise(model, generator)
    # A fifth faster on CPUs than the default.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_architecture(architecture: str) -> None:
    """ValueError listing the architectures if there is none of that name."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"there is no architecture {architecture!r}: choose one of {known}.")


def _initialise(model: nn.Module, generator: torch.Generator | None) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
