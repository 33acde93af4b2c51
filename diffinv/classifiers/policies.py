"""What is done to a batch after its crops and flips: kornia's augmentations, drawn from the run's own stream.

kornia draws from torch's global generator and takes no other. So each batch is drawn under a forked one, with
a seed from the run's stream: a run stays a pure function of its images, settings and seed, and nothing that
is drawn elsewhere changes it, or is changed by it. One batch of 64 images of 32 px takes one CPU core 2 ms
(Cutout, MixUp), 5 ms (CutMix) or 5 to 20 ms (the others), beside 23 ms for a step of `resnet8_narrow`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

Policy = Literal[
    "none", "cutout", "autoaugment", "randaugment", "trivialaugment", "augmix", "mixup", "cutmix"
]  # fmt: skip
Pixels = Float[Tensor, "image 3 side side"]

# kornia draws the operations of a whole batch at once; their papers draw them for each image, at ten times
# the cost. Groups of this size lie between. AugMix has three chains, and so groups three times as large.
GROUP_SIZE = 16
SHEAR = 17 / 180  # kornia's unit of a shear is 180 degrees


def distort(
    images: UInt8[Tensor, "image side side 3"],
    labels: Int[Tensor, " image"],
    policy: Policy,
    generator: torch.Generator,
    *,
    num_classes: int,
) -> tuple[
    Float[Tensor, "image side side 3"] | UInt8[Tensor, "image side side 3"],
    Float[Tensor, "image label"] | Int[Tensor, " image"],
]:
    """Pixels from 0 to 255, and labels; a policy that mixes images gives the share of each class instead.

    `generator` is a CPU one whatever the images' device. A batch of one image has no partner to mix with, and
    is mixed with itself. No policy mirrors an image; colours, places and angles (up to 30 degrees) change.
    """
    if policy == "none":
        return images, labels
    seed = int(torch.randint(2**31, (), generator=generator))
    pixels = images.permute(0, 3, 1, 2) / 255
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if policy in ("mixup", "cutmix"):
            pixels, pairs = _kornia(policy)(pixels, labels)
            first, second, share = pairs.reshape(-1, 3).unbind(1)
            if policy == "cutmix":
                share = 1 - share  # kornia names what CutMix keeps, and what MixUp takes
            known, other = (F.one_hot(each.long(), num_classes).float() for each in (first, second))
            labels = torch.lerp(known, other, share[:, None])
        elif policy == "cutout":
            pixels = _kornia(policy)(pixels)
        else:
            change, size = (_augmix, 3 * GROUP_SIZE) if policy == "augmix" else (_kornia(policy), GROUP_SIZE)
            pixels = torch.cat([change(group) for group in pixels.split(size)])
    return 255 * pixels.clamp(0, 1).permute(0, 2, 3, 1), labels


@cache
def _kornia(name: str) -> Callable[..., Any]:
    """An augmentation as its paper has it for CIFAR, imported when it is first wanted."""
    import kornia.augmentation as single
    from kornia.augmentation import auto
    from kornia.augmentation.auto.autoaugment.autoaugment import cifar10_policy
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy as rand_policy
    from kornia.augmentation.auto.trivial_augment.trivial_augment import default_policy as trivial_policy

    keys: Any = ["input", "class"]
    made: dict[str, Callable[[], Callable[..., Any]]] = {
        # DeVries and Taylor 2017: half a side, half of the time; black, as what a crop leaves is.
        "cutout": lambda: single.RandomErasing(p=0.5, scale=(0.25, 0.25), ratio=(1, 1), value=0),
        "autoaugment": lambda: auto.AutoAugment(_as_published(cifar10_policy)),  # Cubuk et al. 2019
        "randaugment": lambda: auto.RandAugment(2, 10, _as_published(rand_policy)),  # Cubuk et al. 2020
        "trivialaugment": lambda: auto.TrivialAugment(_as_published(trivial_policy)),  # Müller, Hutter 2021
        "mixup": lambda: single.RandomMixUpV2(data_keys=keys),  # Zhang et al. 2018, alpha = 1
        "cutmix": lambda: single.RandomCutMixV2(data_keys=keys, use_correct_lambda=True),  # Yun et al. 2019
    }
    return made[name]()


def _as_published(policy: list[Any]) -> list[Any]:
    """The policy with shears of up to 0.3 = 17 degrees, and at least the 4 bits of its paper.

    kornia multiplies a shear by 180, so that 0.3 would be 54 degrees, and posterizes down to 0 bits, black.
    Its brightness is left as it is: it adds to all pixels where the papers multiply them.
    """

    def published(name: str, first: Any, second: Any) -> tuple[str, Any, Any]:
        if name.startswith("shear"):
            # A range; or AutoAugment's probability and tenth, whose magnitudes 7 and 8 are 13 and 15 degrees.
            return (name, -SHEAR, SHEAR) if first < 0 else (name, first, 6)
        return (name, 4.0, 8.0) if (name, first) == ("posterize", 0) else (name, first, second)

    return [[published(*operation) for operation in operations] for operations in policy]


def _augmix(images: Pixels) -> Pixels:
    """Three chains of one to three operations, mixed, and mixed with the images (Hendrycks et al. 2020).

    # differs from the paper: no Jensen-Shannon loss, which would train on three images for each.
    """
    count = len(images)
    weights = torch.distributions.Dirichlet(torch.ones(3)).sample((count,)).to(images.device)
    kept = torch.distributions.Beta(1.0, 1.0).sample((count, 1, 1, 1)).to(images.device)
    chains = [_chain(int(depth))(images) for depth in torch.randint(1, 4, (3,))]
    parts = (w[:, None, None, None] * chain for w, chain in zip(weights.unbind(1), chains, strict=True))
    mixed = sum(parts, torch.zeros_like(images))
    return torch.lerp(mixed, images, kept)


@cache
def _chain(depth: int) -> Callable[[Pixels], Pixels]:
    """So many of AugMix's operations, none twice, at 3 of 10 of their strengths."""
    from kornia.augmentation import auto

    plain = {"auto_contrast": (0, 1), "equalize": (0, 1), "posterize": (1.0, 4.0), "solarize": (0.7, 0.7)}
    most = {"rotate": 30.0, "shear_x": SHEAR, "shear_y": SHEAR, "translate_x": 1 / 3, "translate_y": 1 / 3}
    ranges = {**plain, **{name: (-end, end) for name, end in most.items()}}
    return auto.RandAugment(depth, 9, [[(name, *ends)] for name, ends in ranges.items()])
