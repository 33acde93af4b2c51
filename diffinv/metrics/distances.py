"""Distances between sets of images, and within them: Fréchet's, the nearest image, diversity."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffinv.metrics.neighbours import Features, check_features, nearest_neighbours, sum_of_distances


def image_features(model: Any, images: UInt8[np.ndarray, "image height width 3"]) -> Features:
    """Features of a FrozenClip; of a FrozenDiffusion the mean latents, flattened."""
    if hasattr(model, "image_features"):
        return model.image_features(images)
    if hasattr(model, "latent_moments"):
        return model.latent_moments(images)[0].flatten(1)
    raise ValueError(f"a {type(model).__name__} makes no features: give a FrozenClip or a FrozenDiffusion.")


def frechet_distance(features_a: Features, features_b: Features) -> float:
    """The Fréchet distance of two Gaussians fitted to features (FID, if they are Inception's).

    Biased upwards for few images: compare only sets of the same size.
    """
    check_features(features_a, features_b)
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError("a Fréchet distance needs at least 2 images on each side: give more.")
    a, b = features_a.double(), features_b.double()
    # With covariances A'A and B'B, the trace of (A'A B'B)^(1/2) is the sum of the singular values of A B': no
    # square root of a matrix, and no offset where there are fewer images than features.
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    distance = means + root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(float(distance), 0.0)


def nearest_neighbour_distances(queries: Features, references: Features) -> Float[Tensor, " query"]:
    """Distance of each query to the nearest reference: near 0, a copy."""
    if len(references) == 0:
        raise ValueError("there is no image to compare with: give at least one.")
    return nearest_neighbours(queries, references, 1).distances[:, 0]


def diversity(features: Features, originals: Sequence[Any]) -> float:
    """Mean distance between two samples of one original, averaged over the originals.

    `originals` names the original of each sample (`LabelledImages.sources`). Originals with a single sample
    do not count; ValueError if there are no others.
    """
    spreads = [
        sum_of_distances(features[group]) / math.comb(len(group), 2)
        for group in _members(features, originals)
        if len(group) > 1
    ]
    if not spreads:
        raise ValueError("diversity needs two samples of one original: make more images_per_real.")
    return float(np.mean(spreads))


def diversity_between(features: Features, originals: Sequence[Any]) -> float:
    """Mean distance between two samples of different originals.

    Meant for the samples of one class: those of two classes differ by what they show. ValueError for samples
    of a single original.
    """
    groups = _members(features, originals)
    pairs = math.comb(len(features), 2) - sum(math.comb(len(group), 2) for group in groups)
    if pairs == 0:
        raise ValueError("diversity between originals needs samples of two originals: give more images.")
    within = sum(sum_of_distances(features[group]) for group in groups if len(group) > 1)
    return (sum_of_distances(features) - within) / pairs


def _members(features: Features, originals: Sequence[Any]) -> list[list[int]]:
    if len(originals) != len(features):
        raise ValueError(f"{len(features)} samples have {len(originals)} originals: name one for each.")
    members: dict[Any, list[int]] = {}
    for index, original in enumerate(originals):
        members.setdefault(original, []).append(index)
    return list(members.values())


def _covariance_root(features: Float[Tensor, "image feature"]) -> Float[Tensor, "row feature"]:
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R
