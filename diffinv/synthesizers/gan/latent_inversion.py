"""Codes that reproduce each real image, found by gradient descent through a frozen GAN."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.parts import groups_of
from diffinv.artefacts.vectors import VectorCache
from diffinv.artefacts.writing import provenance
from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.foundation.randomness import stream
from diffinv.method.cached import learn_missing, store_of
from diffinv.method.inversion import InversionDiverged, InversionStep
from diffinv.method.store import EmbeddingStore
from diffinv.synthesizers.gan.frozen import FrozenGAN
from diffinv.synthesizers.gan.training import as_pixels

Space = Literal["z", "w"]
RECIPE = 1  # part of every cache key: to be raised when the same settings would give other codes


@dataclass(frozen=True)
class LatentInversion:
    """How the codes of an image are found; `batch_size` alone has no bearing on the result.

    The loss is the squared error of the pixels, that of the discriminator's features at every scale, relative
    to their size (Pan et al. 2020), and the squared distance of the codes from the middle of the class.
    """

    steps_per_image: int = 200
    learning_rate: float = 0.05  # Adam's, constant
    space: Space = "w"  # a code for each layer, class embedding included (Abdal et al. 2019), or one latent
    candidates: int = 16  # random codes of the class, the best of which is the start
    feature_weight: float = 0.1
    prior_weight: float = 0.001
    batch_size: int = 64  # images optimised side by side

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("steps_per_image", "candidates", "batch_size"),
            at_least={"feature_weight": 0, "prior_weight": 0},
            above_zero=("learning_rate",),
        )


def latent_inversion_steps(
    gan: FrozenGAN, real: LabelledImages, settings: LatentInversion, seed: int
) -> Iterator[InversionStep]:
    """Update the codes of all the images side by side, yielding after each update.

    The `embeddings` of a step are codes [image, layer, code]: one layer of latents in the space "z", all
    layers' codes in "w". InversionDiverged for a loss that is not finite.
    """
    target = as_pixels(real, gan.side, gan.device)
    labels = torch.tensor(real.labels, device=gan.device)
    middle = _start(gan, torch.zeros(len(real), gan.generator.latent_dim), labels, settings.space)
    with torch.no_grad():
        wanted = gan.discriminator.features(target)

    def losses_of(codes: Float[Tensor, "image layer code"]) -> Float[Tensor, " image"]:
        pixels = gan.generator(_for_each_layer(gan, codes, labels, settings.space))
        loss = _mean_square(pixels - target) + settings.prior_weight * _mean_square(codes - middle)
        if settings.feature_weight:
            found = gan.discriminator.features(pixels)
            pairs = zip(found, wanted, strict=True)
            scales = [_mean_square(f - w) / (_mean_square(w) + 1e-6) for f, w in pairs]
            loss = loss + settings.feature_weight * torch.stack(scales).mean(dim=0)
        return loss

    shape = (settings.candidates, gan.generator.latent_dim)
    streams = [stream(seed, "candidates", name) for name in real.ids]
    latents = torch.stack([torch.randn(shape, generator=own) for own in streams], dim=1)
    with torch.no_grad():
        starts = torch.stack([_start(gan, each, labels, settings.space) for each in latents])
        best = torch.stack([losses_of(codes) for codes in starts]).argmin(dim=0)
    codes = starts[best, torch.arange(len(real), device=gan.device)].requires_grad_()
    # Elementwise updates of a sum over images: one optimiser over the table is one optimiser an image.
    optimiser = torch.optim.Adam([codes], lr=settings.learning_rate)
    for step in range(settings.steps_per_image):
        with torch.enable_grad():
            losses = losses_of(codes)
            (codes.grad,) = torch.autograd.grad(losses.sum(), codes)
        optimiser.step()
        if not losses.isfinite().all():
            culprit = real.ids[int(losses.isfinite().int().argmin())]
            raise InversionDiverged(
                f"the GAN inversion of image {culprit!r} is no longer finite after {step + 1} updates: lower "
                "learning_rate."
            )
        yield InversionStep(step + 1, losses.detach(), codes.detach().clone())


def invert_latents(
    gan: FrozenGAN, real: LabelledImages, settings: LatentInversion, *, seed: int
) -> EmbeddingStore:
    """Find, or take from the cache, the codes of every image, as a store of vectors [image, layer, code].

    The codes of an image depend on the GAN, the settings, the seed, its pixels, label and id; to float
    tolerance, not on the other images. Each finished group is cached at once. `losses` are the last ones.
    """
    recipe = (RECIPE, gan.fingerprint, replace(settings, batch_size=1), real.resolution, seed)
    record = provenance(gan=gan.provenance, settings=asdict(settings), seed=seed)
    cache = VectorCache("gan_inversion", recipe, record)
    images = zip(real.ids, real.images, real.labels.tolist(), strict=True)
    keys = [content_key(*image) for image in images]
    learn_missing(
        {settings.steps_per_image: cache},
        real,
        keys,
        groups_of(len(real), settings.batch_size),
        lambda images: latent_inversion_steps(gan, images, settings, seed),
        desc="GAN inversion",
        averaged_share=0,
    )
    return store_of(cache, real, keys)


def render(
    gan: FrozenGAN, codes: Float[Tensor, "image layer code"], labels: Int[np.ndarray, " image"], space: Space
) -> UInt8[np.ndarray, "image height width 3"]:
    """The images of codes of either space, uint8 at the GAN's side."""
    places = torch.tensor(labels, device=gan.device)
    return gan.images(_for_each_layer(gan, codes.to(gan.device), places, space))


@torch.no_grad()
def _start(gan: FrozenGAN, latents: Tensor, labels: Tensor, space: Space) -> Tensor:
    latents = latents.to(gan.device)
    return latents[:, None] if space == "z" else gan.generator.codes(latents, labels)


def _for_each_layer(gan: FrozenGAN, codes: Tensor, labels: Tensor, space: Space) -> Tensor:
    return gan.generator.codes(codes[:, 0], labels) if space == "z" else codes


def _mean_square(difference: Tensor) -> Float[Tensor, " image"]:
    return difference.square().flatten(1).mean(dim=1)
