"""From learned vectors to conditioning for sampling: noise, interpolation, the unconditional vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffinv.foundation.checks import check_fields
from diffinv.foundation.randomness import sample_streams
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion

Unconditional = Literal["mean", "class_mean", "empty_prompt"]


@dataclass(frozen=True)
class Perturbation:
    """How far a sample's conditioning may stray from its image's own vectors (sections 3.2 and 4.3)."""

    noise_std: float = 0.1  # the paper's lambda; 0 = none
    interpolation_weight: float = 0.1  # of the same-class partner; the paper's alpha = 1 - it; 0 = none
    unconditional: Unconditional = "mean"  # what guidance steers away from

    def __post_init__(self) -> None:
        check_fields(self, at_least={"noise_std": 0}, between={"interpolation_weight": (0, 1)})


def conditioning_for(
    store: EmbeddingStore, sources: Sequence[int], copies: Sequence[int], settings: Perturbation, seed: int
) -> Float[Tensor, "sample token channel"]:
    """Make the perturbed conditioning vectors of samples, each named by its source image and copy number.

    A row depends on the seed, the source's id, the copy number and, when interpolating, on which images of
    its class the store holds; never on the other rows.
    """
    embeddings = store.embeddings[list(sources)]
    if settings.interpolation_weight > 0:
        chosen = store.embeddings[partners(store, sources, copies, seed)]
        embeddings = interpolate(embeddings, chosen, settings.interpolation_weight)
    streams = sample_streams(seed, "embedding noise", store.ids, sources, copies)
    return add_noise(embeddings, settings.noise_std, streams)


def partners(store: EmbeddingStore, sources: Sequence[int], copies: Sequence[int], seed: int) -> list[int]:
    """Draw for each sample another image of its source's class, as a row of the store.

    Raises ValueError where a class has no other image.
    """
    labels = store.labels.numpy()
    require_partners(labels[list(sources)], labels, store.class_names)
    chosen = []
    streams = sample_streams(seed, "partner", store.ids, sources, copies)
    for source, generator in zip(sources, streams, strict=True):
        # differs from upstream: a partner never equals self and never comes from another class
        members = store.classmates[int(labels[source])]
        draw = int(torch.randint(len(members) - 1, (), generator=generator))
        chosen.append(int(members[draw + int(draw >= store.places_in_class[source])]))
    return chosen


def require_partners(
    wanted: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray, class_names: Sequence[str]
) -> None:
    """Raise ValueError if a wanted class has but one image, so that interpolation would have no partner."""
    present, counts = np.unique(np.asarray(labels), return_counts=True)
    for label in set(np.asarray(wanted).tolist()) & set(present[counts < 2].tolist()):
        raise ValueError(
            f"Class {class_names[label]!r} has a single image and so no partner to interpolate with; "
            "set interpolation_weight=0 or give it a second image."
        )


def interpolate(
    first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"], weight: float
) -> Float[Tensor, "*shape"]:
    """Mix two sets of vectors: weight 0 is exactly the first, 1 exactly the second (figure 9)."""
    return torch.lerp(first, second, weight)


def add_noise(
    embeddings: Float[Tensor, "sample token channel"], noise_std: float, streams: Sequence[torch.Generator]
) -> Float[Tensor, "sample token channel"]:
    """Add Gaussian noise of this absolute deviation, each sample's from its own stream; 0 is the identity."""
    if noise_std == 0:
        return embeddings
    shape = embeddings.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=own) for own in streams]) if streams else embeddings
    return embeddings + noise_std * noise.to(embeddings)


def unconditional_embedding(
    store: EmbeddingStore,
    kind: Unconditional,
    diffusion: FrozenDiffusion,
    labels: Sequence[int] | Int[np.ndarray, " sample"] | Int[Tensor, " sample"],
) -> Float[Tensor, "one_or_sample unconditional_token channel"]:
    """Make the vectors that guidance steers away from: one row for all samples, or one each for "class_mean".

    "mean" is the mean of all learned vectors (section 3.2), "class_mean" that of the sample's class,
    "empty_prompt" is the text encoder's answer to "", whose number of tokens may differ.
    """
    if kind == "empty_prompt":
        return diffusion.encode_prompt([""])
    if kind == "mean":
        return store.mean()[None]
    wanted = torch.as_tensor(labels).tolist()
    means = {label: store.class_mean(label) for label in set(wanted)}
    return torch.stack([means[label] for label in wanted])
