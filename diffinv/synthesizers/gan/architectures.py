"""DCGAN's body (Radford et al. 2016), conditioned as BigGAN is, against a projection discriminator."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from diffinv.foundation.randomness import stream

SMALLEST_RESOLUTION = 8  # below it there is no place for two layers
WIDEST = 8  # times `channels`: the width of the coarsest maps of large images
NORM_GROUPS = 4


def working_side(resolution: int) -> int:
    """The side at which images of this one are made: 4, 5, 6 or 7 doubled until it is no smaller.

    28, 32, 64, 96 and 128 are their own. ValueError below 8.
    """
    if resolution < SMALLEST_RESOLUTION:
        remedy = f"resize them to {SMALLEST_RESOLUTION} px or more"
        raise ValueError(f"images of {resolution} px are too small for the GAN: {remedy}.")
    doubled = 2 ** _doublings(resolution)
    return doubled * -(-resolution // doubled)


class ModulatedNorm(nn.Module):
    """Group normalisation whose scale and shift are linear in the image's code.

    Not over the batch: a sample must not depend on what else is drawn, and the averaged generator would need
    statistics of its own.
    """

    def __init__(self, width: int, code_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(code_width, 2 * width)

    def forward(self, x: Float[Tensor, "image c h w"], code: Float[Tensor, "image code"]) -> Tensor:
        scale, shift = self.modulation(code)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, F.group_norm(x, NORM_GROUPS), 1 + scale)


class Generator(nn.Module):
    """From a code for each layer to pixels in [-1, 1].

    A code is the latent z followed by the embedding of the class, as in BigGAN (Brock et al. 2019). In
    training all layers of an image share one; an inversion may give each its own.
    """

    def __init__(self, side: int, num_classes: int, latent_dim: int, channels: int) -> None:
        super().__init__()
        self.latent_dim, self.num_layers = latent_dim, _doublings(side)
        self.code_width = 2 * latent_dim
        self.class_embedding = nn.Embedding(num_classes, latent_dim)
        self.base = side // 2**self.num_layers
        widths = _widths(channels, self.num_layers)[::-1]
        self.stem = nn.Linear(self.code_width, widths[0] * self.base**2)
        self.norms = nn.ModuleList(ModulatedNorm(width, self.code_width) for width in widths)
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(width, after, 4, stride=2, padding=1)
            for width, after in zip(widths, [*widths[1:], 3], strict=True)
        )

    def codes(
        self, latents: Float[Tensor, "image latent"], labels: Int[Tensor, " image"]
    ) -> Float[Tensor, "image layer code"]:
        """The same code for every layer of an image."""
        code = torch.cat([latents, self.class_embedding(labels)], dim=1)
        return code[:, None].expand(-1, self.num_layers, -1)

    def forward(self, codes: Float[Tensor, "image layer code"]) -> Float[Tensor, "image 3 side side"]:
        x = self.stem(codes[:, 0]).unflatten(1, (-1, self.base, self.base))
        for layer, (norm, upsample) in enumerate(zip(self.norms, self.upsamplings, strict=True)):
            x = upsample(F.relu(norm(x, codes[:, layer])))
        return x.tanh()


class Discriminator(nn.Module):
    """From pixels and a class to one number, high for real ones (Miyato & Koyama 2018), spectrally normed."""

    def __init__(self, side: int, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = _widths(channels, _doublings(side))
        places = (side // 2 ** len(widths)) ** 2
        self.downsamplings = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, width, 4, stride=2, padding=1))
            for before, width in zip([3, *widths[:-1]], widths, strict=True)
        )
        # Over all places at once: a mean over them would judge patches, and shapes would go unnoticed.
        self.whole = spectral_norm(nn.Linear(widths[-1] * places, widths[-1]))
        self.head = spectral_norm(nn.Linear(widths[-1], 1))
        self.class_embedding = spectral_norm(nn.Embedding(num_classes, widths[-1]))

    def features(self, pixels: Float[Tensor, "image 3 side side"]) -> list[Tensor]:
        """The maps after each layer, finest first."""
        maps = []
        for downsample in self.downsamplings:
            pixels = F.leaky_relu(downsample(pixels), 0.2)
            maps.append(pixels)
        return maps

    def forward(
        self, pixels: Float[Tensor, "image 3 side side"], labels: Int[Tensor, " image"]
    ) -> Float[Tensor, " image"]:
        whole = F.leaky_relu(self.whole(self.features(pixels)[-1].flatten(1)), 0.2)
        return self.head(whole)[:, 0] + (self.class_embedding(labels) * whole).sum(dim=1)


def build_networks(
    side: int, num_classes: int, latent_dim: int, channels: int, *, seed: int
) -> tuple[Generator, Discriminator]:
    """A fresh pair for images of a working side; the weights come from `seed` alone."""
    # Spectral normalisation draws its first vectors from the global generator, which is put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "gan", "weights").initial_seed())
        generator = Generator(side, num_classes, latent_dim, channels)
        discriminator = Discriminator(side, num_classes, channels)
    return generator, discriminator


def _doublings(side: int) -> int:
    # 29 to 31 round up to 32, which doubles once more than 28 does.
    doublings = (side // 4).bit_length() - 1
    return doublings + (side > 7 * 2**doublings)


def _widths(channels: int, levels: int) -> list[int]:
    # Twice as wide at half the side, as far as the widest; finest first.
    return [channels * min(2**level, WIDEST) for level in range(levels)]
