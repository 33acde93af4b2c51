"""Arrays larger than memory: rows in many files behind one index, read as they are needed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from diffinv.artefacts.keys import Streamed

IN_MEMORY = 2**30  # bytes; larger arrays stay in their files
ROWS_AT_ONCE = 1024

# Reads these rows of one piece, a file or a part of one; None = all of them, and checked.
Read = Callable[[Any, Sequence[int] | None], np.ndarray]


class RowsOnDisk:
    """Stands in for an array of so many rows: indexing reads rows into memory, and no more is held there.

    Row i is row `row_of[i]` of `pieces[piece_of[i]]`; `sizes` are the pieces' own numbers of rows. `wrap`
    makes of what is read what indexing returns. `numpy.asarray` reads all.
    """

    def __init__(
        self,
        read: Read,
        pieces: Sequence[Any],
        sizes: Sequence[int] | np.ndarray,
        shape: Sequence[int],
        dtype: Any,
        *,
        places: tuple[np.ndarray, np.ndarray] | None = None,
        wrap: Callable[[np.ndarray], Any] = np.asarray,
    ) -> None:
        self.read, self.pieces, self.sizes, self.wrap = read, list(pieces), np.asarray(sizes), wrap
        if places is None:  # one after the other
            piece_of = np.repeat(np.arange(len(self.pieces)), self.sizes)
            places = piece_of, np.arange(len(piece_of)) - (np.cumsum(self.sizes) - self.sizes)[piece_of]
        self.piece_of, self.row_of = (np.asarray(each, dtype=np.int32) for each in places)
        self.shape, self.dtype = (len(self.piece_of), *shape), np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> Any:
        """Read rows: one by its number, or those of a slice, a sequence of numbers or a mask."""
        positions = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        found = self.wrap(self._rows(np.atleast_1d(positions)))
        return found[0] if np.ndim(positions) == 0 else found

    def __iter__(self) -> Iterator[Any]:
        for chunk in chunks(self):
            yield from chunk

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._rows(np.arange(len(self))).astype(dtype or self.dtype, copy=False)

    def take(self, positions: Sequence[int] | np.ndarray) -> "RowsOnDisk":
        """Rows that stay on disk."""
        places = self.piece_of[positions], self.row_of[positions]
        how: dict[str, Any] = {"places": places, "wrap": self.wrap}
        return RowsOnDisk(self.read, self.pieces, self.sizes, self.shape[1:], self.dtype, **how)

    def _rows(self, positions: np.ndarray) -> np.ndarray:
        found = np.empty((len(positions), *self.shape[1:]), self.dtype)
        piece_of, row_of = self.piece_of[positions], self.row_of[positions]
        order = np.argsort(piece_of, kind="stable")
        ends = np.flatnonzero(np.diff(piece_of[order])) + 1
        for at in np.split(order, ends) if len(order) else ():
            piece, rows = piece_of[at[0]], row_of[at]
            whole = len(rows) == self.sizes[piece] and bool((np.diff(rows) == 1).all())
            found[at] = self.read(self.pieces[piece], None if whole else rows.tolist())
        return found


def pick(array: Any, positions: Sequence[int] | np.ndarray) -> Any:
    """Rows of an array, in memory unless they are too many for it."""
    rows = np.asarray(positions, dtype=np.int64)
    if isinstance(array, RowsOnDisk) and array.nbytes * (len(rows) / max(1, len(array))) > IN_MEMORY:
        return array.take(rows)
    return array[rows]


def chunks(array: Any, size: int = ROWS_AT_ONCE) -> Iterator[Any]:
    """The rows of an array, so many at a time."""
    for start in range(0, len(array), size):
        yield array[start : start + size]


def as_part_of_key(array: Any) -> Any:
    """What `content_key` takes for an array, wherever it lies."""
    if isinstance(array, RowsOnDisk):
        return Streamed(array.dtype, array.shape, (np.asarray(chunk) for chunk in chunks(array)))
    return np.asarray(array)
