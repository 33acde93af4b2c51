"""Datasets: one call for those that ship with the package and for any folder of class folders."""

from pathlib import Path

from diffinv.datasets.decoding import DatasetError
from diffinv.datasets.embedded import SPLITS, embedded_names, load_embedded
from diffinv.datasets.folder import load_folder
from diffinv.datasets.labelled_images import LabelledImages, check_resolution

__all__ = ["DatasetError", "LabelledImages", "embedded_names", "load_dataset"]


def load_dataset(
    name_or_folder: str | Path, *, split: str = "train", resolution: int | None = None, seed: int = 0
) -> LabelledImages:
    """Load the "train", "validation" or "test" split of an embedded dataset or of a folder of class folders.

    `resolution` None keeps an embedded dataset's own, and for a folder takes the median shorter side of its
    images, rounded to a multiple of 8 between 32 and 512. `seed` splits a folder that has no splits. A folder
    that is called like an embedded dataset is read if given as a Path or "./name".

    DatasetError (a ValueError) names what is wrong: an unknown dataset or split, no class, a class without
    images or twice with different case, an image that is empty, damaged or more than 8 times as long as wide.
    """
    if split not in SPLITS:
        raise DatasetError(f'there is no split "{split}": choose "train", "validation" or "test".')
    if resolution is not None:
        check_resolution(resolution)
    known = embedded_names()
    if isinstance(name_or_folder, str) and name_or_folder in known:
        return load_embedded(name_or_folder, split=split, resolution=resolution)
    folder = Path(name_or_folder).expanduser()
    if not folder.exists():
        choices = f"choose {', '.join(known)}, or give a folder of class folders"
        raise DatasetError(f'there is no dataset or folder "{name_or_folder}": {choices}.')
    return load_folder(folder, split=split, resolution=resolution, seed=seed)
