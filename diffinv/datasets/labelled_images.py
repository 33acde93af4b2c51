"""LabelledImages: what every synthesizer takes and returns, what every classifier is trained on."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.rows import as_part_of_key, pick
from diffinv.artefacts.writing import PROVENANCE_FILE, is_untouched, read_json, write_folder_atomically
from diffinv.datasets.decoding import DatasetError, encode_png, resize_images
from diffinv.datasets.parquet import read_parquet, write_parquet
from diffinv.datasets.selection import choose_per_class

PARQUET_FILE = "images.parquet"
FORMAT = "diffinv.LabelledImages/1"


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Square RGB images of one resolution, each with its class, its name, and where it came from.

    `sources` names the real image that each synthetic one came from; it is None where all images are real,
    and a real image among synthetic ones is its own source. Images that are too many for the memory stay in
    their files (`artefacts.rows`): they are indexed and iterated like others, and `numpy.asarray` reads all.
    DatasetError if the parts do not fit together.
    """

    images: UInt8[np.ndarray, "image height width 3"]
    labels: Int[np.ndarray, " image"]
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    sources: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int64))
        for name in ("class_names", "ids", "sources"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        _check(self)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.images.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an image included."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """A key of the pixels, labels and class names, whatever the images are called."""
        return content_key(as_part_of_key(self.images), self.labels, self.class_names)

    @property
    def file_names(self) -> list[str]:
        """Where `save` puts each image, below its folder."""
        folders = _folder_names(self.class_names)
        numbers = [itertools.count() for _ in folders]
        return [f"{folders[label]}/{next(numbers[label]):05d}.png" for label in self.labels.tolist()]

    def class_counts(self) -> dict[str, int]:
        """Number of images of each class."""
        counts = np.bincount(self.labels, minlength=self.num_classes).tolist()
        return dict(zip(self.class_names, counts, strict=True))

    def subset(
        self, indices: Sequence[int] | Int[np.ndarray, " n"] | Bool[np.ndarray, " image"]
    ) -> "LabelledImages":
        """The images at `indices` (or where a boolean mask is true), in that order."""
        every = np.arange(len(self))
        chosen = every[np.asarray(indices)] if len(indices) else every[:0]
        return replace(
            self,
            images=pick(self.images, chosen),
            labels=self.labels[chosen],
            ids=tuple(self.ids[index] for index in chosen),
            sources=None if self.sources is None else tuple(self.sources[index] for index in chosen),
        )

    def per_class(self, n: int, *, seed: int) -> "LabelledImages":
        """A random subset with `n` images of every class, in the order of the whole.

        Subsets of one seed are nested: that of 5 images per class lies within that of 10. DatasetError if `n`
        is below 1 or a class has fewer images.
        """
        return self.subset(choose_per_class(self.ids, self.labels, self.class_names, n, seed=seed))

    def resize(self, resolution: int) -> "LabelledImages":
        """The same images at another resolution (bicubic, antialiased)."""
        check_resolution(resolution)
        if resolution == self.resolution:
            return self
        return replace(self, images=resize_images(np.asarray(self.images), resolution))

    @staticmethod
    def concatenate(*sets: "LabelledImages") -> "LabelledImages":
        """All images of several sets, which must agree in classes and resolution."""
        if not sets:
            raise DatasetError("concatenate needs at least one set of images.")
        first = sets[0]
        for other in sets[1:]:
            check_alike(first=first, other=other)
        all_real = all(part.sources is None for part in sets)
        return LabelledImages(
            images=np.concatenate([part.images for part in sets]),
            labels=np.concatenate([part.labels for part in sets]),
            class_names=first.class_names,
            ids=tuple(name for part in sets for name in part.ids),
            sources=None if all_real else tuple(name for part in sets for name in (part.sources or part.ids)),
            provenance={"concatenated": [part.provenance for part in sets]},
        )

    def save(self, folder: str | Path) -> Path:
        """Write class folders of PNG files, images.parquet with ids and sources, and provenance.json.

        The folder appears whole or not at all, and replaces what was saved there before. ArtefactError if it
        holds other files, or if the disk is full or cannot be written.
        """
        folder = Path(folder)
        folders, paths = _folder_names(self.class_names), self.file_names
        record = {
            "format": FORMAT,
            "class_names": self.class_names,
            "resolution": self.resolution,
            "num_images": len(self),
            "provenance": self.provenance,
        }
        with write_folder_atomically(folder, record) as new:
            for name in folders:
                (new / name).mkdir()

            def encoded() -> Iterator[bytes]:  # one image after the other, however many there are
                for path, image in zip(paths, self.images, strict=True):
                    data = encode_png(image)
                    (new / path).write_bytes(data)
                    yield data

            write_parquet(
                new / PARQUET_FILE,
                encoded=encoded(),
                paths=paths,
                labels=self.labels,
                ids=self.ids,
                sources=self.sources,
                class_names=self.class_names,
            )
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "LabelledImages":
        """Read what `save` wrote: the same images, order, ids, sources and provenance.

        DatasetError if the folder was not written by `save`, or if files were added or removed since.
        """
        folder = Path(folder)
        if not is_saved(folder):
            raise DatasetError(f"{folder} is not a saved set of images: use load_dataset for class folders.")
        if not is_untouched(folder):
            raise DatasetError(
                f"files were added to or removed from {folder} since it was saved: "
                f"delete its {PARQUET_FILE} to read the class folders as they are now."
            )
        record = read_json(folder / PROVENANCE_FILE)
        rows = read_parquet(folder / PARQUET_FILE)
        class_names = tuple(record["class_names"])
        return cls(**rows._asdict(), class_names=class_names, provenance=record["provenance"])


def is_saved(folder: Path) -> bool:
    """Whether `LabelledImages.save` wrote this folder."""
    there = all((folder / name).is_file() for name in (PARQUET_FILE, PROVENANCE_FILE))
    return there and read_json(folder / PROVENANCE_FILE).get("format") == FORMAT


def check_resolution(resolution: int) -> None:
    """DatasetError unless `resolution` is a positive whole number of pixels."""
    if not isinstance(resolution, int | np.integer) or resolution < 1:
        raise DatasetError(f"the resolution {resolution!r} is no size: give a whole number above 0.")


def check_alike(**sets: LabelledImages) -> None:
    """DatasetError unless the two sets, given by what they are for, have the same classes and resolution."""
    (one, first), (other, second) = sets.items()
    if first.class_names != second.class_names:
        raise DatasetError(f"the {one} and the {other} images have different classes: give both the same.")
    if first.resolution != second.resolution:
        sides = f"{first.resolution} px and the {other} ones {second.resolution} px"
        raise DatasetError(f"the {one} images have {sides}: resize one of the sets.")


def _folder_names(class_names: Sequence[str]) -> list[str]:
    # A class may be called "n/a", its folder may not; names that then coincide get their label as well.
    names: list[str] = []
    taken: set[str] = set()
    for label, class_name in enumerate(class_names):
        name = re.sub(r"[^\w .,()+-]", "_", class_name).strip(" .") or f"class_{label}"
        name = f"{name}_{label}" if name.casefold() in taken else name
        taken.add(name.casefold())
        names.append(name)
    return names


def _check(data: LabelledImages) -> None:
    shape = data.images.shape
    if data.images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        found = f"{data.images.dtype} of shape {shape}"
        raise DatasetError(f"images must be uint8 of shape [image, side, side, 3], not {found}.")
    for name, parts in (("labels", data.labels), ("ids", data.ids), ("sources", data.sources)):
        if parts is not None and len(parts) != len(data):
            raise DatasetError(f"{len(data)} images have {len(parts)} {name}: give one to each image.")
    if len(set(data.ids)) != len(data.ids):
        twice = next(name for name in data.ids if data.ids.count(name) > 1)
        raise DatasetError(f'two images have the id "{twice}": give each its own.')
    if not data.class_names or len(set(data.class_names)) != len(data.class_names):
        raise DatasetError("class_names is empty or names a class twice: give each class its own name.")
    if len(data) and not 0 <= data.labels.min() <= data.labels.max() < len(data.class_names):
        last = len(data.class_names) - 1
        raise DatasetError(f"a label lies outside 0 to {last}: there are only {last + 1} class_names.")
