"""Tables that say the class of each image: CSV, TSV, JSON lines or Parquet, whatever they are called."""

import csv
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from diffinv.datasets.decoding import DatasetError
from diffinv.datasets.layout.names import readable, split_of
from diffinv.datasets.layout.tree import Tree
from diffinv.foundation.errors import listed

if TYPE_CHECKING:
    import pandas as pd

_FILE = (
    *("file_name", "filename", "file", "path", "file_path", "filepath", "image", "image_path"),
    *("image_name", "image_id", "img", "id", "name"),
)
_LABEL = (
    *("label", "labels", "class", "class_name", "category", "target", "species", "breed", "dx"),
    "diagnosis",
)
_SPLIT = ("split", "subset", "partition", "fold")


class Table(NamedTuple):
    """A table with a row per image: its file as the table calls it, its class, and its split or None."""

    path: Path
    rows: list[tuple[str, str, str | None]]


class Labelled(NamedTuple):
    """An image that a table labels; `split` is None where neither table nor folder says one."""

    path: Path
    label: str
    split: str | None


def tables_of(tree: Tree, notes: list[str]) -> list[Table]:
    """The tables in a folder, not below it, that have a column of files and one of classes."""
    return [table for path in tree.tables if (table := _read(path, notes)) is not None]


def label_images(tables: list[Table], tree: Tree, notes: list[str]) -> list[Labelled]:
    """Find the image of each row; none at all if the tables speak of other files.

    A file is looked for by its path from the table, else by its name or, without a suffix, by its stem, where
    no second image is called so. DatasetError for rows without an image and for two classes of one image.
    """
    images = set(tree.every_image())
    by_name: dict[str, list[Path]] = {}
    for path in images:
        for name in {path.name, path.stem}:
            by_name.setdefault(name, []).append(path)
    found: dict[Path, Labelled] = {}
    missing: list[str] = []
    for table in tables:
        for file, label, split in table.rows:
            name = PureWindowsPath(file).as_posix()
            path = table.path.parent / name
            if path not in images:
                alike = by_name.get(Path(name).name, [])
                if len(alike) != 1:
                    missing.append(file)
                    continue
                path = alike[0]
            labelled = Labelled(path, label, split or _split_of_place(path, tree.path))
            if found.setdefault(path, labelled).label != label:
                classes = f'"{found[path].label}" and "{label}"'
                raise DatasetError(
                    f"{table.path} gives {path} two classes, {classes}: leave one of the rows."
                )
    where = listed([str(table.path) for table in tables])
    if found and missing:
        culprits = f"{where} names {len(missing)} images that are not there once"
        raise DatasetError(f"{culprits} ({listed(missing)}): add them, or take their rows out.")
    if found and (rest := sorted(images - set(found))):
        names = listed([readable(path.name) for path in rest], 3)
        notes.append(f"{where} has no row for {len(rest)} images, which are not read: {names}.")
    return sorted(found.values())


def _split_of_place(path: Path, root: Path) -> str | None:
    folders = path.relative_to(root).parts[:-1]
    return next((split for folder in folders if (split := split_of(folder))), None)


def _read(path: Path, notes: list[str]) -> Table | None:
    try:
        frame = _frame(path)
    except (ValueError, OSError, csv.Error, pa.ArrowException) as error:
        notes.append(f"{path} cannot be read as a table, and is passed over ({str(error).splitlines()[0]}).")
        return None
    if frame is None:
        return None
    file, label = _column(frame, _FILE), _column(frame, _LABEL)
    if file is None or label is None or file == label:
        return None
    split = _column(frame, _SPLIT)
    named = frame[frame[label].notna() & frame[file].notna()]
    if len(named) < len(frame):
        notes.append(f"{len(frame) - len(named)} rows of {path} have no class, and are not read.")
    of_all = split_of(path.stem)
    splits = [of_all] * len(named) if split is None else [split_of(str(value)) for value in named[split]]
    files = [str(value) for value in named[file]]
    labels = [readable(str(value).strip()) for value in named[label]]
    return Table(path, list(zip(files, labels, splits, strict=True)))


def _frame(path: Path) -> "pd.DataFrame | None":
    import pandas as pd  # takes 0.3 s to import, and most folders have no table

    if path.suffix.lower() == ".parquet":
        # Files with the images inside are no tables of files, and may be large.
        plain = [field.name for field in pq.read_schema(path) if not pa.types.is_nested(field.type)]
        return pd.read_parquet(path, columns=plain)
    if path.suffix.lower() == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    # "NA" and "None" may be classes; nothing but an empty field is none.
    words: Mapping = {"dtype": str, "keep_default_na": False, "na_values": [""]}
    frame = pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig", **words)
    return frame.rename(columns=str.strip)


def _column(frame: "pd.DataFrame", known: tuple[str, ...]) -> str | None:
    by_name = {str(name).casefold().replace(" ", "_"): name for name in frame.columns}
    return next((by_name[name] for name in known if name in by_name), None)
