"""What an evaluation card rests on: features and neighbours of a synthetic set and a real one."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffinv.datasets import LabelledImages
from diffinv.metrics.copies import Closeness, closeness
from diffinv.metrics.distances import image_features
from diffinv.metrics.manifolds import Manifolds, manifolds
from diffinv.metrics.neighbours import Features, nearest_neighbours

REAL, SYNTHETIC = "real", "synthetic"


@dataclass(frozen=True, eq=False)
class Measured:
    """A set of images with its features, and how far its images are from each other."""

    images: LabelledImages
    features: Features
    own_distances: Float[Tensor, " image"]  # to the nearest other image
    radii: Float[Tensor, " image"]  # to the k-th nearest


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything measured of a synthetic set, and of test images in its place."""

    real: Measured
    synthetic: Measured
    on_manifolds: Manifolds
    copies: Closeness  # of the synthetic images to the real ones
    test: Measured | None = None
    leaks: Closeness | None = None  # of the synthetic images to the test images
    test_on_manifolds: Manifolds | None = None  # the test images in the place of the synthetic ones
    test_copies: Closeness | None = None  # of the test images to the real ones
    real_leaks: Closeness | None = None  # of the real images to the test images


def measure(images: LabelledImages, clip: Any, num_neighbours: int, role: str) -> Measured:
    """Features and distances within a set; ValueError if it has no more than `num_neighbours` images."""
    if len(images) <= num_neighbours:
        raise ValueError(
            f"there are only {len(images)} {role} images, and each needs {num_neighbours} neighbours: "
            f"give more, or choose a smaller k."
        )
    features = image_features(clip, images.images)
    others = nearest_neighbours(features, features, num_neighbours, leave_one_out=True).distances
    return Measured(images, features, own_distances=others[:, 0], radii=others[:, -1])


def gather(
    real: LabelledImages,
    synthetic: LabelledImages,
    test: LabelledImages | None,
    *,
    clip: Any,
    num_neighbours: int,
    quantile: float,
) -> Evidence:
    """Measure the sets, and how each lies about the real one."""
    of_real = measure(real, clip, num_neighbours, "real")
    of_synthetic = measure(synthetic, clip, num_neighbours, "synthetic")
    found = compare(of_real, of_synthetic, num_neighbours)
    test_evidence: dict[str, Any] = {}
    if test is not None:
        of_test = measure(test, clip, num_neighbours, "test")
        of_test_found = compare(of_real, of_test, num_neighbours)
        test_evidence = {
            "test": of_test,
            "leaks": nearness(of_synthetic, of_test, quantile),
            "test_on_manifolds": of_test_found,
            "test_copies": _judge(of_test_found, of_real, quantile),
            "real_leaks": nearness(of_real, of_test, quantile),
        }
    return Evidence(of_real, of_synthetic, found, _judge(found, of_real, quantile), **test_evidence)


def compare(real: Measured, other: Measured, num_neighbours: int) -> Manifolds:
    """`metrics.manifolds` with the radii that are known already."""
    radii = {"real_radii": real.radii, "synthetic_radii": other.radii}
    return manifolds(real.features, other.features, num_neighbours=num_neighbours, **radii)


def nearness(images: Measured, references: Measured, quantile: float) -> Closeness:
    """How near images come to those of another set."""
    found = nearest_neighbours(images.features, references.features, 1)
    return closeness(found.distances[:, 0], found.indices[:, 0], references.own_distances, quantile=quantile)


def _judge(found: Manifolds, references: Measured, quantile: float) -> Closeness:
    return closeness(found.nearest, found.nearest_index, references.own_distances, quantile=quantile)
