"""A small class-conditional GAN: its networks, its training, what comes out frozen, and its inversion."""

from diffinv.adversarial.architectures import Discriminator, Generator, build_networks, working_side
from diffinv.adversarial.augmentation import augment_differentiably
from diffinv.adversarial.frozen import FrozenGAN, OnCollapse, check_on_collapse, train_gan
from diffinv.adversarial.inversion import (
    LatentInversion,
    LatentInversionStep,
    invert_latents,
    latent_inversion_steps,
    render,
)
from diffinv.adversarial.training import (
    GANCollapsed,
    GANDiverged,
    GANState,
    GANStep,
    GANTraining,
    gan_steps,
)

__all__ = [
    "Discriminator",
    "FrozenGAN",
    "GANCollapsed",
    "GANDiverged",
    "GANState",
    "GANStep",
    "GANTraining",
    "Generator",
    "LatentInversion",
    "LatentInversionStep",
    "OnCollapse",
    "augment_differentiably",
    "build_networks",
    "check_on_collapse",
    "gan_steps",
    "invert_latents",
    "latent_inversion_steps",
    "render",
    "train_gan",
    "working_side",
]
