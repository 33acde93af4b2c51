"""Images in, mosaics out: grids, galleries and interpolation rows; nothing is computed."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def image_grid(
    ax: Axes,
    images: UInt8[np.ndarray, "row column height width 3"] | Sequence[Sequence[np.ndarray | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    split_after: int | None = None,
    label_size: float = 8.5,
) -> Axes:
    """Images as one mosaic with names at its left and top; `None` leaves a cell blank.

    `split_after=1` opens a wider gap behind the first column, which sets originals apart from samples. A
    column label stands over the columns after it, too, as long as these have images and no label.
    ValueError when rows differ in length, images in size, or labels in number.
    """
    rows = [list(row) for row in images]
    columns = len(rows[0]) if rows else 0
    shapes = {np.asarray(image).shape for row in rows for image in row if image is not None}
    if columns == 0 or any(len(row) != columns for row in rows) or len(shapes) != 1:
        raise ValueError("image_grid needs at least one image, rows of equal length and images of one size")
    for labels, count, side in ((row_labels, len(rows), "row"), (column_labels, columns, "column")):
        if len(labels) not in (0, count):
            raise ValueError(f"image_grid got {len(labels)} {side} labels for {count} {side}s")
    height, width = shapes.pop()[:2]
    gap = max(1, round(0.08 * width))  # in pixels
    behind = columns if split_after is None else split_after
    lefts = [column * (width + gap) + 4 * gap * (column >= behind) for column in range(columns)]
    tops = [row * (height + gap) for row in range(len(rows))]
    mosaic = np.full((tops[-1] + height, lefts[-1] + width, 3), 255, np.uint8)
    for row, top in zip(rows, tops, strict=True):
        for image, left in zip(row, lefts, strict=True):
            if image is not None:
                mosaic[top : top + height, left : left + width] = image
    ax.imshow(mosaic, interpolation="nearest", aspect="equal")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    filled = [any(row[column] is not None for row in rows) for column in range(columns)]
    spans = _spans(column_labels, filled)
    centres = [(lefts[first] + lefts[last] + width - 1) / 2 for first, last in spans]
    ax.set_xticks(centres, [column_labels[first] for first, _ in spans])
    ax.set_yticks([top + (height - 1) / 2 for top in tops] if row_labels else [], list(row_labels))
    ax.tick_params(length=0, labelsize=label_size, pad=3)
    return ax


def _spans(labels: Sequence[str], filled: Sequence[bool]) -> list[tuple[int, int]]:
    """The first and the last column of each label that is not empty."""
    spans: list[tuple[int, int]] = []
    for column, label in enumerate(labels):
        if label:
            spans.append((column, column))
        elif spans and spans[-1][1] == column - 1 and filled[column]:
            spans[-1] = (spans[-1][0], column)
    return spans


def gallery(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], class_names: Mapping[str, Sequence[str]]
) -> Figure:
    """Originals at the left of a gap, their samples at its right, one panel per dataset (the paper's Fig. 3).

    `panels[dataset] = (real [row height width 3], samples [row column height width 3])`.
    """
    width, columns = 7.2, min(len(panels), 3)
    lines = -(-len(panels) // columns)
    rows, copies = next(iter(panels.values()))[1].shape[:2]
    cell = (width / columns - 0.6) / (copies + 1.5)  # what the class names at the left leave
    height = lines * (rows * cell * 1.05 + 0.5)
    fig, axes = plt.subplots(lines, columns, figsize=(width, height), squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (dataset, (real, samples)) in zip(axes.flat, panels.items(), strict=False):
        mosaic = [[original, *row] for original, row in zip(real, samples, strict=True)]
        labels = ["real", "samples", *[""] * (copies - 1)]
        image_grid(ax, mosaic, class_names[dataset], labels, split_after=1, label_size=7.5)
        ax.set_title(dataset, fontweight="bold", pad=6)
    return fig


def interpolation_row(
    ax: Axes,
    images: UInt8[np.ndarray, "pair weight height width 3"],
    weights: Sequence[float],
    originals: UInt8[np.ndarray, "pair 2 height width 3"] | None = None,
    row_labels: Sequence[str] = (),
) -> Axes:
    """Samples along the weight of the partner, between the two originals when given (the paper's Fig. 9)."""
    columns = [f"{weight:g}" for weight in weights]
    rows: list[list[np.ndarray]] = [list(row) for row in images]
    if originals is not None:
        rows = [[pair[0], *row, pair[1]] for pair, row in zip(originals, rows, strict=True)]
        columns = ["real A", *columns, "real B"]
    image_grid(ax, rows, row_labels, columns)
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("weight of image B's vectors", labelpad=6)
    return ax
