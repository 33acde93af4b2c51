"""Datasets: one call for those that ship with the package, for the paper's, and for any folder of images."""

import re
from pathlib import Path
from typing import get_args

from diffinv.datasets.catalogue import CATALOGUE, DatasetCard, Depiction, HubSource, dataset_card, depiction
from diffinv.datasets.decoding import DatasetError, Fit
from diffinv.datasets.embedded import SPLITS, embedded_names, load_embedded
from diffinv.datasets.folder import load_folder
from diffinv.datasets.hub import is_hub_folder, load_hub, load_hub_folder
from diffinv.datasets.labelled_images import LabelledImages, check_resolution, is_saved
from diffinv.datasets.layout.plan import ClassLevel, Layout, look_at
from diffinv.datasets.layout.remarks import Remark, tell
from diffinv.datasets.medmnist import load_medmnist, load_npz
from diffinv.datasets.selection import Request

__all__ = [
    "CATALOGUE",
    "DatasetCard",
    "DatasetError",
    "Depiction",
    "LabelledImages",
    "Layout",
    "dataset_card",
    "depiction",
    "embedded_names",
    "load_dataset",
    "look_at",
]


def load_dataset(
    name_or_folder: str | Path,
    *,
    split: str = "train",
    resolution: int | None = None,
    images_per_class: int | None = None,
    seed: int = 0,
    fit: Fit = "crop",
    class_level: ClassLevel | None = None,
    skip_damaged: bool = False,
) -> LabelledImages:
    """Load the "train", "validation" or "test" split of a dataset by name, or of a folder.

    Names are those of the embedded datasets and of the `CATALOGUE`, whose files are fetched once and then
    serve offline. A folder holds class folders or a table of labels, with splits or without (`look_at` says
    what it is taken for), what `LabelledImages.save` wrote, or Parquet files as on the Hugging Face hub; an
    .npz file is one of MedMNIST's. A folder that is called like a dataset is read if given as a Path or
    "./name".

    `resolution` None keeps a dataset's own, and for a folder takes the median shorter side of its images,
    rounded to a multiple of 8 between 32 and 512. `seed` splits a folder of class folders that has no splits;
    the splits of a dataset by name are always the same. `images_per_class` gives what `per_class` with the
    same seed would, and of Parquet files decodes no other image. Images that are not square are cropped to
    their middle, or by `fit` padded with white or squashed. `class_level` says which of nested folders are
    the classes, and `skip_damaged` leaves out the image files that cannot be read. What a reader of the
    folder would not expect is logged as a warning, once.

    DatasetError (a ValueError) names what is wrong: an unknown dataset or split, one that is not there when
    there is no network, no class, a class without images or twice with different case, folders that can be
    read in two ways, and every image that is empty, damaged or more than 8 times as long as wide.
    """
    if not isinstance(name_or_folder, str | Path) or not str(name_or_folder).strip():
        raise DatasetError("the name of the dataset is empty: give a name or a folder.")
    for option, value, choices in (("fit", fit, Fit), ("class_level", class_level, ClassLevel)):
        if value is not None and value not in get_args(choices):
            named = ", ".join(get_args(choices))
            raise DatasetError(f'there is no {option} "{value}": choose one of {named}.')
    if split not in SPLITS:
        raise DatasetError(f'there is no split "{split}": choose "train", "validation" or "test".')
    if resolution is not None:
        check_resolution(resolution)
    request = Request(split, resolution, images_per_class, seed, fit, class_level, skip_damaged)
    if isinstance(name_or_folder, str) and name_or_folder in (*embedded_names(), *CATALOGUE):
        if Path(name_or_folder).is_dir():
            read = f'"{name_or_folder}" is the dataset of that name'
            tell(None, [Remark(f'{read}; the folder here is not read: give "./{name_or_folder}" for it.')])
        data = _load_named(name_or_folder, request)
    else:
        # A Path would spell its slashes otherwise.
        if isinstance(name_or_folder, str) and re.match(r"[a-z]\w+://", name_or_folder):
            address = f"{name_or_folder} is an address"
            raise DatasetError(f"{address}: download what it leads to, and give the folder.")
        data = _load_path(Path(name_or_folder).expanduser(), request)
    # Nothing is left to do here for those that chose before they decoded.
    if images_per_class is not None:
        data = data.per_class(images_per_class, seed=seed)
    return data if resolution is None else data.resize(resolution)


def _load_named(name: str, request: Request) -> LabelledImages:
    if name in embedded_names():
        return load_embedded(name, split=request.split)
    card = dataset_card(name)
    if isinstance(card.source, HubSource):
        return load_hub(name, card, card.source, request)
    return load_medmnist(name, card, card.source, split=request.split)


def _load_path(path: Path, request: Request) -> LabelledImages:
    if not path.exists():
        names = ", ".join((*embedded_names(), *CATALOGUE))
        choices = f"choose {names}, or give a folder of class folders or of Parquet files"
        raise DatasetError(f'there is no dataset or folder "{path}": {choices}.')
    if path.suffix == ".npz":
        return load_npz(path, split=request.split)
    if not is_saved(path) and is_hub_folder(path):
        return load_hub_folder(path, request)
    return load_folder(path, request)
