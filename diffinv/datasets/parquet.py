"""Labelled images as one Parquet file, in the layout of Hugging Face's image datasets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from diffinv.artefacts.writing import write_atomically
from diffinv.datasets.decoding import DatasetError, decode_png


class Rows(NamedTuple):
    """What one Parquet file of images holds, in its order; `sources` is None where the file names none."""

    images: UInt8[np.ndarray, "image height width 3"]
    labels: Int[np.ndarray, " image"]
    ids: tuple[str, ...]
    sources: tuple[str, ...] | None


def write_parquet(
    path: str | Path,
    *,
    encoded: Sequence[bytes],
    paths: Sequence[str],
    labels: Sequence[int] | Int[np.ndarray, " image"],
    ids: Sequence[str],
    sources: Sequence[str] | None = None,
    class_names: Sequence[str],
) -> None:
    """Write encoded images and what belongs to them, atomically."""
    columns = {
        "image": pa.array(
            [{"bytes": data, "path": name} for data, name in zip(encoded, paths, strict=True)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "label": pa.array(np.asarray(labels, dtype=np.int64)),
        "id": pa.array(ids, pa.string()),
    }
    if sources is not None:
        columns["source"] = pa.array(sources, pa.string())
    table = pa.table(columns).replace_schema_metadata({"huggingface": _features(columns, class_names)})
    with write_atomically(path) as file:
        pq.write_table(table, file, compression="zstd", compression_level=15)


def read_parquet(path: str | Path) -> Rows:
    """Read a file that `write_parquet` made; DatasetError if it is damaged or has other columns."""
    try:
        table = pq.read_table(path)
        encoded = table["image"].combine_chunks().field("bytes").to_pylist()
        labels = table["label"].to_numpy().astype(np.int64)
        ids = tuple(table["id"].to_pylist())
        sources = tuple(table["source"].to_pylist()) if "source" in table.column_names else None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(f"{path} is damaged or not a file of images: get the dataset again.") from error
    images = [decode_png(data) for data in encoded]
    if len({image.shape for image in images}) > 1:
        raise DatasetError(f"{path} holds images of several sizes: store them at one resolution.")
    stacked = np.stack(images) if images else np.zeros((0, 1, 1, 3), np.uint8)
    return Rows(stacked, labels, ids, sources)


def _features(columns: dict[str, pa.Array], class_names: Sequence[str]) -> str:
    # Lets Hugging Face's readers and viewer show pictures and class names instead of bytes and numbers.
    text = {"dtype": "string", "_type": "Value"}
    known = {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    return json.dumps({"info": {"features": {name: known.get(name, text) for name in columns}}})
