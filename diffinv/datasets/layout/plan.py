"""One look at a folder, and what its images are taken for: a plan, before any of them is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffinv.datasets.decoding import DatasetError
from diffinv.datasets.layout.names import readable, split_of, splits_among
from diffinv.datasets.layout.tables import (
    Labelled,
    Table,
    check_distinct,
    label_images,
    tables_of,
    why_no_table,
)
from diffinv.datasets.layout.tree import Tree, survey
from diffinv.foundation.errors import listed

ClassLevel = Literal["top", "leaf"]
Classes = dict[str, tuple[Path, ...]]
SPLITS, UNDIVIDED = ("train", "validation", "test"), "all"
# Folders called so hold the images of all classes, or a mask of each image.
_CONTAINERS = {
    *("images", "image", "imgs", "img", "photos", "pictures", "data", "dataset", "jpegimages", "all"),
    *("masks", "mask", "labels", "annotations", "segmentation", "segmentations", "groundtruth"),
    "ground_truth",
}
_REMEDY = (
    "put the images of each class into a folder of its own, or list them in a labels.csv with the columns "
    "path and label"
)


@dataclass(frozen=True)
class Layout:
    """What a folder of images is taken for; as text, a sentence on that and one on each thing to know.

    `files` has the images of every class in every split, or of all in "all" where the folder has no splits.
    `notes` are what a reader of the folder would not expect: what is passed over, merged or unwrapped.
    """

    folder: Path
    files: Mapping[str, Classes]
    summary: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((self.summary, *self.notes))


def look_at(folder: Path, class_level: ClassLevel | None = None) -> Layout:
    """Recognise how the images in a folder are arranged; DatasetError asks where that is not sure.

    Splits are folders whose names spell them, at the top, below wrapping folders, or inside each class.
    Classes are folders, or stand in a table. Where class folders hold further folders of images,
    `class_level` says which of both are the classes: the "top" ones, or each "leaf" with images in it.
    """
    tree, found = survey(folder)
    notes = list(found)
    if not tree.every_image():
        raise DatasetError(_no_image(tree, found))
    here = _unwrap(tree, notes)
    if splits := _splits_inside_classes(here):
        how = "splits inside the class folders"
    elif labelled := _from_tables(here, notes, class_level):
        splits, how = labelled
    elif parts := _split_folders(here, class_level, notes):
        # A table may label each split: it is then looked for in the split's own folder.
        splits = {split: _classes(part, class_level, notes) for split, part in parts.items()}
        how = f"splits {', '.join(parts[split].path.name for split in SPLITS if split in parts)}"
    else:
        splits, how = {UNDIVIDED: _classes(here, class_level, notes)}, "class folders without splits"
    splits = {split: splits[split] for split in (UNDIVIDED, *SPLITS) if split in splits}
    counts = {split: [f"{len(paths)} {name}" for name, paths in own.items()] for split, own in splits.items()}
    said = "; ".join(f"{split} with {listed(named, 12)}" for split, named in counts.items())
    return Layout(folder, splits, f"{readable(str(folder))}: {how}; {said}.", tuple(notes))


def class_folders(folder: Path) -> tuple[Classes, tuple[str, ...]]:
    """The images in each folder of a folder, a folder without any included, and what was passed over."""
    tree, notes = survey(folder)
    return {readable(sub.path.name): sub.every_image() for sub in tree.folders}, notes


def _no_image(tree: Tree, notes: tuple[str, ...]) -> str:
    tables = [path for sub in tree.every() for path in sub.tables if path.suffix.lower() == ".parquet"]
    if tables:
        names = listed([str(path) for path in tables], 3)
        return (
            f"{tree.path} holds no image but Parquet files, none of which has images inside and is called "
            f"after a split ({names}): rename the one with the training images to train.parquet."
        )
    why = f" ({' '.join(notes).rstrip('.')})" if notes else ""
    if tree.folders:
        empty = listed([str(sub.path) for sub in tree.folders])
        return f"the class folder {empty} holds no image{why}: fill it, or take it out."
    return f"{tree.path} holds no class folder and no image{why}: unpack what is packed, or {_REMEDY}."


def _unwrap(tree: Tree, notes: list[str]) -> Tree:
    filled = tree.filled()
    if tree.images or len(filled) != 1 or tables_of(tree, []):
        return tree
    (inner,) = filled
    # As in seg_train/seg_train/<class>, where an archive was unpacked into a folder of its own name.
    other_split = split_of(inner.path.name) not in (None, split_of(tree.path.name))
    if inner.images or not inner.filled() or other_split:
        return tree
    notes.append(f"{readable(str(inner.path))} is taken for a wrapper: the folders in it are read.")
    return _unwrap(inner, notes)


def _from_tables(
    here: Tree, notes: list[str], level: ClassLevel | None = None
) -> tuple[dict[str, Classes], str] | None:
    """The images of every class in every split by the tables that lie here, and what these say; or None."""
    tables = tables_of(here, notes)
    unlisted: list[str] = []
    labelled = label_images(tables, here, unlisted) if tables else []
    if not labelled or _folders_say_it_already(labelled, tables, here, notes):
        return None
    where = listed([table.path.name for table in tables])
    how = f"classes from {where}"
    if all(label is None for table in tables for _, label, _ in table.rows):
        how = f"splits from {where}, classes from the folders"
        if any(_no_class(image.path.parent.name) or image.path.parent == here.path for image in labelled):
            notes.append(f"{where} says splits and no class, and is not read.")
            return None
    of_each = {image.split for image in labelled}
    if None in of_each and len(of_each) > 1:
        unknown = [image for image in labelled if image.split is None]
        notes.append(f"{len(unknown)} images have no split in {tables[0].path}, and are not read.")
    splits = {
        split or UNDIVIDED: _by_label([image for image in labelled if image.split == split])
        for split in (of_each if of_each == {None} else SPLITS)
        if split in of_each
    }
    spelled = splits_among(sub.path.name for sub in here.filled())
    train = next((sub for sub in here.filled() if spelled.get(sub.path.name) == "train"), None)
    if train is None or not train.filled() or not {"train", UNDIVIDED}.isdisjoint(splits):
        notes += unlisted
        return splits, how
    # As where a competition has class folders to train on, and a list of loose images to test on.
    classes = _classes(train, level, notes)
    if strangers := sorted({name for split in splits.values() for name in split} - set(classes)):
        notes.append(f'{where} is not read: it has the class "{strangers[0]}", which train has not.')
        return None
    return {"train": classes, **splits}, f"train from {train.path.name}, {how}"


def _by_label(labelled: list[Labelled]) -> Classes:
    names = {image.label for image in labelled}
    ordered = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    return {name: tuple(image.path for image in labelled if image.label == name) for name in ordered}


def _folders_say_it_already(
    labelled: list[Labelled], tables: list[Table], here: Tree, notes: list[str]
) -> bool:
    """Whether folders and table say the same classes; DatasetError if they contradict each other."""
    where = listed([str(table.path) for table in tables])
    labels = {image.label for image in labelled}
    folders = [
        {readable(name) for name in image.path.relative_to(here.path).parts[:-1]} for image in labelled
    ]
    called = [image.label in names for image, names in zip(labelled, folders, strict=True)]
    for image, names, same in zip(labelled, folders, called, strict=True):
        if names & labels and not same:
            said = f"{image.path} is {image.label} there"
            raise DatasetError(f"{where} contradicts the folders ({said}): take it out, or move the images.")
    pairs = {(image.path.parent, image.label) for image in labelled}
    parents = {parent for parent, _ in pairs}
    plain = all(_no_class(path.name) for path in parents)
    one_to_one = len(parents) > 1 and not plain and len(pairs) == len(parents) == len(labels)
    if any(split for table in tables for _, _, split in table.rows) and "train" in {
        i.split for i in labelled
    }:
        return False  # the folders do not say the splits
    if all(called) or one_to_one:
        notes.append(f"{where} is not read: the folders say the same classes.")
        return True
    return False


def _splits_inside_classes(here: Tree) -> dict[str, Classes]:
    filled = here.filled()
    if len(filled) < 2 or len(splits_among(sub.path.name for sub in filled)) == len(filled):
        return {}
    found: dict[str, Classes] = {}
    for sub in filled:
        parts = sub.filled()
        splits = splits_among(part.path.name for part in parts)
        if sub.images or len(splits) < len(parts) or any(part.filled() for part in parts):
            return {}
        _check_spelled_once(sub, list(parts))
        for part in parts:
            found.setdefault(splits[part.path.name], {})[readable(sub.path.name)] = part.every_image()
    return found if "train" in found else {}


def _split_folders(here: Tree, level: ClassLevel | None, notes: list[str]) -> dict[str, Tree]:
    splits = splits_among(sub.path.name for sub in here.folders)
    # A class may be called "train": it is a split only where it holds folders itself, or a table.
    spelled = [sub for sub in here.filled() if sub.path.name in splits]
    parts = [sub for sub in spelled if _has_classes(sub) or tables_of(sub, [])]
    others = [sub for sub in here.filled() if sub not in spelled]
    if not parts or (level == "top" and len(parts) < 2):
        return {}
    if "train" not in [splits[part.path.name] for part in parts]:
        if others:
            return {}
        there = listed([part.path.name for part in parts])
        raise DatasetError(f"{here.path} has no train folder with class folders beside {there}: add it.")
    _check_spelled_once(here, parts)
    inside = {sub.path.name for part in parts for sub in part.filled()}
    alike = all({sub.path.name for sub in other.filled()} & inside for other in others)
    if len(spelled) == 1 and others and not alike:
        return {}
    loose = [sub for sub in spelled if sub not in parts]
    for extra, why in ((others, "beside the splits"), (loose, "without class folders or a table")):
        if extra:
            names = listed([f"{sub.path} ({len(sub.every_image())} images)" for sub in extra])
            notes.append(f"folders {why} are not read: {names}.")
    if here.images:
        notes.append(_outside(here))
    return {splits[part.path.name]: _unwrap(part, notes) for part in parts}


def _has_classes(split: Tree) -> bool:
    # A second folder of the split's own name, as in test/test, only wraps its images.
    return any(sub.filled() or split_of(sub.path.name) is None for sub in split.filled())


def _no_class(name: str) -> bool:
    return split_of(name) is not None or name.casefold() in _CONTAINERS


def _check_spelled_once(here: Tree, parts: list[Tree]) -> None:
    splits = splits_among(part.path.name for part in parts)
    for split in set(splits.values()):
        same = [name for name, spelled in splits.items() if spelled == split]
        if len(same) > 1:
            both = " and ".join(same)
            raise DatasetError(f"in {here.path} {both} both spell the {split} split: merge or rename them.")


def _outside(here: Tree) -> str:
    names = listed([readable(path.name) for path in here.images], 3)
    count = len(here.images)
    return f"{count} images in {here.path} lie outside every class folder, and are not read: {names}."


def _classes(here: Tree, level: ClassLevel | None, notes: list[str]) -> Classes:
    if found := _from_tables(here, notes):
        every = found[0].values()
        labels = dict.fromkeys(label for classes in every for label in classes)
        return {label: tuple(path for own in every for path in own.get(label, ())) for label in labels}
    filled = here.filled()
    unread = f" ({why_no_table(here)})" if here.tables else ""
    if not filled:
        raise DatasetError(f"{here.path} holds images but no class folder{unread}: {_REMEDY}.")
    if empty := [str(sub.path) for sub in here.folders if not sub.every_image()]:
        raise DatasetError(f"the class folder {listed(empty)} holds no image: fill it, or take it out.")
    if here.images:
        notes.append(_outside(here))
    names = [sub.path.name for sub in filled]
    if level is None and (all(map(_no_class, names)) or (here.tables and len(filled) == 1)):
        raise DatasetError(
            f"{here.path} holds images but no class folder, only {listed(names)}{unread}: {_REMEDY}, or "
            'choose class_level="top" if these are the classes.'
        )
    leaves = [leaf for sub in filled for leaf in sub.every() if leaf.images]
    nested = [sub for sub in filled if sub.filled()]
    if level is None and any(not sub.images for sub in nested):
        _ask(here, filled, leaves, nested)
    if nested and level != "leaf":
        within = listed([str(sub.path) for tree in nested for sub in tree.filled()])
        notes.append(f"images in folders within class folders are taken for that class: {within}.")
    classes: dict[str, list[Path]] = {}
    chosen = leaves if level == "leaf" else filled
    check_distinct({tree.path.name for tree in chosen}, str(here.path))
    for tree in chosen:
        images = tree.images if level == "leaf" else tree.every_image()
        classes.setdefault(readable(tree.path.name), []).extend(images)
    if level == "leaf" and len(classes) < len(leaves):
        notes.append(f"folders of one name in {here.path} are taken for one class.")
    return {name: tuple(sorted(classes[name])) for name in sorted(classes)}


def _ask(here: Tree, tops: tuple[Tree, ...], leaves: list[Tree], nested: list[Tree]) -> None:
    top = listed([sub.path.name for sub in tops], 6)
    leaf = listed(sorted({sub.path.name for sub in leaves}), 6)
    split = next((f", or give {sub.path} itself" for sub in nested if split_of(sub.path.name)), "")
    raise DatasetError(
        f"{here.path} holds folders of images within folders, such as {nested[0].filled()[0].path}: choose "
        f'class_level="top" for the classes {top}, or class_level="leaf" for {leaf}{split}.'
    )
