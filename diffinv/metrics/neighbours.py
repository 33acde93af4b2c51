"""Nearest neighbours and balls among features: exact, in bounded memory, at the speed of a matrix product.

A distance by a matrix product loses the digits of small distances and of ties, which are the ones that count
here. So it only proposes: whatever is close enough to be wrong is measured again by its differences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# The numbers of images and of features are checked by hand: two sets need not be of one size, and features of
# two models get a sentence.
Features = Float[Tensor, "_ _"]

BLOCK = 1 << 23  # numbers held at once: 64 MiB
SPARE = 3  # candidates beyond the nearest ones asked for, among which rounding may have changed the order


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest references of each query, nearest first."""

    distances: Float[Tensor, "query neighbour"]
    indices: Int[Tensor, "query neighbour"]


def nearest_neighbours(
    queries: Features, references: Features, count: int, *, leave_one_out: bool = False
) -> Neighbours:
    """The `count` nearest references of each query; with `leave_one_out` none is its own neighbour.

    `leave_one_out` is for queries that are the references. ValueError if there are fewer than `count`.
    """
    check_features(queries, references)
    available = len(references) - leave_one_out
    if not 1 <= count <= available:
        raise ValueError(
            f"{count} neighbours cannot be found among {len(references)} images: "
            "give more images, or choose num_neighbours from 1 to one less than their number."
        )
    queries, references = queries.double(), references.double()
    found = []
    for start, rough in _blocks(queries, references):
        if leave_one_out:
            rough.diagonal(start).fill_(torch.inf)
        candidates = rough.topk(min(count + SPARE, available), largest=False, sorted=False).indices
        rows = torch.arange(start, start + len(rough)).repeat_interleave(candidates.shape[1])
        distances = _measured(queries, references, rows, candidates.flatten()).view(candidates.shape)
        distances, order = distances.sort(dim=1, stable=True)
        found.append((distances[:, :count], candidates.gather(1, order)[:, :count]))
    return Neighbours(*(torch.cat(part) for part in zip(*found, strict=True)))


def balls_about(
    points: Features, centres: Features, radii: Float[Tensor, " centre"]
) -> Int[Tensor, " point"]:
    """In how many of the balls about the centres each point lies; a border belongs to its ball."""
    check_features(points, centres)
    points, centres = points.double(), centres.double()
    # How far a squared distance by a matrix product may be from the true one.
    longest = (torch.cat([points, centres]) - centres.mean(dim=0)).norm(dim=1).max()
    doubt = 8 * (points.shape[1] + 4) * torch.finfo(torch.float64).eps * longest.square()
    counts = []
    for start, rough in _blocks(points, centres):
        beyond = rough.square_().sub_(radii.square())
        inside = beyond <= 0
        rows, columns = (beyond.abs_() <= doubt).nonzero(as_tuple=True)
        inside[rows, columns] = _measured(points, centres, rows + start, columns) <= radii[columns]
        counts.append(inside.sum(dim=1))
    return torch.cat(counts)


def sum_of_distances(features: Features) -> float:
    """The sum of the distances of all pairs within a set."""
    features = features.double()
    return sum(float(rough.sum()) for _, rough in _blocks(features, features)) / 2


def check_features(a: Features, b: Features) -> None:
    """ValueError unless both sets have features of one length, all of them finite."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and of {b.shape[1]} numbers differ: use one model for both."
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("a feature is infinite or not a number: check the images and the model.")


def _blocks(a: Features, b: Features) -> Iterator[tuple[int, Float[Tensor, "row b"]]]:
    """Distances of some rows of `a` to all of `b`, up to rounding, with the index of the first row."""
    # Distances do not depend on the origin; digits do.
    centre = b.mean(dim=0)
    b, height = b - centre, max(1, BLOCK // max(1, len(b)))
    for index, rows in enumerate(a.split(height)):
        yield index * height, torch.cdist(rows - centre, b, compute_mode="use_mm_for_euclid_dist")


def _measured(
    a: Features, b: Features, rows: Int[Tensor, " pair"], columns: Int[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """The distance of each pair, the same to the last digit whichever of the two comes first."""
    height = max(1, BLOCK // max(1, a.shape[1]))
    pairs = zip(rows.split(height), columns.split(height), strict=True)
    return torch.cat([(a[i] - b[j]).square().sum(dim=1).sqrt() for i, j in pairs])
