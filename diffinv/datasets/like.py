"""Images of the classes of another set: a synthetic set beside its real one, or other images to test on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffinv.datasets.decoding import DatasetError, read_image, to_square
from diffinv.datasets.folder import SUFFIXES
from diffinv.datasets.labelled_images import LabelledImages, is_saved


def load_like(folder: Path, real: LabelledImages) -> LabelledImages:
    """Every image of a folder, its labels and its resolution those of `real`; a class may have none.

    The folder holds what `LabelledImages.save` wrote, or folders called as the classes of `real`.
    DatasetError for a class that `real` has not, or where there is no image.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: give one that holds a folder of images per class.")
    if not is_saved(folder):
        return _read_class_folders(folder, real)
    found = LabelledImages.load(folder)
    _check_classes(folder, found.class_names, real)
    labels = np.array([real.class_names.index(name) for name in found.class_names])[found.labels]
    return replace(found, labels=labels, class_names=real.class_names).resize(real.resolution)


def _read_class_folders(folder: Path, real: LabelledImages) -> LabelledImages:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    _check_classes(folder, [path.name for path in classes], real)
    files = [
        path
        for folder_of_class in classes
        for path in sorted(folder_of_class.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    if not files:
        raise DatasetError(f"{folder} holds no image: put the images of each class into a folder of its own.")
    names = [path.relative_to(folder) for path in files]
    return LabelledImages(
        images=np.stack([to_square(read_image(path), real.resolution, path) for path in files]),
        labels=np.array([real.class_names.index(name.parts[0]) for name in names]),
        class_names=real.class_names,
        ids=tuple(name.as_posix() for name in names),
        provenance={"dataset": str(folder)},
    )


def _check_classes(folder: Path, names: Sequence[str], real: LabelledImages) -> None:
    if unknown := sorted(set(names) - set(real.class_names)):
        raise DatasetError(
            f'{folder} has the class "{unknown[0]}", which the real images have not: rename or remove it.'
        )
