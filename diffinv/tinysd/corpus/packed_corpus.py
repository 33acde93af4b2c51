"""The corpus on its way to another machine: compressed, in pieces, and checked on arrival.

Where npm or resvg are missing, as on a lent GPU, pre-training starts from this: 18 MB instead of 380.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pandas as pd

from diffinv.artefacts.writing import write_array, write_atomically, write_whole
from diffinv.tinysd.corpus.corpus import FILES, corpus_digest

ROWS_PER_PIECE = 8192


def pack_corpus(folder: Path, target: Path) -> list[Path]:
    """Write what ``build_corpus`` and ``build_emoji`` left in ``folder`` to ``target``; return the pieces.

    A piece has ``ROWS_PER_PIECE`` pictures: about 1 MB of masks, 8 MB of emoji.
    """
    pieces = []
    for array, (table, facts) in FILES.items():
        stored = np.load(folder / f"{array}.npy", mmap_mode="r", allow_pickle=False)
        for number, start in enumerate(range(0, len(stored), ROWS_PER_PIECE)):
            path = target / f"{array}-{number:03d}.npy.xz"
            with write_atomically(path) as file, lzma.open(file, "wb") as compressed:
                np.lib.format.write_array(
                    compressed, np.ascontiguousarray(stored[start : start + ROWS_PER_PIECE])
                )
            pieces.append(path)
        for name in (f"{table}.parquet", f"{facts}.json"):
            write_whole(target / name, (folder / name).read_bytes())
    return pieces


def unpack_corpus(source: Path, folder: Path) -> Path:
    """Write to ``folder`` what ``pack_corpus`` read, to be trained on.

    ValueError, one sentence, for a piece that is missing, broken or of another corpus.
    """
    for array, (table, facts) in FILES.items():
        pieces = sorted(source.glob(f"{array}-*.npy.xz"))
        rows, record = source / f"{table}.parquet", source / f"{facts}.json"
        if not pieces or not rows.is_file() or not record.is_file():
            raise ValueError(f"{source} holds no packed corpus: make one with --stage pack.")
        stored = np.concatenate([_read(piece) for piece in pieces])
        if corpus_digest(stored, pd.read_parquet(rows)) != json.loads(record.read_text())["sha256"]:
            raise ValueError(
                f"the {array} in {source} are not those that were packed: a piece is missing or of another "
                "corpus; copy the folder again."
            )
        write_array(folder / f"{array}.npy", stored)
        for path in (rows, record):
            write_whole(folder / path.name, path.read_bytes())
    return folder


def _read(piece: Path) -> np.ndarray:
    try:
        with lzma.open(piece) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise ValueError(f"{piece} cannot be read ({error}): copy it again.") from error
