"""Learned vectors on disk, found by the content of the image that they belong to."""

import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.writing import write_atomically


class InversionCache:
    """A folder of shards, one for each finished group of images; all were made with the same settings.

    One file per image would be tens of thousands of files. A shard says in its header which images it holds,
    so that any subset of them, grouped in any way, finds them again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[Path, int]] = {}
        self._seconds: dict[str, float | None] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as shard:
                    header = shard.metadata()
                self._register(path, json.loads(header["keys"]), json.loads(header.get("seconds", "null")))
            except (OSError, SafetensorError) as error:
                # Written in one piece, so the disk has spoilt it since; its images are learned again.
                warnings.warn(f"{path} cannot be read ({error}) and is ignored.", stacklevel=3)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def write(
        self,
        keys: Sequence[str],
        embeddings: Float[Tensor, "image token channel"],
        losses: Float[Tensor, " image"],
        provenance: dict[str, Any],
        seconds: float,
    ) -> None:
        """Keep the vectors of one group, and the time that learning them took."""
        path = self.folder / f"{content_key(list(keys))}.safetensors"
        tensors = {"embeddings": embeddings.cpu(), "losses": losses.cpu()}
        metadata = {
            "keys": json.dumps(list(keys)),
            "provenance": json.dumps(provenance),
            "seconds": json.dumps(seconds),
        }
        with write_atomically(path) as file:
            file.write(save(tensors, metadata=metadata))
        self._register(path, keys, seconds)

    def seconds(self, keys: Sequence[str]) -> float | None:
        """The time that these images took, each its share of its group's; None where one has no record."""
        shares = [self._seconds[key] for key in keys]
        known = [share for share in shares if share is not None]
        return round(sum(known), 3) if len(known) == len(shares) else None

    def read(
        self, keys: Sequence[str]
    ) -> tuple[Float[Tensor, "image token channel"], Float[Tensor, " image"]]:
        """Vectors and losses of these images, in this order; KeyError if one is not there."""
        rows_of = defaultdict(list)
        for position, key in enumerate(keys):
            path, row = self._places[key]
            rows_of[path].append((position, row))
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for path, rows in rows_of.items():
            with safe_open(path, framework="pt") as shard:
                embeddings, losses = shard.get_tensor("embeddings"), shard.get_tensor("losses")
            found.update({position: (embeddings[row], losses[row]) for position, row in rows})
        in_order = [found[position] for position in range(len(keys))]
        return torch.stack([vectors for vectors, _ in in_order]), torch.stack([loss for _, loss in in_order])

    def _register(self, path: Path, keys: Sequence[str], seconds: float | None) -> None:
        for row, key in enumerate(keys):
            if key not in self._places:
                self._places[key] = (path, row)
                self._seconds[key] = None if seconds is None else seconds / len(keys)
