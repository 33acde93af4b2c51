"""Parquet files in the layout of Hugging Face's image datasets: labels first, then only the images wanted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from diffinv.datasets.decoding import DatasetError, decode_image, encoded_size, to_square


class Columns(NamedTuple):
    """The columns of images and of labels, and the names of the classes."""

    image: str
    label: str
    class_names: tuple[str, ...]


class Shards(NamedTuple):
    """The files of one published split, in order; rows count on from file to file."""

    split: str
    paths: tuple[Path, ...]


def find_columns(path: Path) -> Columns:
    """The columns that `datasets` declared when it wrote the file.

    Of several columns of classes "label" is taken, or "fine_label". DatasetError if there is no column of
    images or no single one of classes.
    """
    features = _features(path)
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    labels = [name for name in labels if name in ("label", "labels", "fine_label")][:1] or labels
    if not images or len(labels) != 1:
        missing = 'ClassLabel feature called "label"' if images else "Image feature"
        raise DatasetError(f"{path} has no {missing}: write it again with one, as the datasets library does.")
    return Columns(images[0], labels[0], tuple(features[labels[0]]["names"]))


def check_columns(path: Path, columns: Columns) -> None:
    """DatasetError unless the file has the columns, and as many classes as there are names."""
    with _reading(path) as file:
        names = file.schema_arrow.names
    for name in (columns.image, columns.label):
        if name not in names:
            raise DatasetError(f'{path} has no column "{name}": get the dataset again.')
    declared = _features(path).get(columns.label, {}).get("names")
    if declared is not None and len(declared) != len(columns.class_names):
        found = f"{len(declared)} classes, not {len(columns.class_names)}"
        raise DatasetError(f"{path} has {found}: get the dataset again.")


def read_labels(shards: Shards, columns: Columns) -> Int[np.ndarray, " image"]:
    """The labels of all rows; no image is read."""
    labels = [np.empty(0, np.int64)]
    for path in shards.paths:
        with _reading(path) as file:
            column = file.read(columns=[columns.label])[columns.label]
        if column.null_count or not pa.types.is_integer(column.type):
            raise DatasetError(f"{path} has images without a class: take them out, or number the classes.")
        labels.append(column.to_numpy().astype(np.int64))
        if len(labels[-1]) and not 0 <= labels[-1].min() <= labels[-1].max() < len(columns.class_names):
            last = len(columns.class_names) - 1
            raise DatasetError(f"{path} has labels outside 0 to {last}: take those images out.")
    return np.concatenate(labels)


def read_images(
    shards: Shards,
    columns: Columns,
    rows: Int[np.ndarray, " chosen"],
    into: UInt8[np.ndarray, "chosen side side 3"],
) -> None:
    """Decode `rows` (ascending), each straight to the size of `into`, whatever its size in the file."""
    for position, (name, encoded) in enumerate(_encoded(shards, columns, rows)):
        into[position] = to_square(decode_image(encoded, name), into.shape[1], name)


def shorter_sides(shards: Shards, columns: Columns, most: int) -> list[int]:
    """The shorter sides of the first images, `most` at most, from their headers; DatasetError if none."""
    sides = [min(encoded_size(encoded, name)) for name, encoded in _encoded(shards, columns, np.arange(most))]
    if not sides:
        raise DatasetError(f"{shards.paths[0]} holds no image: get the dataset again.")
    return sides


def _encoded(
    shards: Shards, columns: Columns, rows: Int[np.ndarray, " chosen"]
) -> Iterator[tuple[str, bytes]]:
    first = 0
    for path in shards.paths:
        with _reading(path) as file:
            for group in range(file.num_row_groups):
                length = file.metadata.row_group(group).num_rows
                wanted = rows[(first <= rows) & (rows < first + length)] - first
                # A group without a wanted image is skipped on disk.
                if len(wanted):
                    column = file.read_row_group(group, columns=[columns.image])[columns.image]
                    for row in wanted.tolist():
                        name = f"image {first + row} of the {shards.split} split in {path}"
                        yield name, _bytes_in(column[row].as_py(), name)
                first += length


def _bytes_in(value: Any, name: str) -> bytes:
    encoded = value.get("bytes") if isinstance(value, dict) else None
    if encoded is None:
        raise DatasetError(f"{name} is not stored in the file: write it again with the images embedded.")
    return encoded


def _features(path: Path) -> dict[str, dict[str, Any]]:
    with _reading(path) as file:
        metadata = file.schema_arrow.metadata or {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


@contextmanager
def _reading(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is damaged or no Parquet file: get the dataset again.") from error
