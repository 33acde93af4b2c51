"""What an evaluation card rests on: features and neighbours of a synthetic set and a real one."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from diffinv.datasets import LabelledImages
from diffinv.metrics.copies import Closeness, authentic, closeness
from diffinv.metrics.manifolds import Manifolds, manifolds
from diffinv.metrics.neighbours import Features, nearest_neighbours

REAL, SYNTHETIC, TEST = "real", "synthetic", "test"


@dataclass(frozen=True, eq=False)
class Measured:
    """A set of images with its features, and how far its images are from each other."""

    features: Features
    own_distances: Float[Tensor, " image"]  # to the nearest other image
    radii: Float[Tensor, " image"]  # to the k-th nearest


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """Everything measured of a synthetic set, and of test images in its place, where there are some."""

    real: LabelledImages
    synthetic: LabelledImages
    test: LabelledImages | None = None
    features: dict[str, Features]  # of each of these sets, by its name
    on_manifolds: Manifolds  # the synthetic images and the training images on those of each other
    test_on_manifolds: Manifolds | None = None  # the test images in the place of the synthetic ones
    authentic: Bool[Tensor, " synthetic"]  # of the synthetic images among the training images
    test_authentic: Bool[Tensor, " test"] | None = None
    copies: Closeness  # of the synthetic images to the training images
    test_copies: Closeness | None = None  # of the test images to the training images, to compare copies with
    leaks: Closeness | None = None  # of the synthetic images to the test images
    real_leaks: Closeness | None = None  # of the training images to the test images, to compare leaks with


def measure(images: LabelledImages, clip: Any, num_neighbours: int, role: str) -> Measured:
    """Features and distances within a set; ValueError if it has no more than `num_neighbours` images."""
    if len(images) <= num_neighbours:
        raise ValueError(
            f"there are only {len(images)} {role} images, and each needs {num_neighbours} neighbours: "
            f"give more, or choose fewer neighbours."
        )
    features = clip.image_features(images.images)
    others = nearest_neighbours(features, features, num_neighbours, leave_one_out=True).distances
    return Measured(features, own_distances=others[:, 0], radii=others[:, -1])


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
    sets = {REAL: real, SYNTHETIC: synthetic} | ({} if test is None else {TEST: test})
    known = {role: measure(images, clip, num_neighbours, role) for role, images in sets.items()}
    of_real, of_synthetic, of_test = known[REAL], known[SYNTHETIC], known.get(TEST)
    found = compare(of_real, of_synthetic, num_neighbours)
    evidence = Evidence(
        real=real,
        synthetic=synthetic,
        test=test,
        features={role: side.features for role, side in known.items()},
        on_manifolds=found,
        authentic=authentic(found.nearest, found.nearest_index, of_real.own_distances),
        copies=_judge(found, of_real, quantile),
    )
    if of_test is None:
        return evidence
    honest = compare(of_real, of_test, num_neighbours)
    return replace(
        evidence,
        test_on_manifolds=honest,
        test_authentic=authentic(honest.nearest, honest.nearest_index, of_real.own_distances),
        test_copies=_judge(honest, of_real, quantile),
        leaks=nearness(of_synthetic, of_test, quantile),
        real_leaks=nearness(of_real, of_test, quantile),
    )


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
