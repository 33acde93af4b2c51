"""Pools: the images that retrieval looks among; a folder, a set in memory, or the one that ships with us."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from diffinv.artefacts.keys import content_key
from diffinv.datasets import CATALOGUE, DatasetError, LabelledImages, embedded_names, load_dataset
from diffinv.datasets.decoding import decode_image, read_image, to_square
from diffinv.datasets.embedded import FOLDER
from diffinv.datasets.layout.remarks import Remark, tell
from diffinv.datasets.layout.tree import SUFFIXES, survey

EMBEDDED_POOL = "icons_pool"

Images = UInt8[np.ndarray, "image side side 3"]


@runtime_checkable
class Pool(Protocol):
    """Images without classes, read only when they are wanted."""

    @property
    def ids(self) -> Sequence[str]:
        """A unique name for each image."""
        ...

    @property
    def fingerprint(self) -> str:
        """A key that changes when images are added, removed or replaced."""
        ...

    def images(self, indices: Sequence[int], resolution: int) -> Images:
        """Some of the images, resized and cropped square; DatasetError names one that cannot be read."""
        ...


def open_pool(source: "Pool | LabelledImages | str | Path") -> Pool:
    """The pool "icons_pool", all images below a folder, a set in memory, or a pool as it is.

    The name of a dataset stands for its training split. DatasetError, one sentence, where there is no such
    pool or it holds no image.
    """
    if isinstance(source, LabelledImages):
        return MemoryPool(source)
    if not isinstance(source, str | Path):
        return source
    if source == EMBEDDED_POOL:
        return embedded_pool()
    if isinstance(source, str) and source in (*embedded_names(), *CATALOGUE):
        return MemoryPool(load_dataset(source, split="train"))
    return FolderPool(source)


class FolderPool:
    """All images below a folder, nested in any way, as its files were when the pool was opened."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise DatasetError(
                f'there is no pool or folder "{folder}": choose "{EMBEDDED_POOL}", or give one with images.'
            )
        tree, notes = survey(self.folder)
        tell(None, map(Remark, notes))
        paths = tree.every_image()
        if not paths:
            kinds = ", ".join(sorted(SUFFIXES))
            raise DatasetError(f"{self.folder} holds no image below it: a pool has files such as {kinds}.")
        self.ids = tuple(path.relative_to(self.folder).as_posix() for path in paths)
        digest = hashlib.sha256()
        for name, path in zip(self.ids, paths, strict=True):
            facts = path.stat()
            known = f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
            digest.update(known.encode(errors="surrogateescape"))
        # Of names, sizes and times: reading a million files would cost what the index saves.
        self.fingerprint = digest.hexdigest()

    def images(self, indices: Sequence[int], resolution: int) -> Images:
        paths = [self.folder / self.ids[index] for index in indices]
        return _squares(((read_image(path), path) for path in paths), resolution)


class MemoryPool:
    """The images of a set, whose labels nobody looks at."""

    def __init__(self, data: LabelledImages) -> None:
        if len(data) == 0:
            raise DatasetError("the set of images given as a pool is empty: give one with images.")
        self.data, self.ids = data, data.ids

    @cached_property
    def fingerprint(self) -> str:
        return content_key(self.data.fingerprint, list(self.ids))

    def images(self, indices: Sequence[int], resolution: int) -> Images:
        chosen = ((Image.fromarray(self.data.images[index]), self.ids[index]) for index in indices)
        return _squares(chosen, resolution)


class EncodedPool:
    """Encoded images of one Parquet file, each with a caption that nobody looks at either."""

    def __init__(self, path: Path) -> None:
        try:
            table = pq.read_table(path)
            self._encoded: list[bytes] = table["image"].combine_chunks().field("bytes").to_pylist()
            self.ids = tuple(table["id"].to_pylist())
            self.captions = tuple(table["caption"].to_pylist())
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DatasetError(f"{path} is damaged or not a pool: install the package again.") from error

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, encoded in zip(self.ids, self._encoded, strict=True):
            digest.update(f"{name}\0{len(encoded)}\0".encode() + encoded)
        return digest.hexdigest()

    def images(self, indices: Sequence[int], resolution: int) -> Images:
        encoded = ((self._encoded[index], self.ids[index]) for index in indices)
        return _squares(((decode_image(data, name), name) for data, name in encoded), resolution)


def embedded_pool() -> EncodedPool:
    """A fifth of the icons that TinySD was trained on, coloured at random: its LAION in miniature."""
    return EncodedPool(FOLDER / EMBEDDED_POOL / "pool.parquet")


def _squares(pictures: Iterable[tuple[Image.Image, str | Path]], resolution: int) -> Images:
    squares = [to_square(picture, resolution, name) for picture, name in pictures]
    return np.stack(squares) if squares else np.empty((0, resolution, resolution, 3), np.uint8)
