"""How ``icons_pool`` is made: a fifth of what TinySD was trained on, as an image search would find it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffinv.artefacts.writing import write_atomically, write_json
from diffinv.datasets.decoding import encode_png
from diffinv.foundation.randomness import numpy_stream
from diffinv.tinysd.corpus.captions import Corpus, colour_in, draw_colour_pair
from diffinv.tinysd.embedded.icons import write_notice

RESOLUTION = 32
SHARE = 0.2


def build(corpus_folder: Path, folder: Path, *, share: float = SHARE, seed: int = 0) -> Path:
    """Write ``pool.parquet``, ``pool.json`` and ``NOTICE``: a share of each concept's icons, coloured once.

    Of the training part alone: no icon of a held-out set, nor of the concepts of ``novel10``, is in it.
    """
    corpus = Corpus.load(corpus_folder, "train", RESOLUTION)
    icons = _choose(corpus.icons, share, seed)
    encoded, captions = [], []
    for row, icon in icons.iterrows():
        generator = numpy_stream(seed, "pool colouring", icon["icon_set"], icon["name"])
        front_name, front, back_name, back = draw_colour_pair(generator)
        pixels = colour_in(corpus.masks[row], front, back)
        encoded.append(encode_png((pixels * 255).round().astype(np.uint8)))
        words = ["a", front_name, icon["style"], icon["concept"], "icon on", back_name]
        captions.append(" ".join(word for word in words if word))
    ids = [f"{icon_set}/{name}" for icon_set, name in zip(icons["icon_set"], icons["name"], strict=True)]
    _write_parquet(folder / "pool.parquet", encoded, ids, captions, icons["concept"].tolist())
    write_notice(folder, corpus, icons, "icons_pool")
    write_json(
        folder / "pool.json",
        {
            "name": "icons_pool",
            "description": "icons that TinySD was trained on, with captions: the pool of KNN retrieval",
            "images": len(icons),
            "concepts": int(icons["concept"].nunique()),
            "resolution": RESOLUTION,
            "seed": seed,
            "source": f"open-source icon sets of @iconify/json {corpus.facts['iconify_version']}, see NOTICE",
            "licence": "permissive, by icon set: see NOTICE",
        },
    )
    return folder


def _choose(icons: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    # The same share of every concept: the pool is as lopsided as what the generator has seen.
    chosen = [
        group.index[
            numpy_stream(seed, "pool", concept).permutation(len(group))[: math.ceil(share * len(group))]
        ]
        for concept, group in icons.groupby("concept")
    ]
    return icons.loc[np.sort(np.concatenate(chosen))]


def _write_parquet(
    path: Path, encoded: list[bytes], ids: list[str], captions: list[str], concepts: list[str]
) -> None:
    images = [{"bytes": data, "path": f"{name}.png"} for data, name in zip(encoded, ids, strict=True)]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "id": pa.array(ids, pa.string()),
            "caption": pa.array(captions, pa.string()),
            "concept": pa.array(concepts, pa.string()),
        }
    )
    with write_atomically(path) as file:
        pq.write_table(table, file, compression="zstd", compression_level=15)
