"""A folder of class folders as a dataset: any image format, with or without splits, or a set saved before."""

import statistics
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.writing import PROVENANCE_FILE, read_json
from diffinv.datasets.decoding import (
    DatasetError,
    Fit,
    Header,
    MissingSplit,
    UnreadableImage,
    digest_of,
    header_of,
    read_bytes,
    read_image,
    to_square,
    what_it_is,
    white_level,
)
from diffinv.datasets.labelled_images import LabelledImages, is_saved
from diffinv.datasets.layout.names import split_of, storable, twins
from diffinv.datasets.layout.plan import UNDIVIDED, Classes, class_folders, look_at
from diffinv.datasets.layout.remarks import Remark, left_out, remarks, said_of_pixels, tell, unreadable
from diffinv.datasets.selection import Request

HELD_OUT_SHARE = 0.15  # for the validation and again for the test split


def load_folder(folder: Path, request: Request) -> LabelledImages:
    """Read one split of a folder, arranged in any way that `look_at` recognises.

    Without splits of its own a folder is split 70/15/15 within each class by a hash of the seed and the file
    name, so that a new file moves hardly any other; a class of one or two images goes to train. What
    `LabelledImages.save` wrote is a train split, or may stand in the place of each split folder, and keeps
    its resolution. That of other images is, unless given, the median shorter side, rounded to a multiple of 8
    between 32 and 512. What is skipped, merged or odd is logged.
    """
    if not folder.is_dir():
        raise DatasetError(_no_folder(folder))
    split = request.split
    if is_saved(folder):
        if split != "train":
            raise MissingSplit(f'{folder} is one saved set without splits: ask for split="train".')
        return LabelledImages.load(folder)
    if saved := _saved_splits(folder):
        return _load_saved(folder, saved, split)
    layout = look_at(folder, request.class_level)
    undivided = layout.files.get(UNDIVIDED)
    splits = layout.files if undivided is None else _divide(undivided, folder, request.seed)
    for needed in ("train", split):
        if needed not in splits:
            raise MissingSplit(f"{folder} has no {needed} folder beside {', '.join(splits)}: add one.")
    if not any(splits[split].values()):
        raise MissingSplit(f"{folder} has too few images for a {split} split: a class needs three.")
    _check_classes(folder, splits["train"], splits[split], split)
    files = _examine([path for classes in splits.values() for paths in classes.values() for path in paths])
    tell(layout, remarks(folder, splits, {path: seen.digest for path, seen in files.items() if seen.digest}))
    # Every split must come out at one resolution, and no image of test may change that of train.
    measured = splits if undivided is not None else {"train": splits["train"]}
    sides = [
        min(files[path].header.size)
        for classes in measured.values()
        for paths in classes.values()
        for path in paths
        if files[path].error is None
    ]
    resolution = request.resolution or (natural_resolution(sides) if sides else 32)
    request = replace(request, resolution=resolution)
    seed = None if undivided is None else request.seed
    return _read(folder, tuple(splits["train"]), splits[split], files, request, seed=seed)


def load_like(folder: Path, real: LabelledImages) -> LabelledImages:
    """Every image of a folder, with the classes and the resolution of `real`; a class may have none.

    The folder holds what `LabelledImages.save` wrote, or folders called as the classes of `real`.
    DatasetError for a class that `real` has not, or where there is no image.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: give one that holds a folder of images per class.")
    saved = LabelledImages.load(folder) if is_saved(folder) else None
    chosen, notes = class_folders(folder) if saved is None else ({}, ())
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
    tell(None, map(Remark, notes))
    files = _examine([path for paths in chosen.values() for path in paths])
    return _read(folder, real.class_names, chosen, files, Request("all", real.resolution))


def natural_resolution(shorter_sides: Iterable[int]) -> int:
    """The median shorter side, rounded to a multiple of 8 between 32 and 512."""
    return min(max(8 * round(statistics.median(shorter_sides) / 8), 32), 512)


def _no_folder(path: Path) -> str:
    what, remedy = what_it_is(read_bytes(path)[:256]) or (
        ("a Parquet file", "give the folder that holds it, and call it train.parquet")
        if path.suffix == ".parquet"
        else ("not a folder", "give one that holds a folder of images per class")
    )
    return f"{path} is {what}: {remedy}."


def _saved_splits(folder: Path) -> dict[str, Path]:
    found = {split: path for path in sorted(folder.iterdir()) if (split := split_of(path.name))}
    return found if "train" in found and all(map(is_saved, found.values())) else {}


def _load_saved(folder: Path, splits: Mapping[str, Path], split: str) -> LabelledImages:
    if split not in splits:
        raise MissingSplit(f"{folder} has no {split} folder beside {', '.join(splits)}: add one.")
    data = LabelledImages.load(splits[split])
    if list(data.class_names) != read_json(splits["train"] / PROVENANCE_FILE)["class_names"]:
        both = f"{splits[split]} and {splits['train']}"
        raise DatasetError(f"{both} have different classes: save both with the same.")
    return data


def _check_classes(folder: Path, train: Classes, chosen: Classes, split: str) -> None:
    for name in sorted(set(chosen) - set(train)):
        stranger = f'the {split} split of {folder} has the class "{name}"'
        for known in train:
            if how := twins(name, known):
                raise DatasetError(f'{stranger} and train has "{known}", which differs {how}: rename one.')
        raise DatasetError(f"{stranger}, which train has not: add it there.")


def _divide(classes: Classes, root: Path, seed: int) -> dict[str, Classes]:
    parts: dict[str, Classes] = {"train": {}, "validation": {}, "test": {}}
    for name, paths in classes.items():
        # The path is normalised because macOS stores accented names in another form.
        ranked = sorted(
            paths, key=lambda path: content_key(seed, unicodedata.normalize("NFC", _id(path, root)))
        )
        held_out = max(1, round(HELD_OUT_SHARE * len(paths))) if len(paths) >= 3 else 0
        parts["test"][name] = tuple(sorted(ranked[:held_out]))
        parts["validation"][name] = tuple(sorted(ranked[held_out : 2 * held_out]))
        parts["train"][name] = tuple(sorted(ranked[2 * held_out :]))
    return parts


def _id(path: Path, root: Path) -> str:
    return storable(path.relative_to(root).as_posix())


class _Seen(NamedTuple):
    """What is known of a file before its pixels are decoded."""

    header: Header = Header()
    digest: bytes = b""
    error: UnreadableImage | None = None


def _examine(paths: list[Path]) -> dict[Path, _Seen]:
    files = {}
    for path in paths:
        try:
            files[path] = _see(path, state_of(path))
        except UnreadableImage as error:
            files[path] = _Seen(error=error)
    return files


def state_of(path: Path) -> tuple[int, ...]:
    """What changes with a file's content, as far as that is known without reading it."""
    try:
        about = path.stat()
    except OSError:  # said where the file is read
        return ()
    return about.st_size, about.st_mtime_ns, about.st_ino


@lru_cache(maxsize=1 << 16)  # each split of a folder looks at the files of all: they are read once
def _see(path: Path, _state: tuple[int, ...]) -> _Seen:
    encoded = read_bytes(path)
    return _Seen(header_of(encoded, path), digest_of(encoded))


def _read(
    folder: Path,
    class_names: tuple[str, ...],
    chosen: Mapping[str, Iterable[Path]],
    files: Mapping[Path, _Seen],
    request: Request,
    *,
    seed: int | None = None,
) -> LabelledImages:
    resolution = request.resolution or 0
    # Of all images: those of one folder come from one camera, whose bits the files do not tell.
    white = white_level(max((seen.header.greatest for seen in files.values()), default=0))
    damaged = {path: seen.error for path, seen in files.items() if seen.error is not None}
    wanted = [(path, class_names.index(name)) for name in chosen for path in chosen[name]]
    images = np.empty((len(wanted), resolution, resolution, 3), np.uint8)
    kept: list[tuple[Path, int]] = []
    for path, label in wanted:
        try:
            if path not in damaged:
                square = to_square(read_image(path, white=white), resolution, path, request.fit)
                images[len(kept)] = square
                kept.append((path, label))
        except UnreadableImage as error:
            damaged[path] = error
    if damaged and not (request.skip_damaged and kept):
        raise DatasetError(unreadable(_every_error(damaged, files, request.fit)))
    tell(None, left_out(folder, [damaged[path] for path in sorted(damaged)]))
    headers = {path: files[path].header for path, _ in kept}
    tell(None, said_of_pixels(folder, request.split, headers, request.fit, white))
    provenance = {"dataset": storable(str(folder)), "split": request.split, "resolution": resolution}
    if request.fit != "crop":
        provenance["fit"] = request.fit
    if seed is not None:
        provenance["split_seed"] = seed
    return LabelledImages(
        images=images[: len(kept)],
        labels=np.asarray([label for _, label in kept], dtype=np.int64),
        class_names=class_names,
        ids=tuple(_id(path, folder) for path, _ in kept),
        provenance=provenance,
    )


def _every_error(
    damaged: Mapping[Path, UnreadableImage], files: Mapping[Path, _Seen], fit: Fit
) -> list[UnreadableImage]:
    # One is there, so that all are looked for, in the other splits too.
    found = dict(damaged)
    for path in files:
        try:
            if path not in found:
                to_square(read_image(path), 1, path, fit)
        except UnreadableImage as error:
            found[path] = error
    return [found[path] for path in sorted(found)]
