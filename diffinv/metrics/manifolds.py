"""How close to the real images, and how varied, synthetic ones are: distances between features of images."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffinv.metrics.neighbours import Features, balls_about, nearest_neighbours


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

    def values(self, synthetic: Any = slice(None), real: Any = slice(None)) -> dict[str, float]:
        """The four metrics by their names, of all images or of some."""
        return {
            "precision": self.precision(synthetic),
            "recall": self.recall(real),
            "density": self.density(synthetic),
            "coverage": self.coverage(real),
        }


def manifolds(
    real: Features,
    synthetic: Features,
    *,
    num_neighbours: int = 5,
    real_radii: Float[Tensor, " real"] | None = None,
    synthetic_radii: Float[Tensor, " synthetic"] | None = None,
) -> Manifolds:
    """Compare two sets. Radii that are known already, `ball_radii` of a set, need not be computed again."""
    nearest_synthetic = nearest_neighbours(real, synthetic, 1)
    nearest_real = nearest_neighbours(synthetic, real, 1)
    if real_radii is None:
        real_radii = ball_radii(real, num_neighbours)
    if synthetic_radii is None:
        synthetic_radii = ball_radii(synthetic, num_neighbours)
    return Manifolds(
        num_neighbours=num_neighbours,
        real_balls=balls_about(synthetic, real, real_radii),
        holds_synthetic=nearest_synthetic.distances[:, 0] <= real_radii,
        on_synthetic=balls_about(real, synthetic, synthetic_radii) > 0,
        nearest=nearest_real.distances[:, 0],
        nearest_index=nearest_real.indices[:, 0],
    )


def ball_radii(features: Features, num_neighbours: int) -> Float[Tensor, " image"]:
    """Distance of each image to its k-th neighbour among the others."""
    return nearest_neighbours(features, features, num_neighbours, leave_one_out=True).distances[:, -1]


def precision(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """`Manifolds.precision`; the synthetic set may be smaller than k."""
    return _share(balls_about(synthetic, real, ball_radii(real, num_neighbours)) > 0)


def recall(real: Features, synthetic: Features, *, num_neighbours: int = 5) -> float:
    """`Manifolds.recall`; the real set may be smaller than k."""
    return precision(synthetic, real, num_neighbours=num_neighbours)


def _share(values: Tensor) -> float:
    return float(values.double().mean())
