"""Nearest neighbours and balls among features: exact, in bounded memory, at the speed of a matrix product.

A distance by a matrix product loses the digits of small distances and of ties, which are the ones that count
here. So it only proposes: whatever is close enough to be wrong is measured again by its differences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# The numbers of images and of features are checked by hand: two sets need not be of one size, and features of
# two models get a sentence.
Features = Float[Tensor, "_ _"]

BLOCK = 1 << 22  # distances held at once: 32 MiB
PAIRS = 1 << 22  # numbers of pairs of features held at once while measuring again
SPARE = 3  # candidates beyond the nearest ones asked for, among which rounding may have changed the order


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest references of each query, nearest first."""

    distances: Float[Tensor, "query neighbour"]
    indices: Int[Tensor, "query neighbour"]


@dataclass(frozen=True, eq=False)
class Crossing:
    """How points lie among centres: what one pass over all their distances can tell."""

    nearest: Float[Tensor, " point"]  # distance to the nearest centre
    nearest_index: Int[Tensor, " point"]
    balls_about: Int[Tensor, " point"]  # number of centres in whose ball the point lies
    centre_holds: Bool[Tensor, " centre"]  # whether a point lies in the centre's ball
    centre_held: Bool[Tensor, " centre"]  # whether the centre lies in a point's ball


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
    for rows, squares in _blocks(queries, references):
        if leave_one_out:
            squares[range(len(squares)), range(rows.start, rows.stop)] = torch.inf
        found.append(_refined(squares, queries[rows], references, count, available))
    distances, indices = (torch.cat(part) for part in zip(*found, strict=True))
    return Neighbours(distances, indices)


def cross(
    points: Features,
    centres: Features,
    centre_radii: Float[Tensor, " centre"],
    point_radii: Float[Tensor, " point"] | None = None,
) -> Crossing:
    """Hold points against the balls of centres, and centres against those of points; borders belong to both.

    Without `point_radii` the points have no balls, and `centre_held` is false everywhere.
    """
    check_features(points, centres)
    points, centres = points.double(), centres.double()
    doubt = _rounding(points, centres)
    distances, indices, balls = [], [], []
    holds, held = (torch.zeros(len(centres), dtype=torch.bool) for _ in range(2))
    for rows, squares in _blocks(points, centres):
        nearest, index = _refined(squares, points[rows], centres, 1, len(centres))
        distances.append(nearest[:, 0])
        indices.append(index[:, 0])
        inside = _within(squares, centre_radii[None, :], points[rows], centres, doubt)
        balls.append(inside.sum(dim=1))
        holds |= inside.any(dim=0)
        if point_radii is not None:
            held |= _within(squares, point_radii[rows, None], points[rows], centres, doubt).any(dim=0)
    return Crossing(torch.cat(distances), torch.cat(indices), torch.cat(balls), holds, held)


def sum_of_distances(features: Features) -> float:
    """The sum of the distances of all pairs within a set."""
    features = features.double()
    return sum(float(squares.sqrt().sum()) for _, squares in _blocks(features, features)) / 2


def check_features(a: Features, b: Features) -> None:
    """ValueError unless both sets have features of one length, all of them finite."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and of {b.shape[1]} numbers differ: use one model for both."
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("a feature is infinite or not a number: check the images and the model.")


def _blocks(a: Features, b: Features) -> Iterator[tuple[slice, Float[Tensor, "row b"]]]:
    """Rows of `a` with their squared distances to all of `b`, up to rounding."""
    # Distances do not depend on the origin; digits do.
    centre = b.mean(dim=0)
    a, b = a - centre, b - centre
    squares_a, squares_b = a.square().sum(dim=1), b.square().sum(dim=1)
    height = max(1, BLOCK // max(1, len(b)))
    for start in range(0, max(1, len(a)), height):  # no row at all is a block too: its results are empty
        rows = slice(start, min(start + height, len(a)))
        squares = torch.addmm(squares_b[None, :], a[rows], b.T, alpha=-2)
        yield rows, squares.add_(squares_a[rows, None]).clamp_(min=0)


def _rounding(a: Features, b: Features) -> float:
    """How far the squared distances of `_blocks` may be from the true ones."""
    centre = b.mean(dim=0)
    longest = max(float((x - centre).square().sum(dim=1).max()) for x in (a, b) if len(x))
    return 8 * a.shape[1] * torch.finfo(torch.float64).eps * longest


def _refined(
    squares: Float[Tensor, "row b"], a: Features, b: Features, count: int, available: int
) -> tuple[Float[Tensor, "row neighbour"], Int[Tensor, "row neighbour"]]:
    candidates = squares.topk(min(count + SPARE, available), dim=1, largest=False, sorted=False).indices
    rows = torch.arange(len(a)).repeat_interleave(candidates.shape[1])
    distances = _measured(a, b, rows, candidates.flatten()).view(candidates.shape)
    distances, order = distances.sort(dim=1, stable=True)
    return distances[:, :count], candidates.gather(1, order)[:, :count]


def _within(
    squares: Float[Tensor, "row b"], radii: Float[Tensor, "_ _"], a: Features, b: Features, doubt: float
) -> Bool[Tensor, "row b"]:
    """Whether each distance is at most the radius of its row or column."""
    limits = radii.square()
    inside = squares <= limits
    unsure = (squares <= limits + doubt) & (squares >= limits - doubt)
    rows, columns = unsure.nonzero(as_tuple=True)
    if len(rows):
        limit = radii.expand(squares.shape)[rows, columns]
        inside[rows, columns] = _measured(a, b, rows, columns) <= limit
    return inside


def _measured(
    a: Features, b: Features, rows: Int[Tensor, " pair"], columns: Int[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """The distance of each pair, the same to the last digit whichever of the two comes first."""
    height = max(1, PAIRS // max(1, a.shape[1]))
    pairs = zip(rows.split(height), columns.split(height), strict=True)
    return torch.cat([(a[row] - b[column]).square().sum(dim=1).sqrt() for row, column in pairs])
