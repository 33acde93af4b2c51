"""Distances between sets of images, and within them: Fréchet's, of kernels, the nearest image, diversity."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffinv.metrics.neighbours import BLOCK, Features, check_features, nearest_neighbours, sum_of_distances


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


def kernel_distance(features_a: Features, features_b: Features) -> float:
    """The squared maximum mean discrepancy of a cubic kernel, unbiased (KID, if they are Inception's).

    Bińkowski et al. 2018; of whole sets, not of subsets. Unlike Fréchet's it holds for few images: its mean
    does not change with their number, and sets of one kind score 0 on average, so also less.
    """
    width = features_a.shape[1]
    return _unbiased_discrepancy(features_a, features_b, lambda a, b: (a @ b.T / width + 1) ** 3)


def gaussian_distance(features_a: Features, features_b: Features) -> float:
    """The same of a Gaussian kernel between features of length 1, times 1000 (CMMD, if they are CLIP's).

    Jayasumana et al. 2024, whose deviation of 10 it has; their code leaves a bias that this has not.
    """
    a, b = (F.normalize(features.double(), dim=1) for features in (features_a, features_b))
    return 1000 * _unbiased_discrepancy(a, b, lambda a, b: (-torch.cdist(a, b).square() / 200).exp())


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


def _unbiased_discrepancy(
    features_a: Features, features_b: Features, kernel: Callable[[Tensor, Tensor], Tensor]
) -> float:
    check_features(features_a, features_b)
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError("a distance of kernels needs at least 2 images on each side: give more.")
    a, b = features_a.double(), features_b.double()

    def mean(left: Tensor, right: Tensor) -> float:
        blocks = left.split(max(1, BLOCK // len(right)))
        return sum(float(kernel(rows, right).sum()) for rows in blocks) / (len(left) * len(right))

    def mean_of_pairs(own: Tensor) -> float:
        alone = sum(float(kernel(row[None], row[None])) for row in own)
        return (mean(own, own) * len(own) ** 2 - alone) / (len(own) * (len(own) - 1))

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * mean(a, b)


def _covariance_root(features: Float[Tensor, "image feature"]) -> Float[Tensor, "row feature"]:
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R
