"""Learned vectors in the cache, in shards that any subset of the images finds again."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.rows import RowsOnDisk, pick
from diffinv.artefacts.tensors import read_header, read_rows, read_tensors, tensor_bytes
from diffinv.artefacts.writing import ArtefactError, read_cached_json, write_cached_json, write_whole


class VectorCache:
    """A folder of shards, one for each finished group of images; all were learned with the same settings.

    A shard says in its header which images it holds, so that any subset of them, grouped in any way, finds
    them again. `recipe` is all that vectors depend on besides the image, `record` their provenance.
    """

    def __init__(
        self, kind: str, recipe: Sequence[Any], record: dict[str, Any], cache_dir: Path | None = None
    ) -> None:
        self.record = record
        self.folder = Path(cache_dir or default_cache_dir()) / kind / content_key(*recipe)
        self._places: dict[str, tuple[Path, int]] = {}  # shard, and row in it
        self._sizes: dict[Path, int] = {}
        self._intact: set[Path] = set()
        self.look()

    def look(self) -> None:
        """Take in the shards that were written since the last look, by this process or another."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._sizes.keys()):
            self._sizes[path] = 0
            with self._relearning(path):
                self._register(path, read_header(path)["keys"])

    def __contains__(self, key: str) -> bool:
        path = self._places[key][0] if key in self._places else None
        if path and path not in self._intact:
            with self._relearning(path):
                read_tensors(path)  # only shards in use are worth the reading
                self._intact.add(path)
        return key in self._places

    @contextmanager
    def _relearning(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (ArtefactError, KeyError) as error:
            # Written in one piece, so the disk has spoilt it since.
            self._places = {key: place for key, place in self._places.items() if place[0] != path}
            warnings.warn(f"the images of {path} are learned again: {error}", stacklevel=4)

    def write(
        self,
        keys: Sequence[str],
        embeddings: Float[Tensor, "image token channel"],
        losses: Float[Tensor, " image"],
        seconds: float,
    ) -> None:
        """Keep the vectors of one group and, beside them, how long it took, which differs each time."""
        path = self.folder / f"{content_key(list(keys))}.safetensors"
        tensors = {"embeddings": embeddings.cpu(), "losses": losses.cpu()}
        write_cached_json(path.with_suffix(".json"), {"seconds": seconds, "provenance": self.record})
        write_whole(path, tensor_bytes(tensors, {"keys": list(keys)}))
        self._register(path, keys)

    def read(self, keys: Sequence[str]) -> tuple[Any, Tensor, float | None]:
        """The vectors under these keys, their losses, and what learning them took, if that is known.

        Vectors that are too many for the memory stay in their files. KeyError if a key is not there.
        """
        found = [self._places[key] for key in keys]
        paths = list(dict.fromkeys(path for path, _ in found))
        number, sizes = {path: at for at, path in enumerate(paths)}, [self._sizes[path] for path in paths]
        places = np.array([number[path] for path, _ in found]), np.array([row for _, row in found])
        shape = read_rows(paths[0], ("embeddings",), [0])["embeddings"].shape[1:]
        vectors, losses = (
            RowsOnDisk(
                partial(_read, name), paths, sizes, own, np.float32, places=places, wrap=torch.from_numpy
            )
            for name, own in (("embeddings", shape), ("losses", ()))
        )
        used = np.bincount(places[0], minlength=len(paths))
        seconds = sum(
            self._seconds(path) * n / size for path, n, size in zip(paths, used, sizes, strict=True)
        )
        known = None if np.isnan(seconds) else round(float(seconds), 3)
        return pick(vectors, range(len(keys))), losses[:], known

    def _seconds(self, path: Path) -> float:
        # Earlier versions kept them in the shard itself, and still earlier ones nowhere.
        about = read_cached_json(path.with_suffix(".json")) or read_header(path)
        return about.get("seconds") or np.nan

    def _register(self, path: Path, keys: Sequence[str]) -> None:
        self._sizes[path] = len(keys)
        for row, key in enumerate(keys):
            self._places.setdefault(key, (path, row))


def _read(name: str, path: Path, rows: Sequence[int] | None) -> np.ndarray:
    return (read_tensors(path)[0] if rows is None else read_rows(path, (name,), rows))[name].numpy()
