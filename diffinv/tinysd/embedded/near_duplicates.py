"""Icons that nearly equal one another, and which of them goes: none is evaluated that was trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd

NEAR_DUPLICATE_DIFFERENCE = 0.02  # mean absolute difference of masks in [0, 1], at 16 px
EVALUATED = ("held_out", "icons10", "novel10")


def drop_near_duplicates(icons: pd.DataFrame, masks: np.ndarray) -> pd.DataFrame:
    """Drop evaluation icons that nearly equal one of their concept."""
    small = _small(masks)
    keep = np.ones(len(icons), bool)
    positions = icons.reset_index(drop=True)
    for part in EVALUATED:
        kinds = positions["label"] if part == "novel10" else positions["concept"]
        for kind, group in positions[positions["part"] == part].groupby(kinds):
            trained = positions[(positions["part"] == "train") & (positions["concept"] == kind)]
            seen = [small[row] for row in trained["mask"]]
            for position, row in zip(group.index, group["mask"], strict=True):
                if seen and np.abs(np.stack(seen) - small[row]).mean(1).min() < NEAR_DUPLICATE_DIFFERENCE:
                    keep[position] = False
                elif part != "held_out":
                    seen.append(small[row])
    return positions[keep]


def drop_evaluated_shapes(icons: pd.DataFrame, masks: np.ndarray) -> pd.DataFrame:
    """Drop icons of the wider concepts that nearly equal any evaluation icon, whatever its name."""
    small = _small(masks)
    is_wider = (icons["part"] == "wider").to_numpy()
    evaluated = small[icons.loc[icons["part"].isin(EVALUATED), "mask"]]
    wider = small[icons.loc[is_wider, "mask"]]
    bound, lengths = NEAR_DUPLICATE_DIFFERENCE * small.shape[1], np.square(evaluated).sum(1)
    keep = np.ones(len(icons), bool)
    for number, row in zip(np.flatnonzero(is_wider), wider, strict=True):
        # Squares of differences up to 1 never exceed them, so this finds all candidates, by one product.
        near = lengths - 2 * evaluated @ row + row @ row < bound
        keep[number] = not (near.any() and np.abs(evaluated[near] - row).sum(1).min() < bound)
    return icons[keep]


def _small(masks: np.ndarray) -> np.ndarray:
    """Masks ``uint8 [icon, 64, 64]`` at 16 px in [0, 1], flattened, for comparisons of shapes."""
    return (
        masks.reshape(len(masks), 16, 4, 16, 4).mean((2, 4), dtype=np.float32).reshape(len(masks), -1) / 255
    )
