"""Datasets in MedMNIST's format: one .npz file with the images and labels of three splits."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pooch
from tqdm import tqdm

from diffinv.artefacts.keys import default_cache_dir
from diffinv.artefacts.writing import write_atomically
from diffinv.datasets.catalogue import CATALOGUE, DatasetCard, NpzSource
from diffinv.datasets.decoding import DatasetError
from diffinv.datasets.labelled_images import LabelledImages
from diffinv.foundation.progress import headless

SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}
CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


def load_medmnist(name: str, card: DatasetCard, source: NpzSource, *, split: str) -> LabelledImages:
    """Read one split, fetching the file unless it is there.

    A copy in the package's cache serves, and one that the medmnist package has put into ~/.medmnist.
    DatasetError if there is none and none can be had, or if it is not the published one.
    """
    file = f"{name}.npz"
    cached = default_cache_dir() / "datasets" / file
    path = next((path for path in (cached, Path.home() / ".medmnist" / file) if path.is_file()), None)
    if path is None:
        path = cached
        _download(name, source, path)
    elif pooch.file_hash(path, alg="md5") != source.md5:
        raise DatasetError(f"{path} is not the published file (its MD5 checksum differs): delete it.")
    return _read(path, split, card, {"dataset": name, "source": source.url})


def load_npz(path: Path, *, split: str) -> LabelledImages:
    """Read one split of a file that is called as MedMNIST calls it, such as "bloodmnist_64.npz".

    Any size of images will do, and no checksum is asked for. DatasetError if the name begins like no dataset
    of the catalogue, which knows the classes.
    """
    name = path.stem.split("_")[0]
    card = CATALOGUE.get(name)
    if card is None or not isinstance(card.source, NpzSource):
        known = ", ".join(key for key, value in CATALOGUE.items() if isinstance(value.source, NpzSource))
        raise DatasetError(f"the classes of {path} are not known: let its name begin with one of {known}.")
    return _read(path, split, card, {"dataset": str(path)})


def _read(path: Path, split: str, card: DatasetCard, provenance: dict[str, str]) -> LabelledImages:
    key = SPLIT_NAMES[split]
    try:
        # Without pickles, so that a file can hold numbers and nothing that runs.
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays[f"{key}_images"], arrays[f"{key}_labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} is damaged or not in MedMNIST's format: get it again.") from error
    if images.dtype != np.uint8 or images.shape[3:] not in ((), (3,)) or len(set(images.shape[1:3])) != 1:
        raise DatasetError(f"the images in {path} are not 8-bit squares, grey or RGB: get it again.")
    if labels.shape != (len(images), 1) or labels.dtype.kind not in "iu":
        raise DatasetError(f"the labels in {path} are not one whole number per image: get it again.")
    return LabelledImages(
        images=images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3),
        labels=labels[:, 0].astype(np.int64),
        class_names=card.class_names,
        ids=tuple(f"{split}/{row:05d}" for row in range(len(images))),
        provenance={**provenance, "split": split, "licence": card.licence},
    )


class _LinesInALog(tqdm):
    def reset(self, total: float | None = None) -> None:
        # At the end pooch, which has counted in chunks, starts again to add the whole length: without a line.
        self.n = 0


def _download(name: str, source: NpzSource, path: Path) -> None:
    from requests import RequestException  # takes 0.2 s to import, and hardly ever is anything to be fetched

    # As `progress` does it where nobody watches: there, pooch's own bar would stay at 0 %.
    rhythm = {"mininterval": 10, "delay": 10, "ascii": True, "unit": "B", "unit_scale": True}
    bar = _LinesInALog(desc=name, total=1, file=sys.stdout, **rhythm) if headless() else True
    fetch = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK_BYTES, timeout=TIMEOUT_SECONDS)
    with write_atomically(path) as file:
        try:
            fetch(source.url, file, None)
        except RequestException as error:
            missing = f'"{name}" is not in the cache and could not be fetched'
            remedy = f"connect to the network once, or put {source.url} at {path} by hand"
            raise DatasetError(f"{missing}: {remedy}.") from error
        if pooch.file_hash(file.name, alg="md5") != source.md5:
            unexpected = f"what {source.url} sent is not the published {name} (its MD5 checksum differs)"
            raise DatasetError(f"{unexpected}: try again, or put the file at {path} by hand.")
