"""The classifiers by name: those of the paper, narrow ones for two CPU cores, and any of a library."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import (
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from diffinv.classifiers.convolutional import VGG, ResNet, ShuffleNetV2, stem
from diffinv.classifiers.libraries import Logits, check_library, library_name, load_from_library

# Running statistics over the last ten batches or so: a run of a few hundred steps has no more to average.
BATCH_NORM_MOMENTUM = 0.1
DROP_NOTHING = 0.0  # what drops at random draws from torch's global generator


def _mobilenetv2(num_classes: int, resolution: int, *, strides: Sequence[int], **config: Any) -> Logits:
    """Its strides are those of the stem's two convolutions and of the blocks that halve large images."""
    settings: dict[str, Any] = {"num_labels": num_classes, "classifier_dropout_prob": DROP_NOTHING, **config}
    model = MobileNetV2ForImageClassification(MobileNetV2Config(tf_padding=False, **settings))
    network: Any = model.mobilenet_v2
    halving = [network.conv_stem.first_conv, network.conv_stem.conv_3x3]
    halving += [block.conv_3x3 for block in network.layer if block.conv_3x3.convolution.stride == (2, 2)]
    for layer, stride in zip(halving, strides, strict=True):
        layer.convolution.stride = (stride, stride)
    return Logits(model)


def _mobilenetv2_narrow(num_classes: int, resolution: int) -> Logits:
    sizes = {"depth_multiplier": 0.2, "expand_ratio": 4, "finegrained_output": False}
    model = _mobilenetv2(num_classes, resolution, strides=(2, 2, 1, 2, 1, 1), **sizes)
    whole: Any = model.network
    network, kept = whole.mobilenet_v2, list[Any]()
    for block in network.layer:  # one block with a shortcut per stage
        if not (block.use_residual and kept and kept[-1].use_residual):
            kept.append(block)
    network.layer = nn.ModuleList(kept)
    return model


def _efficientnet(num_classes: int, resolution: int, **config: Any) -> Logits:
    # The sixth stage's stride finds no second place in an image below 16 px.
    strides = [1, 2, 2, 2, 1, 2 if resolution >= 16 else 1, 1]
    settings: dict[str, Any] = {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 1280,
        "strides": strides,
        "dropout_rate": DROP_NOTHING,
        "drop_connect_rate": DROP_NOTHING,
        "num_labels": num_classes,
        **config,
    }
    return Logits(EfficientNetForImageClassification(EfficientNetConfig(**settings)))


def _efficientnet_b0(num_classes: int, resolution: int) -> Logits:
    model = _efficientnet(num_classes, resolution)
    network: Any = model.network
    first = network.efficientnet.embeddings
    first.padding, first.convolution.stride = nn.ZeroPad2d(1), (1, 1)  # the stem for small images
    return model


def _efficientnet_narrow(num_classes: int, resolution: int) -> Logits:
    return _efficientnet(
        num_classes,
        resolution,
        width_coefficient=0.25,  # also of what stands below
        in_channels=[32, 32, 64, 128],
        out_channels=[32, 64, 128, 192],
        kernel_sizes=[3, 3, 3, 3],
        strides=[2, 1, 2, 1],
        expand_ratios=[1, 4, 4, 4],
        num_block_repeats=[1, 1, 2, 1],
        hidden_dim=320,
    )


def _vit(num_classes: int, resolution: int, *, patches_per_side: int = 8, **config: Any) -> Logits:
    patch_size = max(1, resolution // patches_per_side)
    sizes: dict[str, Any] = {"image_size": resolution, "patch_size": patch_size, "num_labels": num_classes}
    return Logits(ViTForImageClassification(ViTConfig(**sizes, **config)))


def _vit_narrow(num_classes: int, resolution: int) -> nn.Module:
    """Its patches are of convolved pixels: from plain ones it learns nothing in a few hundred steps.

    Early convolutions, arXiv 2106.14881, with which SGD serves as well.
    """
    sizes = dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=3)
    side = (resolution + 1) // 4  # that the stem leaves
    transformer = _vit(num_classes, side, patches_per_side=4, num_channels=32, **sizes)
    convolution = nn.Conv2d(16, 32, 3, padding=1, bias=False)
    return nn.Sequential(
        stem(16, narrow=True), convolution, nn.BatchNorm2d(32), nn.ReLU(inplace=True), transformer
    )


_VIT_TINY = dict(hidden_size=192, intermediate_size=768, num_attention_heads=3)
ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    # Section 4.1 of the paper, and a ViT beside its networks.
    # 11M weights; the stem for small images: no stride and no pooling before the first stage.
    "resnet18": lambda classes, _: ResNet(stem(64), (64, 128, 256, 512), (1, 2, 2, 2), 2, classes),
    "vgg16": lambda classes, _: VGG((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), classes),  # 15M
    "mobilenetv2": partial(_mobilenetv2, strides=(1, 1, 1, 2, 2, 2)),  # 2M
    # 0.4M
    "shufflenetv2_x05": lambda classes, _: ShuffleNetV2(
        stem(24), 24, (48, 96, 192), (4, 8, 4), 1024, classes
    ),
    "efficientnet_b0": _efficientnet_b0,  # 4M
    "vit_tiny": partial(_vit, **_VIT_TINY),  # 5M
    # The same kinds for two CPU cores: 400 steps of 32 images of 32 px in seconds.
    "resnet8_narrow": lambda classes, _: ResNet(stem(16, narrow=True), (16, 32, 96), (1, 2, 2), 1, classes),
    "resnet10_narrow": lambda classes, _: ResNet(
        stem(16, narrow=True), (16, 24, 48, 96), (1, 1, 2, 2), 1, classes
    ),
    "vgg_narrow": lambda classes, _: VGG((24, 48, 96), (2, 2, 2), classes, stem(16, narrow=True), 16),
    "mobilenetv2_narrow": _mobilenetv2_narrow,
    "shufflenetv2_narrow": lambda classes, _: ShuffleNetV2(
        stem(24, narrow=True), 24, (48, 96), (3, 3), 192, classes
    ),
    "efficientnet_narrow": _efficientnet_narrow,
    "vit_narrow": _vit_narrow,
}
SMALLEST_RESOLUTION = 8  # below it the last stage has no place left


def build_classifier(
    architecture: str, num_classes: int, resolution: int, *, generator: torch.Generator | None = None
) -> nn.Module:
    """A network from normalised pixels [image, 3, side, side] to logits [image, label].

    The weights come from `generator` alone (torch's default if None), those of a pretrained network from its
    checkpoint, all but the head. ValueError for an unknown name, fewer than two classes, or images below
    8 px.
    """
    check_images(architecture, num_classes, resolution)
    if asked := library_name(architecture):
        model: nn.Module = load_from_library(asked, num_classes, generator)
    else:
        with torch.device("meta"):  # torch's own initialisation would draw from the global generator
            model = ARCHITECTURES[architecture](num_classes, resolution)
        model = model.to_empty(device="cpu")
        _initialise(model, generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    # A fifth faster on CPUs than the default.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_images(architecture: str, num_classes: int, resolution: int) -> None:
    """ValueError unless a network of this name can be trained on so many classes of images of this side."""
    check_architecture(architecture)
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, not {num_classes}: add another class.")
    if resolution < SMALLEST_RESOLUTION:
        remedy = f"resize them to {SMALLEST_RESOLUTION} px or more"
        raise ValueError(f"images of {resolution} px are too small for {architecture}: {remedy}.")


def check_architecture(architecture: str) -> None:
    """ValueError listing the architectures if there is none of that name."""
    if asked := library_name(architecture):
        check_library(asked)
    elif architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        more = "hf: and a hub id or folder, or timm: and a name"
        raise ValueError(f"there is no architecture {architecture!r}: choose one of {known}, {more}.")


@torch.no_grad()
def _initialise(model: nn.Module, generator: torch.Generator | None) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            module.weight.mul_(module.groups**0.5)  # torch counts the outputs of all groups
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
        else:  # a class token, and embeddings of places
            for weight in module.parameters(recurse=False):
                # As large as the patches they are added to: a few hundred steps do not learn places from the
                # usual 0.02.
                nn.init.trunc_normal_(weight, std=0.3, generator=generator)
