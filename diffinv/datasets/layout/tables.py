"""Tables that say the class of each image: CSV, TSV, JSON lines or Parquet, whatever they are called."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from diffinv.datasets.decoding import DatasetError
from diffinv.datasets.layout.names import readable, split_of, twins
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
_ALSO_LABEL = re.compile("label|class|categor|target|species|breed|diagnos")
_SPLIT = ("split", "subset", "partition", "set", "fold")
_FLAG = re.compile(r"is_?(train|val|valid|validation|test)")
_YES, _NO = {"1", "true", "yes"}, {"0", "false", "no"}
_SHEETS = (".xlsx", ".xls", ".ods")
_DAMAGE = (ValueError, OSError, csv.Error, pa.ArrowException)


class Table(NamedTuple):
    """A table with a row per image: its file as the table calls it, its class, and its split.

    The class is None in a list of a split's files, and the split where the table says none.
    """

    path: Path
    rows: list[tuple[str, str | None, str | None]]


class Labelled(NamedTuple):
    """An image that a table labels; `split` is None where neither table nor folder says one."""

    path: Path
    label: str
    split: str | None


class _NoTableError(ValueError):
    """Why a file is no table of images, without its name."""


def tables_of(tree: Tree, notes: list[str]) -> list[Table]:
    """The tables in a folder, not below it, that say the class or the split of images."""
    tables = []
    images = _Images(tree.every_image()) if tree.tables else None
    for path in tree.tables:
        try:
            tables.append(_read(path, images, notes))
        except _NoTableError:
            continue
        except _DAMAGE as error:
            why = str(error).splitlines()[0]
            notes.append(f"{path} cannot be read as a table, and is passed over ({why}).")
    return tables


def why_no_table(tree: Tree) -> str:
    """Why the tables that lie in a folder say nothing of its images, a clause each."""
    why = []
    for path in tree.tables:
        try:
            _read(path, _Images(tree.every_image()), [])
            why.append(f"{path.name} names other files, or no class")
        except _DAMAGE as error:  # ours is a ValueError too
            why.append(f"{path.name} {str(error).splitlines()[0].rstrip('.')}")
    return listed(why, 5)


def label_images(tables: list[Table], tree: Tree, notes: list[str]) -> list[Labelled]:
    """Find the image of each row; none at all if the tables speak of other files.

    A file is looked for by its path from the table, else by its name or stem, where no second image in a
    folder called so has it. Where no table says a class it is what the image's folder is called. DatasetError
    for rows without an image, for two classes of one image, and for classes that are hardly told apart.
    """
    images = _Images(tree.every_image())
    found: dict[Path, Labelled] = {}
    told: set[Path] = set()  # whose class a table says
    missing: list[str] = []
    for table in tables:
        for file, label, split in table.rows:
            path = images.find(file, table.path.parent)
            if path is None:
                missing.append(file)
                continue
            known = found.get(path)
            if known and label and path in told and known.label != label:
                both = f'"{known.label}" and "{label}"'
                raise DatasetError(f"{table.path} gives {path} two classes, {both}: leave one of the rows.")
            folders = path.relative_to(tree.path).parts[:-1]
            place = split or next(filter(None, map(split_of, folders)), known.split if known else None)
            own = label or (known.label if known else readable(path.parent.name))
            found[path] = Labelled(path, own, place)
            told |= {path} if label else set()
    where = listed([str(table.path) for table in tables])
    if found and missing:
        culprits = f"{where} names {len(missing)} images that are not there once"
        raise DatasetError(f"{culprits} ({listed(missing)}): add them, or take their rows out.")
    if found and (rest := sorted(images.every - set(found))):
        names = listed([readable(path.name) for path in rest], 3)
        notes.append(f"{where} has no row for {len(rest)} images, which are not read: {names}.")
    classes = {image.label for image in found.values()}
    check_distinct(classes, where)
    for name in sorted(classes):
        parts = re.split(r"\s*[,;|/+&\s]\s*", name)
        if len(parts) > 1 and set(parts) <= classes:
            remedy = "leave them one each, or write it as one word"
            raise DatasetError(f'{where} gives images several classes ("{name}"): {remedy}.')
    return sorted(found.values())


def check_distinct(names: Iterable[str], where: str) -> None:
    """DatasetError for classes that differ in case alone, or in what nobody sees."""
    names, spelled = set(names), dict[str, str]()
    for name in sorted(names):
        twin = spelled.setdefault(readable(name).strip().casefold(), name)
        if twin != name:
            both = f'the classes "{twin}" and "{name}" in {where}'
            raise DatasetError(f"{both} differ only {twins(twin, name)}: merge or rename them.")


class _Images:
    """The images of a folder, to be found by what a table calls them."""

    def __init__(self, paths: Collection[Path]) -> None:
        self.every = set(paths)
        self.by_name: dict[str, list[Path]] = {}
        for path in paths:
            for name in {readable(path.name).casefold(), readable(path.stem).casefold()}:
                self.by_name.setdefault(name, []).append(path)

    def find(self, file: str, home: Path) -> Path | None:
        """The one image that is called so: by its path, else by its name and as many folders as tell."""
        name = Path(PureWindowsPath(file.strip()).as_posix())
        if home / name in self.every:
            return home / name
        alike = self.named(name.name)
        if len(alike) > 1:
            shared = {path: _common_end(path.parts[:-1], name.parts[:-1]) for path in alike}
            most = max(shared.values())
            alike = [path for path in alike if shared[path] == most]
        return alike[0] if len(alike) == 1 else None

    def named(self, name: str) -> list[Path]:
        """The images of this name, or else of its stem: a table may say another suffix, or none."""
        key = readable(name).casefold()
        return self.by_name.get(key) or self.by_name.get(re.sub(r"\.\w+$", "", key), [])


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    pairs = list(zip(reversed(one), reversed(other), strict=False))
    return next((count for count, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _read(path: Path, images: _Images | None, notes: list[str]) -> Table:
    images = images or _Images(())
    frame = _frame(path, images)
    if frame.empty:
        raise _NoTableError("is empty")
    names = {str(name).strip().casefold().replace(" ", "_"): name for name in frame.columns}
    file = _file_column(frame, names, images)
    of_all = split_of(path.stem)
    label = None if file is None else _label_column(frame, names, file)
    if file is None or (label is None and (of_all is None or len(frame.columns) > 1)):
        raise _NoTableError("has no columns of files and classes")
    of_class = frame[file] if label is None else label
    named = frame[of_class.notna() & frame[file].notna()]
    if len(named) < len(frame):
        notes.append(f"{len(frame) - len(named)} rows of {path} have no class, and are not read.")
    splits = _splits(named, names, path, notes) or [of_all] * len(named)
    labels = [None if label is None else readable(str(label[row]).strip()) for row in named.index]
    return Table(path, list(zip(map(str, named[file]), labels, splits, strict=True)))


def _frame(path: Path, images: _Images) -> "pd.DataFrame":
    import pandas as pd  # takes 0.3 s to import, and most folders have no table

    suffix = path.suffix.lower()
    if suffix in _SHEETS:
        raise _NoTableError("is a spreadsheet, to be saved as CSV")
    if suffix == ".parquet":
        # Files with the images inside are no tables of files, and may be large.
        plain = [field.name for field in pq.read_schema(path) if not pa.types.is_nested(field.type)]
        return pd.read_parquet(path, columns=plain)
    text = _text(path)
    if suffix == ".jsonl":
        return pd.read_json(io.StringIO(text), lines=True, dtype=False)
    if suffix == ".json":
        return pd.DataFrame(_records(json.loads(text)))
    lines = [line for line in text.splitlines() if line.strip()]
    if suffix == ".txt" and lines and all(images.named(_last(line)) for line in lines[:9]):
        return pd.DataFrame({"file": lines})
    first = lines[0] if lines else ""
    delimiter = max("\t;|,", key=first.count)
    if not first.count(delimiter):
        delimiter = r"\s+" if suffix == ".txt" else ","
    # "NA" and "None" may be classes; nothing but an empty field is none.
    how: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [""], "engine": "python"}
    rows = pd.read_csv(io.StringIO("\n".join(lines)), sep=delimiter, header=None, **how) if lines else None
    if rows is None:
        raise _NoTableError("is empty")
    if any(images.named(_last(str(cell))) for cell in rows.iloc[0]):  # no heading, but an image
        return rows
    heading = rows.iloc[0].fillna("").str.strip()
    if heading.duplicated().any():
        raise _NoTableError("has two columns of one name")
    return rows[1:].set_axis(heading, axis="columns")


def _text(path: Path) -> str:
    encoded = path.read_bytes()
    if encoded.startswith((b"\xff\xfe", b"\xfe\xff")):
        return encoded.decode("utf-16")
    try:
        return encoded.decode("utf-8-sig")
    except UnicodeDecodeError:
        return encoded.decode("cp1252", "replace")  # what spreadsheets of the West write


def _records(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict) and all(isinstance(label, str | int) for label in value.values()):
        return [{"file": file, "label": label} for file, label in value.items()]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    raise _NoTableError("has no columns of files and classes")


def _last(file: str) -> str:
    return PureWindowsPath(file.strip()).name


def _file_column(frame: "pd.DataFrame", names: dict[str, Any], images: _Images) -> Any:
    """The column that names most images; where none does, one that is called like a column of files."""
    known = [names[name] for name in _FILE if name in names]
    ranked = [*known, *(column for column in frame.columns if column not in known)]
    first = frame.head(500).astype(str)
    # No column but one called so may name images by numbers: a class is one as well.
    hits = {
        column: sum(bool(images.named(_last(cell))) for cell in first[column])
        for column in ranked
        if column in known or not first[column].str.fullmatch(r"\d+").any()
    }
    best = max(hits, key=hits.__getitem__, default=None)
    return best if best is not None and hits[best] else next(iter(known), None)


def _label_column(frame: "pd.DataFrame", names: dict[str, Any], file: Any) -> "pd.Series | None":
    exact = [names[name] for name in _LABEL if name in names]
    alike = [column for name, column in names.items() if _ALSO_LABEL.search(name)]
    for column in [*exact, *alike]:
        if column != file:
            return frame[column]
    others = frame.drop(
        columns=[file, *(c for n, c in names.items() if n in ("", *_SPLIT) or _FLAG.fullmatch(n))]
    )
    values = others.astype(str)
    if others.shape[1] > 1 and values.isin(["0", "1", "0.0", "1.0"]).all(axis=None):
        marks = values.astype(float)
        return marks.idxmax(axis="columns") if (marks.sum(axis="columns") == 1).all() else None
    # A number of its own in each row is no class.
    return (
        others.iloc[:, 0]
        if others.shape[1] == 1 and values.iloc[:, 0].nunique() < max(len(frame), 3)
        else None
    )


def _splits(
    rows: "pd.DataFrame", names: dict[str, Any], path: Path, notes: list[str]
) -> list[str | None] | None:
    """The split that a column says of each row, or None without such a column."""
    for name in (*(name for name in _SPLIT if name in names), *filter(_FLAG.fullmatch, names)):
        words = [str(value).strip() for value in rows[names[name]]]
        flag = _FLAG.fullmatch(name)
        if flag is None:
            splits = [split_of(word) for word in words]
        else:
            yes = split_of(flag[1])
            no = "test" if yes == "train" else "train"
            meant = {**dict.fromkeys(_YES, yes), **dict.fromkeys(_NO, no)}
            splits = [meant.get(word.casefold()) for word in words]
        if any(splits):
            return splits
        notes.append(f"the column {names[name]} of {path} spells no split, and is not read: {words[0]}, ...")
    return None
