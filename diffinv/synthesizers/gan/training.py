"""Training a GAN on a small set of images: hinge loss, augmentation on both sides, an averaged generator."""

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.foundation.networks import best_device
from diffinv.foundation.randomness import numpy_stream, stream
from diffinv.metrics.distances import diversity
from diffinv.synthesizers.gan.architectures import Generator, build_networks, working_side
from diffinv.synthesizers.gan.augmentation import augment_differentiably

STEPS_PER_CHECK = 250  # between two looks for a collapse; also what a kill can lose
IMAGES_PER_CHECK = 32  # of each class
# What counts as a collapse. A GAN that works has about the diversity of the real images, and a discriminator
# that is often wrong; one that made a single trembling digit of each class was seen at 0.3.
LEAST_DIVERSITY = 0.4  # within a class, as a share of the real images'
LEAST_DISCRIMINATOR_LOSS = 0.05  # averaged over some hundred steps; 2 = guessing


class GANCollapsed(ValueError):
    """The generator makes the same image of a class again and again, or learns nothing from its critic."""


class GANDiverged(ValueError):
    """A loss of the GAN became infinite or not a number."""


@dataclass(frozen=True)
class GANTraining:
    """How the GAN is trained; every field has a bearing on the result, the batch size too."""

    optimiser_steps: int = 4000  # updates of the generator
    discriminator_updates: int = 1  # for each of the generator's
    batch_size: int = 64
    generator_learning_rate: float = 4e-4
    discriminator_learning_rate: float = 4e-4
    latent_dim: int = 64  # of z, and of a class's embedding
    channels: int = 32  # of the finest maps; doubled with each halving of the side, up to eightfold
    ema_decay: float = 0.998  # a step, of the averaged generator that is kept
    augment: bool = True  # differentiably, so that few images suffice
    # Of a penalty on images of a class that differ less than the real ones do (Yang et al. 2019, bounded by
    # the real images); without it a small set ends in one image per class.
    diversity_weight: float = 2.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("optimiser_steps", "discriminator_updates", "latent_dim"),
            at_least={"batch_size": 2, "diversity_weight": 0},
            above_zero=("generator_learning_rate", "discriminator_learning_rate"),
            below_one=("ema_decay",),
        )
        if self.channels < 4 or self.channels % 4:
            raise ValueError(f"channels is {self.channels}: choose a multiple of 4.")


class GANState:
    """All that a step changes: both networks, their optimisers, the averaged generator, and the counts."""

    def __init__(
        self, real: LabelledImages, settings: GANTraining, *, seed: int, device: torch.device
    ) -> None:
        side, sizes = working_side(real.resolution), (settings.latent_dim, settings.channels)
        networks = build_networks(side, real.num_classes, *sizes, seed=seed)
        for network in networks:  # a tenth faster on CPUs than the default
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator, self.discriminator = networks
        self.averaged = deepcopy(self.generator).requires_grad_(False)
        self.device = device
        rates = (settings.generator_learning_rate, settings.discriminator_learning_rate)
        self.optimisers = [
            torch.optim.Adam(network.parameters(), lr=rate, betas=(0.0, 0.99), fused=True)
            for network, rate in zip(networks, rates, strict=True)
        ]
        self.steps_done, self.seconds = 0, 0.0
        self.mean_discriminator_loss = 2.0  # running; that of a discriminator which says 0 to everything
        self.diversity: float | None = None  # when last looked at; a share of the real images'
        self.collapsed_since: int | None = None  # the first look of an unbroken row that found a collapse


def gan_steps(
    real: LabelledImages, settings: GANTraining, seed: int, *, state: GANState | None = None
) -> Iterator[GANState]:
    """Train from a fresh state, or on from a given one, which is yielded, alive, after each step.

    A pure function of the images, the settings and the seed, to the last bit on one machine with one number
    of threads. Classes are drawn as often as they are in `real`. GANDiverged for a loss that is not finite.
    """
    if not len(real):
        raise ValueError("there is no image to train a GAN on: give a dataset with at least one.")
    state = state or GANState(real, settings, seed=seed, device=torch.device(best_device()))
    pixels = as_pixels(real, working_side(real.resolution), state.device)
    labels = torch.tensor(real.labels, device=state.device)
    few = _first_of_each_class(real.labels)
    real_diversity = _diversity(pixels[few], labels[few])
    while state.steps_done < settings.optimiser_steps:
        started = time.perf_counter()
        discriminator_loss, generator_loss = _step(state, pixels, labels, settings, seed, real_diversity)
        state.steps_done += 1
        state.seconds += time.perf_counter() - started
        if not math.isfinite(discriminator_loss + generator_loss):
            raise GANDiverged(
                f"a loss of the GAN of seed {seed} is no longer finite at step {state.steps_done}: lower "
                "both learning rates."
            )
        state.mean_discriminator_loss += 0.01 * (discriminator_loss - state.mean_discriminator_loss)
        if state.steps_done % STEPS_PER_CHECK == 0 or state.steps_done == settings.optimiser_steps:
            _look_for_collapse(state, labels[few], real_diversity, seed)
        yield state


def as_pixels(real: LabelledImages, side: int, device: torch.device) -> Float[Tensor, "image 3 side side"]:
    """The images at this side, in the generator's range of -1 to 1."""
    images = torch.tensor(real.resize(side).images, device=device)
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def describe_collapse(state: GANState, seed: int) -> str | None:
    """One sentence about a collapse that lasts, with what to try; None for a GAN that works."""
    if state.collapsed_since is None:
        return None
    found = f"the discriminator's mean loss is {state.mean_discriminator_loss:.3f}"
    if state.diversity is not None and state.diversity < LEAST_DIVERSITY:
        found = f"images of a class differ by {state.diversity:.0%} of what real ones do"
    return (
        f"the GAN of seed {seed} has collapsed since step {state.collapsed_since} or before ({found}): "
        "raise optimiser_steps or diversity_weight, lower discriminator_learning_rate, keep augment on, give "
        "more real images, or try another seed."
    )


def _step(
    state: GANState,
    pixels: Float[Tensor, "image 3 side side"],
    labels: Int[Tensor, " image"],
    settings: GANTraining,
    seed: int,
    real_diversity: float | None,
) -> tuple[float, float]:
    # All that is random in a step comes from the seed and its number: a resumed run goes on as the first one.
    random = stream(seed, "gan", "step", state.steps_done)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for update in range(settings.discriminator_updates):
            number = state.steps_done * settings.discriminator_updates + update
            batch = _batch(len(pixels), settings.batch_size, seed, number).to(state.device)
            # Two images of a class each, so that how they differ can be seen.
            classes = labels[batch[: len(batch) // 2]].repeat(2)
            fake = state.generator(_codes(state.generator, classes, random))
            both, both_labels = torch.cat([pixels[batch], fake.detach()]), torch.cat([labels[batch], classes])
            verdicts = _judge(state, both, both_labels, settings, random)
            of_real, of_fake = verdicts.split([len(batch), len(fake)])
            discriminator_loss = F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()
            _descend(state.optimisers[1], discriminator_loss)
        # The last images again, before the critic that they have just taught: half the work of new ones.
        state.discriminator.requires_grad_(False)
        generator_loss = -_judge(state, fake, classes, settings, random).mean()
        if real_diversity:
            first, second = fake.flatten(1).chunk(2)
            shortfall = F.relu(1 - (first - second).norm(dim=1).mean() / real_diversity)
            generator_loss = generator_loss + settings.diversity_weight * shortfall
        _descend(state.optimisers[0], generator_loss)
        state.discriminator.requires_grad_(True)
    # A young average would be dominated by the first weights, hence the ramp.
    decay = min(settings.ema_decay, (1 + state.steps_done) / (10 + state.steps_done))
    with torch.no_grad():
        for mean, weight in zip(state.averaged.parameters(), state.generator.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
    return discriminator_loss.item(), generator_loss.item()


def _judge(
    state: GANState, images: Tensor, labels: Tensor, settings: GANTraining, random: torch.Generator
) -> Float[Tensor, " image"]:
    shown = augment_differentiably(images, random) if settings.augment else images
    return state.discriminator(shown, labels)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _codes(generator: Generator, labels: Int[Tensor, " image"], random: torch.Generator) -> Tensor:
    latents = torch.randn(len(labels), generator.latent_dim, generator=random)
    return generator.codes(latents.to(labels.device), labels)


def _batch(count: int, batch_size: int, seed: int, number: int) -> Int[Tensor, " index"]:
    # Batches are cut from an endless row of permutations: every image comes as often as any other, and a set
    # smaller than the batch still fills it.
    places = np.arange(number * batch_size, (number + 1) * batch_size)
    epochs, within = np.divmod(places, count)
    orders = {epoch: numpy_stream(seed, "gan", "epoch", epoch).permutation(count) for epoch in set(epochs)}
    return torch.tensor([orders[epoch][place] for epoch, place in zip(epochs, within, strict=True)])


def _look_for_collapse(
    state: GANState, labels: Int[Tensor, " image"], real_diversity: float | None, seed: int
) -> None:
    if real_diversity:
        with torch.no_grad():
            fake = state.averaged(_codes(state.averaged, labels, stream(seed, "gan", "check")))
        state.diversity = (_diversity(fake, labels) or 0.0) / real_diversity
    uniform = state.diversity is not None and state.diversity < LEAST_DIVERSITY
    if not uniform and state.mean_discriminator_loss >= LEAST_DISCRIMINATOR_LOSS:
        state.collapsed_since = None
    elif state.collapsed_since is None:
        state.collapsed_since = state.steps_done


def _diversity(pixels: Float[Tensor, "image 3 side side"], labels: Int[Tensor, " image"]) -> float | None:
    # None where no class has two images.
    if labels.unique().numel() == len(labels):
        return None
    return diversity(pixels.flatten(1).cpu(), labels.tolist())


def _first_of_each_class(labels: Int[np.ndarray, " image"]) -> Int[Tensor, " index"]:
    rows = [np.flatnonzero(labels == label)[:IMAGES_PER_CHECK] for label in np.unique(labels)]
    return torch.from_numpy(np.concatenate(rows))
