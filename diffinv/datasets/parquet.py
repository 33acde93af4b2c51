"""Parquet files in the layout of Hugging Face's image datasets: those of the package, and anybody's."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from diffinv.artefacts.rows import RowsOnDisk, pick
from diffinv.artefacts.writing import write_atomically
from diffinv.datasets.decoding import (
    WHITE_OF_16_BITS,
    DatasetError,
    Fit,
    Header,
    UnreadableImage,
    decode_image,
    header_of,
    read_bytes,
    to_square,
    what_it_is,
    white_level,
)

IMAGES_PER_GROUP = 1024  # of a file of the package: what reading a single image reads
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "class_name", "category", "target", "species")


class Rows(NamedTuple):
    """What one file of the package holds, in its order; `sources` is None where the file names none."""

    images: UInt8[np.ndarray, "image height width 3"]
    labels: Int[np.ndarray, " image"]
    ids: tuple[str, ...]
    sources: tuple[str, ...] | None


def write_parquet(
    path: str | Path,
    *,
    encoded: Iterable[bytes],
    paths: Sequence[str],
    labels: Sequence[int] | Int[np.ndarray, " image"],
    ids: Sequence[str],
    sources: Sequence[str] | None = None,
    class_names: Sequence[str],
) -> None:
    """Write encoded images, as they come, and what belongs to them, atomically."""
    columns = {"image": _IMAGE, "label": pa.int64(), "id": pa.string()}
    columns |= {} if sources is None else {"source": pa.string()}
    # Lets Hugging Face's readers and viewer show pictures and class names instead of bytes and numbers.
    text = {"dtype": "string", "_type": "Value"}
    known = {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    features = json.dumps({"info": {"features": {name: known.get(name, text) for name in columns}}})
    schema = pa.schema(columns, metadata={"huggingface": features})
    how: dict[str, Any] = {"compression": "zstd", "compression_level": 15}
    coming = iter(encoded)
    with write_atomically(path) as file, pq.ParquetWriter(file, schema, **how) as writer:
        for start in range(0, len(paths), IMAGES_PER_GROUP):
            rows = slice(start, start + IMAGES_PER_GROUP)
            group: dict[str, Any] = {
                "image": [{"bytes": next(coming), "path": name} for name in paths[rows]],
                "label": np.asarray(labels[rows], dtype=np.int64),
                "id": ids[rows],
                **({} if sources is None else {"source": sources[rows]}),
            }
            arrays = [pa.array(group[name], kind) for name, kind in columns.items()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def read_parquet(path: Path) -> Rows:
    """Read a file that `write_parquet` made; DatasetError if it is damaged or has other columns.

    Images that are too many for the memory stay in the file.
    """
    with _reading(path) as file:
        names = [name for name in file.schema_arrow.names if name != "image"]
        table, groups = file.read(columns=names), range(file.num_row_groups)
        sizes = [file.metadata.row_group(group).num_rows for group in groups]
    first = _decoded_rows((path, 0), [0]).shape[1:] if len(table) else (1, 1, 3)
    images = RowsOnDisk(_decoded_rows, [(path, group) for group in groups], sizes, first, np.uint8)
    try:
        found = pick(images, range(len(images)))
    except ValueError as error:  # another shape than the first one's
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} holds images of several sizes: store them at one resolution.") from error
    labels, ids = table["label"].to_numpy().astype(np.int64), tuple(table["id"].to_pylist())
    return Rows(found, labels, ids, tuple(table["source"].to_pylist()) if "source" in names else None)


def _decoded_rows(
    piece: tuple[Path, int], rows: Sequence[int] | None
) -> UInt8[np.ndarray, "row side side 3"]:
    path, group = piece
    with _reading(path) as file:
        column = file.read_row_group(group, columns=["image"])["image"].combine_chunks().field("bytes")
    wanted = range(len(column)) if rows is None else rows
    images = [np.asarray(decode_image(column[row].as_py(), f"image {row} in {path}")) for row in wanted]
    if len({image.shape for image in images}) > 1:
        raise DatasetError(f"{path} holds images of several sizes: store them at one resolution.")
    return np.stack(images)


class Columns(NamedTuple):
    """The columns of images and of labels in anybody's files, and the names of the classes.

    `from_files` says that the training files call the classes so, and that all others have to.
    """

    image: str
    label: str
    class_names: tuple[str, ...]
    from_files: bool = False


def holds_images(path: Path) -> bool:
    """Whether a file has images inside; one that is damaged may."""
    try:
        return any(_is_image(field.type) for field in pq.read_schema(path))
    except (pa.ArrowException, OSError):
        return True


def find_columns(paths: Sequence[Path]) -> Columns:
    """The columns that `datasets` declared when it wrote these files, or else those that look like it.

    Of several columns of classes "label" is taken, or "fine_label". Where none is declared, the classes are
    called as the column says, in the order of their names or numbers. DatasetError if there is no column of
    images or no single one of classes.
    """
    path = paths[0]
    with _reading(path) as file:
        features, schema = _features(file), file.schema_arrow
    if not features:
        return _undeclared(paths, schema)
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    labels = [name for name in labels if name in ("label", "labels", "fine_label")][:1] or labels
    if images and not labels:  # words or numbers
        return _undeclared(paths, schema)
    if not images or len(labels) != 1:
        missing = 'ClassLabel feature called "label"' if images else "Image feature"
        raise DatasetError(f"{path} has no {missing}: write it again with one, as the datasets library does.")
    return Columns(images[0], labels[0], tuple(features[labels[0]]["names"]), from_files=True)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _undeclared(paths: Sequence[Path], schema: pa.Schema) -> Columns:
    images = [field.name for field in schema if _is_image(field.type)]
    labels = [name for name in schema.names if name.casefold() in LABEL_COLUMNS][:1]
    if len(images) != 1 or not labels:
        missing = 'ClassLabel feature or column "label"' if images else "Image feature or column of images"
        remedy = "write it again with one, as the datasets library does"
        raise DatasetError(f"{paths[0]} has no {missing}: {remedy}.")
    values: set[str | int] = set()
    for path in paths:
        with _reading(path) as file:
            values |= set(file.read(columns=labels)[labels[0]].unique().drop_null().to_pylist())
    kinds = {type(value) for value in values}
    if kinds == {int}:
        last = max(value for value in values if isinstance(value, int))
        return Columns(images[0], labels[0], tuple(str(label) for label in range(last + 1)))
    if kinds != {str}:
        raise DatasetError(f"{path} has classes that are neither words nor numbers: write them as words.")
    return Columns(images[0], labels[0], tuple(sorted(map(str, values))))


def _numbered(column: pa.ChunkedArray, columns: Columns, path: Path) -> pa.ChunkedArray:
    if unknown := sorted(set(column.unique().drop_null().to_pylist()) - set(columns.class_names)):
        raise DatasetError(f'{path} has the class "{unknown[0]}", which train has not: add it there.')
    return pc.index_in(column, pa.array(columns.class_names, column.type))


def read_labels(
    files: Sequence[tuple[str, Path]], columns: Columns
) -> tuple[list[str], Int[np.ndarray, " image"]]:
    """The ids and labels of all rows of files, each given with the published split that it is of.

    An id is that split and the row in it, counted on from file to file. DatasetError unless every file has
    the columns, as many classes as there are names, and one of them for each image.
    """
    ids: list[str] = []
    labels = [np.empty(0, np.int64)]
    last = len(columns.class_names) - 1
    rows: Counter[str] = Counter()
    for split, path in files:
        with _reading(path) as file:
            for name in (columns.image, columns.label):
                if name not in file.schema_arrow.names:
                    raise DatasetError(f'{path} has no column "{name}": get the dataset again.')
            declared = _features(file).get(columns.label, {}).get("names")
            column = file.read(columns=[columns.label])[columns.label]
        if declared is not None and len(declared) != last + 1:
            found = f"{len(declared)} classes, not {last + 1}"
            raise DatasetError(f"{path} has {found}: get the dataset again.")
        if columns.from_files and declared is not None and tuple(declared) != columns.class_names:
            first = next(label for label in range(last + 1) if declared[label] != columns.class_names[label])
            other = (
                f'calls class {first} "{declared[first]}", the training files "{columns.class_names[first]}"'
            )
            raise DatasetError(f"{path} {other}: write all Parquet files with the same classes in one order.")
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = _numbered(column, columns, path)
        if column.null_count or not pa.types.is_integer(column.type):
            raise DatasetError(f"{path} has images without a class: take them out, or number the classes.")
        labels.append(column.to_numpy().astype(np.int64))
        if len(column) and not 0 <= labels[-1].min() <= labels[-1].max() <= last:
            raise DatasetError(f"{path} has labels outside 0 to {last}: take those images out.")
        ids += [f"{split}/{rows[split] + row:05d}" for row in range(len(column))]
        rows[split] += len(column)
    return ids, np.concatenate(labels)


class Decoded(NamedTuple):
    """Images in the order asked for, black where one cannot be read, which `errors` says by its place."""

    images: UInt8[np.ndarray, "chosen side side 3"]
    headers: dict[str, Header]  # by what an image is called
    errors: dict[int, UnreadableImage]


def read_images(
    paths: Sequence[Path],
    columns: Columns,
    rows: Int[np.ndarray, " chosen"],
    resolution: int,
    fit: Fit = "crop",
    white: int = WHITE_OF_16_BITS,
) -> Decoded:
    """Decode `rows` (ascending, counted on from file to file), each straight to `resolution`.

    `white` is that of grey images of more than 8 bits.
    """
    images = np.zeros((len(rows), resolution, resolution, 3), np.uint8)
    headers: dict[str, Header] = {}
    errors: dict[int, UnreadableImage] = {}
    for position, (name, encoded) in enumerate(encoded_images(paths, columns, rows)):
        try:
            image = decode_image(encoded, name, white=white)
            images[position] = to_square(image, resolution, name, fit)
            headers[name] = header_of(encoded, name)
        except UnreadableImage as error:
            errors[position] = error
    return Decoded(images, headers, errors)


def measure(paths: Sequence[Path], columns: Columns, most: int) -> tuple[list[int], int]:
    """The shorter sides of the first images, `most` at most, and the white of those of more than 8 bits.

    An image that cannot be read is passed over, and refused where it is wanted. DatasetError if none can.
    """
    sides, greatest = [], 0
    error: DatasetError | None = None
    for name, encoded in encoded_images(paths, columns, np.arange(most)):
        try:
            header = header_of(encoded, name)
            greatest = max(greatest, header.greatest)
            sides.append(min(header.size))
        except UnreadableImage as found:
            error = error or found
    if not sides:
        raise error or DatasetError(f"{paths[0]} holds no image: get the dataset again.")
    return sides, white_level(greatest)


def encoded_images(
    paths: Sequence[Path], columns: Columns, rows: Int[np.ndarray, " chosen"]
) -> Iterator[tuple[str, bytes]]:
    """What each of `rows` is called, and its encoded image."""
    first = 0
    for path in paths:
        first_of_file = first
        with _reading(path) as file:
            for group in range(file.num_row_groups):
                length = file.metadata.row_group(group).num_rows
                wanted = rows[(first <= rows) & (rows < first + length)] - first
                # A group without a wanted image is skipped on disk.
                if len(wanted):
                    column = file.read_row_group(group, columns=[columns.image])[columns.image]
                    for row in wanted.tolist():
                        name = f"image {first + row - first_of_file} in {path}"
                        yield name, _bytes_in(column[row].as_py(), name)
                first += length


def _bytes_in(value: Any, name: str) -> bytes:
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if encoded is None:
        raise DatasetError(f"{name} is not stored in the file: write it again with the images embedded.")
    return encoded


def _features(file: pq.ParquetFile) -> dict[str, dict[str, Any]]:
    metadata = file.schema_arrow.metadata or {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


@contextmanager
def _reading(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError) as error:
        damaged = "damaged or no Parquet file of images", "get it again"
        what, remedy = what_it_is(read_bytes(path)[:256]) or damaged
        raise DatasetError(f"{path} is {what}: {remedy}.") from error
