"""Image datasets of the Hugging Face hub: by name, at a pinned revision, or as a folder of its Parquet files.

Files are fetched by the hub's own client into the cache that `datasets` and `hf download` fill as well, so
that a copy of whichever origin serves without a network. The `datasets` library itself is not asked to load
them: offline it takes the newest copy it has, whatever revision was asked for, and it stores every image a
second time. Nothing but Parquet is read, and no code of a repository is run.
"""

import re
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # the first: of its HTTP library

from diffinv.datasets.catalogue import DatasetCard, HubSource, Part, with_validation
from diffinv.datasets.decoding import WHITE_OF_16_BITS, DatasetError, MissingSplit, digest_of
from diffinv.datasets.folder import natural_resolution, state_of
from diffinv.datasets.labelled_images import LabelledImages
from diffinv.datasets.layout.names import split_of
from diffinv.datasets.layout.remarks import Remark, left_out, remarks, said_of_pixels, tell, unreadable
from diffinv.datasets.layout.tree import survey
from diffinv.datasets.parquet import (
    Columns,
    encoded_images,
    find_columns,
    holds_images,
    measure,
    read_images,
    read_labels,
)
from diffinv.datasets.selection import Request, choose_per_class, share_of_classes

MEASURED_IMAGES = 1000  # from which a folder's resolution and white follow


def load_hub(name: str, card: DatasetCard, source: HubSource, request: Request) -> LabelledImages:
    """Read one split of a dataset of the catalogue, fetching the files of that split that are not there.

    A number of images per class decodes no more than these: the same that `per_class` would keep of the whole
    split. DatasetError if a file is neither in the cache nor to be had.
    """
    part = source.parts[request.split]
    return _read(
        replace(part, files=[_fetch(name, source, str(file)) for file in part.files]),
        Columns(source.image_column, source.label_column, card.class_names),
        request,
        resolution=request.resolution or card.resolution,
        provenance={
            "dataset": name,
            "split": request.split,
            "source": f"{source.repository} on the Hugging Face hub",
            "revision": source.revision,
            "licence": card.licence,
        },
    )


def is_hub_folder(folder: Path) -> bool:
    """Whether a folder holds Parquet files of images called after a split, as a dataset repository does."""
    return folder.is_dir() and bool(_files_by_configuration(folder))


def load_hub_folder(folder: Path, request: Request) -> LabelledImages:
    """Read one split of a copy of a dataset repository, such as data/train-00000-of-00001.parquet.

    Classes are called as the files say. Where there are no validation files, a tenth of every class of train
    is the validation split, always the same one. Without `resolution` it follows from the first 1,000 images
    of train, as that of a folder of images does. DatasetError if the folder holds several datasets or lacks
    the split, or if the files do not declare an image and a class.
    """
    configurations = _files_by_configuration(folder)
    if images := survey(folder)[0].every_image():
        both = f"{folder} holds Parquet files called after a split and images, such as {images[0]}"
        raise DatasetError(f"{both}: put one of the two elsewhere.")
    if len(configurations) > 1:
        names = ", ".join(sorted(configurations))
        raise DatasetError(f"{folder} holds several datasets ({names}): give the folder of one of them.")
    (files,) = configurations.values()
    parts = {split: Part(tuple(paths)) for split, paths in files.items()}
    if "train" in files and "validation" not in files:
        parts |= with_validation(parts["train"].files)
    for needed in ("train", request.split):
        if needed not in parts:
            raise MissingSplit(f"{folder} has no {needed} files beside {', '.join(files)}: add them.")
    train = files["train"]
    columns = find_columns(train)
    sides, white = measure(train, columns, MEASURED_IMAGES)
    resolution = request.resolution or natural_resolution(sides)
    state = tuple(state_of(path) for paths in files.values() for path in paths)
    tell(None, _remarks(folder, tuple(parts.items()), columns, state))
    return _read(
        parts[request.split],
        columns,
        request,
        resolution=resolution,
        white=white,
        folder=folder,
        provenance={"dataset": str(folder), "split": request.split, "resolution": resolution},
    )


@lru_cache(maxsize=16)  # each split asks for those of all
def _remarks(
    folder: Path, parts: tuple[tuple[str, Part], ...], columns: Columns, state: tuple[tuple[int, ...], ...]
) -> tuple[Remark, ...]:
    """What is to be known of all splits; images are compared where that takes reading no more than 1 GB."""
    splits: dict[str, dict[str, list[str]]] = {}
    digests: dict[str, bytes] = {}
    for split, part in parts:
        files = [Path(file) for file in part.files]
        with suppress(DatasetError):  # said where the split is asked for
            ids, labels = read_labels([(_split_of(file) or split, file) for file in files], columns)
            chosen = share_of_classes(ids, labels, part.start, part.end)
            classes = splits.setdefault(split, {name: [] for name in columns.class_names})
            for index in chosen:
                classes[columns.class_names[labels[index]]].append(ids[index])
            if sum(size for size, *_ in state) <= 1e9:
                encoded = (data for _, data in encoded_images(files, columns, chosen))
                digests |= {ids[index]: digest_of(data) for index, data in zip(chosen, encoded, strict=True)}
    return tuple(remarks(folder, splits, digests)) if "train" in splits else ()


def _fetch(name: str, source: HubSource, file: str) -> Path:
    try:
        path = hf_hub_download(source.repository, file, repo_type="dataset", revision=source.revision)
    except (OSError, ValueError, HTTPError) as error:
        offline = isinstance(error, LocalEntryNotFoundError)
        reason = "no network" if offline else str(error).strip().split("\n")[0].rstrip(".")
        raise DatasetError(
            f'"{name}" is not in the Hugging Face cache and could not be fetched ({reason}): connect to the '
            f"network once, or give the folder of a copy of {source.repository}."
        ) from error
    return Path(path)


def _read(
    part: Part,
    columns: Columns,
    request: Request,
    *,
    resolution: int,
    provenance: dict[str, Any],
    white: int = WHITE_OF_16_BITS,
    folder: Path | None = None,
) -> LabelledImages:
    paths = [Path(file) for file in part.files]
    ids, labels = read_labels([(_split_of(path) or request.split, path) for path in paths], columns)
    chosen = share_of_classes(ids, labels, part.start, part.end)
    if request.images_per_class is not None:
        known = [ids[index] for index in chosen], labels[chosen], columns.class_names
        chosen = chosen[choose_per_class(*known, request.images_per_class, seed=request.seed)]
    images, headers, errors = read_images(paths, columns, chosen, resolution, request.fit, white)
    if errors and not (request.skip_damaged and len(errors) < len(chosen)):
        raise DatasetError(unreadable(list(errors.values())))
    if folder is not None:
        tell(None, said_of_pixels(folder, request.split, headers, request.fit, white))
    if errors:
        tell(None, left_out(paths[0].parent, list(errors.values())))
        images, chosen = np.delete(images, list(errors), axis=0), np.delete(chosen, list(errors))
    return LabelledImages(
        images=images,
        labels=labels[chosen],
        class_names=columns.class_names,
        ids=tuple(ids[index] for index in chosen),
        provenance=provenance,
    )


def _files_by_configuration(folder: Path) -> dict[str, dict[str, list[Path]]]:
    # Repositories keep their files at the top, in "data", or in a folder per configuration; the hub's own
    # conversions to Parquet have a folder per split below that.
    found: dict[str, dict[str, list[Path]]] = {}
    paths = [path for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(f"{pattern}.parquet")]
    for path in sorted(paths):
        inside = path.relative_to(folder)
        if (split := _split_of(inside)) and holds_images(path):
            home = inside.parent.parent if _is_numbered(inside) else inside.parent
            found.setdefault(home.as_posix(), {}).setdefault(split, []).append(path)
    return found


def _is_numbered(path: Path) -> bool:
    return re.fullmatch(r"\d+", path.stem) is not None


def _split_of(path: Path) -> str | None:
    # "train-00000-of-00001.parquet", "train.parquet" or "train/0000.parquet".
    word = path.parent.name if _is_numbered(path) else path.stem.split("-")[0]
    return split_of(word)
