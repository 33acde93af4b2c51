"""Copies and leaks: whether images come nearer to a reference set than its own images come to each other."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

SAME = 1e-4  # of the largest distance to a neighbour: what rounding leaves between two copies of one image


@dataclass(frozen=True, eq=False)
class Closeness:
    """How near images come to those of a reference set, as ratios to the distances within that set.

    A ratio of 0 is a copy; 1 is as near as the reference images typically are to each other. `threshold` is
    the `quantile` of the references' own ratios: about that share of fresh images of the same kind would lie
    at or below it.
    """

    ratios: Float[Tensor, " image"]
    nearest_index: Int[Tensor, " image"]  # the nearest reference
    own_ratios: Float[Tensor, " reference"]  # of each reference to the nearest other one; copies left out
    quantile: float
    threshold: float
    num_duplicates: int  # references that have a copy among them

    @property
    def is_close(self) -> Bool[Tensor, " image"]:
        """Whether each image is at or below the threshold."""
        return self.ratios <= self.threshold

    @property
    def share(self) -> float:
        """Share of the images at or below the threshold."""
        return float(self.is_close.double().mean())

    def closest(self, count: int) -> list[tuple[int, int, float]]:
        """The `count` closest images: their index, that of the nearest reference, and the ratio."""
        order = self.ratios.argsort(stable=True)[:count].tolist()
        return [(index, int(self.nearest_index[index]), float(self.ratios[index])) for index in order]


def authentic(
    distances: Float[Tensor, " image"],
    nearest_index: Int[Tensor, " image"],
    own_distances: Float[Tensor, " reference"],
) -> Bool[Tensor, " image"]:
    """Whether each image is further from its nearest reference than that is from the other references.

    Alaa et al. 2022 (section 3.3), whose share of authentic images others call AuthPct.
    """
    return distances > own_distances[nearest_index]


def closeness(
    distances: Float[Tensor, " image"],
    nearest_index: Int[Tensor, " image"],
    own_distances: Float[Tensor, " reference"],
    *,
    quantile: float = 0.01,
) -> Closeness:
    """Judge distances to the nearest reference by the references' leave-one-out distances.

    The unit is their median. References that are copies of each other say nothing of how near two different
    images come, and are left out of it. ValueError if nothing else is left, or for a `quantile` outside
    (0, 1).
    """
    if not 0 < quantile < 1:
        raise ValueError(f"the quantile is {quantile}: choose a number between 0 and 1, such as 0.01.")
    own = own_distances[own_distances > SAME * own_distances.max()]
    if len(own) == 0:
        raise ValueError(
            f"each of the {len(own_distances)} images to compare with is a copy of another: "
            "remove the duplicates."
        )
    unit = own.median()
    return Closeness(
        ratios=distances / unit,
        nearest_index=nearest_index,
        own_ratios=own / unit,
        quantile=quantile,
        # An observed one: interpolating between the two lowest would invent a distance.
        threshold=float((own / unit).kthvalue(max(1, int(quantile * len(own)))).values),
        num_duplicates=len(own_distances) - len(own),
    )
