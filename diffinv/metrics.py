"""How close to the real images, and how varied, synthetic ones are: distances between features of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# The numbers of images and of features are checked by hand: two sets need not be of one size, and features of
# two models get a sentence.
Features = Float[Tensor, "_ _"]
CHUNK = 512  # rows of a distance matrix held at once


def image_features(model: Any, images: UInt8[np.ndarray, "image height width 3"]) -> Features:
    """Features of a FrozenClip; of a FrozenDiffusion the mean latents, flattened."""
    if hasattr(model, "image_features"):
        return model.image_features(images)
    if hasattr(model, "latent_moments"):
        return model.latent_moments(images)[0].flatten(1)
    raise ValueError(f"a {type(model).__name__} makes no features: give a FrozenClip or a FrozenDiffusion.")


def precision(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """Share of the synthetic images on the real manifold (Kynkäänniemi et al. 2019, eq. 3).

    A manifold is the union of balls about its images, each reaching to the k-th neighbour among themselves.
    """
    _check(real, synthetic)
    inside = _inside(synthetic, real, num_neighbours)
    return float(inside.any(dim=1).double().mean())


def recall(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """Share of the real images on the synthetic manifold (Kynkäänniemi et al. 2019, eq. 3)."""
    return precision(synthetic, real, num_neighbours=num_neighbours)


def density(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """In how many real balls a synthetic image lies, over k (Naeem et al. 2020, eq. 4); may exceed 1."""
    _check(real, synthetic)
    inside = _inside(synthetic, real, num_neighbours)
    return float(inside.sum(dim=1).double().mean() / num_neighbours)


def coverage(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """Share of the real balls that hold a synthetic image (Naeem et al. 2020, eq. 5)."""
    _check(real, synthetic)
    return float(_inside(synthetic, real, num_neighbours).any(dim=0).double().mean())


def manifold_metrics(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage by their names."""
    functions = (precision, recall, density, coverage)
    return {f.__name__: f(real, synthetic, num_neighbours=num_neighbours) for f in functions}


def frechet_distance(features_a: Features, features_b: Features) -> float:
    """The Fréchet distance of two Gaussians fitted to features (FID, if they are Inception's).

    Biased upwards for few images: compare only sets of the same size.
    """
    _check(features_a, features_b)
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
    _check(queries, references)
    if len(references) == 0:
        raise ValueError("there is no image to compare with: give at least one.")
    return torch.cat([_distances(chunk, references).amin(dim=1) for chunk in queries.split(CHUNK)])


def diversity(features: Features, originals: Sequence[Any]) -> float:
    """Mean distance between two samples of one original, averaged over the originals.

    `originals` names the original of each sample (`LabelledImages.sources`). Originals with a single sample
    do not count; ValueError if there are no others.
    """
    if len(originals) != len(features):
        raise ValueError(f"{len(features)} samples have {len(originals)} originals: name one for each.")
    members: dict[Any, list[int]] = {}
    for index, original in enumerate(originals):
        members.setdefault(original, []).append(index)
    spreads = [
        torch.nn.functional.pdist(features[group].double()).mean()
        for group in members.values()
        if len(group) > 1
    ]
    if not spreads:
        raise ValueError("diversity needs two samples of one original: make more images_per_real.")
    return float(torch.stack(spreads).mean())


def _inside(points: Features, centres: Features, num_neighbours: int) -> Tensor:
    # [point, centre]: whether the point lies in the ball of the centre.
    if not 1 <= num_neighbours < len(centres):
        raise ValueError(
            f"{num_neighbours} neighbours cannot be found among {len(centres)} images: "
            "give more images, or choose num_neighbours from 1 to one less than their number."
        )
    # The nearest of all is the image itself, at distance 0.
    radii = torch.cat(
        [
            _distances(chunk, centres).kthvalue(num_neighbours + 1, dim=1).values
            for chunk in centres.split(CHUNK)
        ]
    )
    return torch.cat([_distances(chunk, centres) <= radii for chunk in points.split(CHUNK)])


def _distances(a: Float[Tensor, "a feature"], b: Float[Tensor, "b feature"]) -> Float[Tensor, "a b"]:
    # The shortcut by a matrix product loses the small distances, which are the ones that count here.
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _covariance_root(features: Float[Tensor, "image feature"]) -> Float[Tensor, "row feature"]:
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def _check(a: Features, b: Features) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and of {b.shape[1]} numbers differ: use one model for both."
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("a feature is infinite or not a number: check the images and the model.")
