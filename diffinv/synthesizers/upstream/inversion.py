"""Stage 1 as upstream does it: a linear layer's start, one dense AdamW a group, images encoded every step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.parts import groups_of
from diffinv.artefacts.vectors import VectorCache
from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import stream
from diffinv.method.cached import inversion_record, invert, learn_missing, store_of
from diffinv.method.inversion import (
    RECIPE,
    STEPS_PER_CHUNK,
    Inversion,
    InversionStep,
    check_finite,
    check_invertible,
    denoising_losses,
    draw_chunk,
    initial_embeddings,
)
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.synthesizers.upstream.settings import Switches

Moments = tuple[Float[Tensor, "row latent_channel h w"], Float[Tensor, "row latent_channel h w"]]


def invert_as_upstream(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    settings: Inversion,
    switches: Switches,
    *,
    cache_dir: Path | None = None,
) -> EmbeddingStore:
    """Learn, or take from the cache, the vectors of every image; with no switch of this stage, as `invert`.

    With the dense optimiser the vectors of an image depend on its whole group of `switches.group_size`
    consecutive images and on `settings.batch_size`. Each group is cached as it is finished. Raises as
    `invert` does.
    """
    # Of the switches, those of this stage; the batch size counts, as it decides which rows move together.
    names = ("initialisation", "optimiser", "encoding", "group_size")
    own = Switches(**{name: getattr(switches, name) for name in names})
    if own == Switches(group_size=switches.group_size):
        return invert(diffusion, real, settings, cache_dir=cache_dir)
    check_invertible(diffusion, real, settings)
    recipe = (RECIPE, diffusion.fingerprint, str(diffusion.dtype), settings, own, real.resolution)
    record = inversion_record(diffusion, real.resolution, settings, upstream=asdict(switches))
    cache = VectorCache("inversion", recipe, record, cache_dir)
    size = switches.group_size if switches.optimiser == "dense" else settings.batch_size
    groups = groups_of(len(real), size)
    parts = [real.subset(group) for group in groups]
    keys = [content_key(part.fingerprint, list(part.ids), row) for part in parts for row in range(len(part))]
    learn_missing(
        {settings.steps_per_image: cache},
        real,
        keys,
        groups,
        lambda group: upstream_inversion_steps(diffusion, group, settings, switches),
    )
    return store_of(cache, real, keys)


def upstream_inversion_steps(
    diffusion: FrozenDiffusion, group: LabelledImages, settings: Inversion, switches: Switches
) -> Iterator[InversionStep]:
    """Update the vectors of one group, yielding when every image has had its update.

    Noise and timesteps are those of `inversion_steps`: image by image they differ by the switches alone. The
    dense optimiser takes the images in batches of `settings.batch_size`, always in the same order.
    """
    dense = switches.optimiser == "dense"
    batches = torch.arange(len(group)).split(settings.batch_size if dense else len(group))
    moments = _moments(diffusion, group, switches)
    embeddings = _start(diffusion, group, settings, switches).to(diffusion.device).requires_grad_()
    optimiser = torch.optim.AdamW([embeddings], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    losses = torch.zeros(len(group), device=diffusion.device)
    side = group.resolution // diffusion.downsampling_factor
    shape = (diffusion.latent_channels, side, side)
    # As in `inversion_steps`: the gradient of a mean over thousands of elements underflows in float16.
    gradient_scale = float(math.prod(shape)) if diffusion.dtype == torch.float16 else 1.0
    for step in range(settings.steps_per_image):
        chunk, place = divmod(step, STEPS_PER_CHUNK)
        if place == 0:
            drawn = draw_chunk(settings, group.ids, shape, diffusion.num_train_timesteps, chunk)
            noise, timesteps = (numbers.to(diffusion.device) for numbers in drawn)
        for rows in batches:
            mean, std = moments(rows)
            latents = mean + std * noise[rows, place, 0]
            with torch.enable_grad():
                own = denoising_losses(
                    diffusion, embeddings[rows], latents, noise[rows, place, 1], timesteps[rows, place]
                )
                (gradient,) = torch.autograd.grad(own.sum() * gradient_scale, embeddings)
            # Upstream's loss is the mean over the batch. Rows outside it have a gradient of zero, not none.
            embeddings.grad = gradient / gradient_scale / (len(rows) if dense else 1)
            optimiser.step()
            losses[rows] = own.detach()
        if place == STEPS_PER_CHUNK - 1 or step == settings.steps_per_image - 1:
            check_finite(losses, embeddings, group.ids, step + 1)
        yield InversionStep(step + 1, losses.clone(), embeddings.detach().clone())


def _start(
    diffusion: FrozenDiffusion, group: LabelledImages, settings: Inversion, switches: Switches
) -> Float[Tensor, "image token channel"]:
    if switches.initialisation == "ours":
        return initial_embeddings(diffusion, group, settings)
    # torch.nn.Linear's default over one-hot ids. Its fan-in is the size of a full group, even in a short one.
    bound = 1 / math.sqrt(switches.group_size)
    shape = (settings.num_tokens, diffusion.embedding_width)
    streams = [stream(settings.seed, "linear start", image_id) for image_id in group.ids]
    return bound * (2 * torch.stack([torch.rand(shape, generator=own) for own in streams]) - 1)


def _moments(
    diffusion: FrozenDiffusion, group: LabelledImages, switches: Switches
) -> Callable[[Int[Tensor, " row"]], Moments]:
    def encode(rows: Int[Tensor, " row"]) -> Moments:
        mean, std = diffusion.latent_moments(group.images[rows.numpy()])
        return mean.to(diffusion.device), std.to(diffusion.device)

    if switches.encoding == "every_step":
        return encode
    mean, std = encode(torch.arange(len(group)))
    return lambda rows: (mean[rows], std[rows])
