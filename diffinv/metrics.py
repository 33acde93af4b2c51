"""How close to the real images, and how varied, synthetic ones are: distances between features of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from diffinv.neighbours import (
    Crossing,
    Features,
    check_features,
    cross,
    nearest_neighbours,
    sum_of_distances,
)


def image_features(model: Any, images: UInt8[np.ndarray, "image height width 3"]) -> Features:
    """Features of a FrozenClip; of a FrozenDiffusion the mean latents, flattened."""
    if hasattr(model, "image_features"):
        return model.image_features(images)
    if hasattr(model, "latent_moments"):
        return model.latent_moments(images)[0].flatten(1)
    raise ValueError(f"a {type(model).__name__} makes no features: give a FrozenClip or a FrozenDiffusion.")


@dataclass(frozen=True, eq=False)
class Manifolds:
    """How two sets lie on each other's manifolds, image by image; the four metrics are their means.

    A manifold is the union of balls about its images, each reaching to the k-th neighbour among themselves
    (Kynkäänniemi et al. 2019). Means over a class are the metrics of its images in the whole.
    """

    num_neighbours: int
    real_balls: Int[Tensor, " synthetic"]  # number of real balls that a synthetic image lies in
    holds_synthetic: Bool[Tensor, " real"]  # whether a real ball holds a synthetic image
    on_synthetic: Bool[Tensor, " real"]  # whether a real image lies on the synthetic manifold
    nearest: Float[Tensor, " synthetic"]  # distance to the nearest real image
    nearest_index: Int[Tensor, " synthetic"]

    def precision(self, synthetic: Any = slice(None)) -> float:
        """Share of the synthetic images on the real manifold (Kynkäänniemi et al. 2019, eq. 3)."""
        return _share(self.real_balls[synthetic] > 0)

    def recall(self, real: Any = slice(None)) -> float:
        """Share of the real images on the synthetic manifold (Kynkäänniemi et al. 2019, eq. 3)."""
        return _share(self.on_synthetic[real])

    def density(self, synthetic: Any = slice(None)) -> float:
        """In how many real balls a synthetic image lies, over k (Naeem et al. 2020, eq. 4); may exceed 1."""
        return _share(self.real_balls[synthetic]) / self.num_neighbours

    def coverage(self, real: Any = slice(None)) -> float:
        """Share of the real balls that hold a synthetic image (Naeem et al. 2020, eq. 5)."""
        return _share(self.holds_synthetic[real])


def manifolds(
    real: Features,
    synthetic: Features,
    *,
    num_neighbours: int = 5,
    real_radii: Float[Tensor, " real"] | None = None,
    synthetic_radii: Float[Tensor, " synthetic"] | None = None,
) -> Manifolds:
    """Compare two sets in one pass over their distances.

    Radii that are known already, `ball_radii` of a set, need not be computed again.
    """
    check_features(real, synthetic)
    if real_radii is None:
        real_radii = ball_radii(real, num_neighbours)
    if synthetic_radii is None:
        synthetic_radii = ball_radii(synthetic, num_neighbours)
    found = cross(synthetic, real, real_radii, synthetic_radii)
    return Manifolds(
        num_neighbours=num_neighbours,
        real_balls=found.balls_about,
        holds_synthetic=found.centre_holds,
        on_synthetic=found.centre_held,
        nearest=found.nearest,
        nearest_index=found.nearest_index,
    )


def ball_radii(features: Features, num_neighbours: int) -> Float[Tensor, " image"]:
    """Distance of each image to its k-th neighbour among the others."""
    return nearest_neighbours(features, features, num_neighbours, leave_one_out=True).distances[:, -1]


def precision(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """`Manifolds.precision`; the synthetic set may be smaller than k."""
    return _share(_in_real_balls(real, synthetic, num_neighbours).balls_about > 0)


def recall(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """`Manifolds.recall`; the real set may be smaller than k."""
    return precision(synthetic, real, num_neighbours=num_neighbours)


def density(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """`Manifolds.density`; the synthetic set may be smaller than k."""
    return _share(_in_real_balls(real, synthetic, num_neighbours).balls_about) / num_neighbours


def coverage(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """`Manifolds.coverage`; the synthetic set may be smaller than k."""
    return _share(_in_real_balls(real, synthetic, num_neighbours).centre_holds)


def manifold_metrics(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage by their names."""
    found = manifolds(real, synthetic, num_neighbours=num_neighbours)
    return {name: getattr(found, name)() for name in ("precision", "recall", "density", "coverage")}


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
    check_features(queries, references)
    if len(references) == 0:
        raise ValueError("there is no image to compare with: give at least one.")
    return nearest_neighbours(queries, references, 1).distances[:, 0]


def diversity(features: Features, originals: Sequence[Any]) -> float:
    """Mean distance between two samples of one original, averaged over the originals.

    `originals` names the original of each sample (`LabelledImages.sources`). Originals with a single sample
    do not count; ValueError if there are no others.
    """
    spreads = [
        sum_of_distances(features[group]) / _pairs(len(group))
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
    pairs = _pairs(len(features)) - sum(_pairs(len(group)) for group in groups)
    if pairs == 0:
        raise ValueError("diversity between originals needs samples of two originals: give more images.")
    within = sum(sum_of_distances(features[group]) for group in groups if len(group) > 1)
    return (sum_of_distances(features) - within) / pairs


def _in_real_balls(real: Features, synthetic: Features, num_neighbours: int) -> Crossing:
    check_features(real, synthetic)
    return cross(synthetic, real, ball_radii(real, num_neighbours))


def _members(features: Features, originals: Sequence[Any]) -> list[list[int]]:
    if len(originals) != len(features):
        raise ValueError(f"{len(features)} samples have {len(originals)} originals: name one for each.")
    members: dict[Any, list[int]] = {}
    for index, original in enumerate(originals):
        members.setdefault(original, []).append(index)
    return list(members.values())


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _share(values: Tensor) -> float:
    return float(values.double().mean())


def _covariance_root(features: Float[Tensor, "image feature"]) -> Float[Tensor, "row feature"]:
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R
