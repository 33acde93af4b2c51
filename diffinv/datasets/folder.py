"""A folder of class folders as a dataset: any image format, with or without splits, or a set saved before."""

import statistics
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.writing import PROVENANCE_FILE, read_json
from diffinv.datasets.decoding import DatasetError, encoded_size, read_bytes, read_image, to_square
from diffinv.datasets.labelled_images import LabelledImages, is_saved

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
HELD_OUT_SHARE = 0.15  # for the validation and again for the test split


def load_folder(folder: Path, *, split: str, resolution: int | None, seed: int) -> LabelledImages:
    """Read one split of a folder.

    `folder/train/<class>/*`, with `validation` (or `val`) and `test` beside it, is read as it is.
    `folder/<class>/*` is split 70/15/15 within each class by a hash of the seed and the file name, so that a
    new file moves hardly any other; a class of one or two images goes to train. What `LabelledImages.save`
    wrote is a train split, or may stand in the place of each split folder, and keeps its resolution. That of
    other images is, unless given, the median shorter side, rounded to a multiple of 8 between 32 and 512.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: give one that holds a folder of images per class.")
    if is_saved(folder):
        if split != "train":
            raise DatasetError(f'{folder} is one saved set without splits: ask for split="train".')
        return LabelledImages.load(folder)
    splits = _split_folders(folder)
    if not splits:
        classes = _find_images(folder)
        chosen = {name: _share(paths, folder, split, seed) for name, paths in classes.items()}
        if not any(chosen.values()):
            raise DatasetError(f"{folder} has too few images for a {split} split: a class needs three.")
        return _read(folder, classes, chosen, split=split, resolution=resolution, seed=seed)
    if split not in splits:
        raise DatasetError(f"{folder} has no {split} folder beside {', '.join(splits)}: add one.")
    if all(is_saved(path) for path in splits.values()):
        data = LabelledImages.load(splits[split])
        if list(data.class_names) != read_json(splits["train"] / PROVENANCE_FILE)["class_names"]:
            twins = f"{splits[split]} and {splits['train']}"
            raise DatasetError(f"{twins} have different classes: save both with the same.")
        return data
    classes = _find_images(splits["train"])
    chosen = classes if split == "train" else _find_images(splits[split])
    if unknown := sorted(set(chosen) - set(classes)):
        stranger = f'{splits[split]} has the class "{unknown[0]}"'
        raise DatasetError(f"{stranger}, which {splits['train']} has not: add it there.")
    return _read(folder, classes, chosen, split=split, resolution=resolution)


def load_like(folder: Path, real: LabelledImages) -> LabelledImages:
    """Every image of a folder, with the classes and the resolution of `real`; a class may have none.

    The folder holds what `LabelledImages.save` wrote, or folders called as the classes of `real`.
    DatasetError for a class that `real` has not, or where there is no image.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: give one that holds a folder of images per class.")
    saved = LabelledImages.load(folder) if is_saved(folder) else None
    chosen = {path.name: _images(path) for path in _folders(folder)} if saved is None else {}
    names = chosen if saved is None else saved.class_names
    if unknown := sorted(set(names) - set(real.class_names)):
        raise DatasetError(
            f'{folder} has the class "{unknown[0]}", which the real images have not: rename or remove it.'
        )
    if saved is not None:
        labels = np.array([real.class_names.index(name) for name in saved.class_names])[saved.labels]
        return replace(saved, labels=labels, class_names=real.class_names).resize(real.resolution)
    if not any(chosen.values()):
        raise DatasetError(f"{folder} holds no image: put the images of each class into a folder of its own.")
    empty: dict[str, list[Path]] = {name: [] for name in real.class_names}
    return _read(folder, empty, chosen, split="all", resolution=real.resolution)


def _split_folders(folder: Path) -> dict[str, Path]:
    # A class may be called "train": it is a split only where it holds folders itself.
    by_name = {path.name.lower(): path for path in _folders(folder)}
    found = {
        split: by_name[alias]
        for split, aliases in SPLIT_FOLDERS.items()
        for alias in aliases
        if alias in by_name and _folders(by_name[alias])
    }
    return found if "train" in found else {}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    # Hidden files are thumbnails and the "._name.png" that macOS leaves on foreign disks.
    return sorted(path for path in files if not path.name.startswith("."))


def _find_images(folder: Path) -> dict[str, list[Path]]:
    classes = {path.name: _images(path) for path in _folders(folder)}
    if not classes:
        found = "images but no class folder" if _images(folder) else "no class folder"
        raise DatasetError(f"{folder} holds {found}: put the images of each class into a folder of its own.")
    by_key: dict[str, str] = {}
    for name, paths in classes.items():
        twin = by_key.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            twins = f'the class folders "{twin}" and "{name}" in {folder}'
            raise DatasetError(f"{twins} differ only in case: merge or rename them.")
        if not paths:
            raise DatasetError(f"the class folder {folder / name} holds no image: fill it, or take it out.")
    return classes


def _share(paths: list[Path], root: Path, split: str, seed: int) -> list[Path]:
    # The path is normalised because macOS stores accented names in another form.
    ranked = sorted(paths, key=lambda path: content_key(seed, unicodedata.normalize("NFC", _id(path, root))))
    held_out = max(1, round(HELD_OUT_SHARE * len(paths))) if len(paths) >= 3 else 0
    parts = {
        "test": ranked[:held_out],
        "validation": ranked[held_out : 2 * held_out],
        "train": ranked[2 * held_out :],
    }
    return sorted(parts[split])


def _id(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _read(
    folder: Path,
    classes: dict[str, list[Path]],
    chosen: dict[str, list[Path]],
    *,
    split: str,
    resolution: int | None,
    seed: int | None = None,
) -> LabelledImages:
    # From all images, not from those of this split: every split must come out at one resolution.
    every = (path for paths in classes.values() for path in paths)
    sides = (min(encoded_size(read_bytes(path), path)) for path in every)
    resolution = resolution or natural_resolution(sides)
    names = list(classes)
    files = [(path, names.index(name)) for name in names for path in chosen.get(name, [])]
    images = np.empty((len(files), resolution, resolution, 3), np.uint8)
    for index, (path, _) in enumerate(files):
        images[index] = to_square(read_image(path), resolution, path)
    provenance = {"dataset": str(folder), "split": split, "resolution": resolution}
    return LabelledImages(
        images=images,
        labels=np.asarray([label for _, label in files], dtype=np.int64),
        class_names=tuple(names),
        ids=tuple(_id(path, folder) for path, _ in files),
        provenance=provenance if seed is None else {**provenance, "split_seed": seed},
    )


def natural_resolution(shorter_sides: Iterable[int]) -> int:
    """The median shorter side, rounded to a multiple of 8 between 32 and 512."""
    return min(max(8 * round(statistics.median(shorter_sides) / 8), 32), 512)
