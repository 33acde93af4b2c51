"""The learned conditioning vectors of a dataset, with what they were learned from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffinv.artefacts.compression import Packed, own_and_shared, packed_shards, unpack
from diffinv.artefacts.keys import content_key
from diffinv.artefacts.rows import RowsOnDisk, as_part_of_key, chunks, pick
from diffinv.artefacts.tensors import read_header, read_rows, read_tensors, tensor_bytes
from diffinv.artefacts.writing import PROVENANCE_FILE, ArtefactError, read_json, write_folder_atomically
from diffinv.datasets import LabelledImages
from diffinv.models.diffusion import FrozenDiffusion

FORMAT = "diffinv.EmbeddingStore/1"
IMAGES_PER_SHARD = 1024  # 16 MB at five tokens of width 768
_OTHERS = ("labels", "losses")  # what a shard holds besides vectors


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """One set of conditioning vectors per real image: c* of the paper's equation 3.

    `losses` is each image's mean denoising loss over the last tenth of its updates. `provenance` names the
    checkpoint ("model", "model_fingerprint"), the resolution and the settings that made the vectors.
    """

    # float32, on the CPU; those that are too many for the memory stay in their files
    embeddings: Float[Tensor, "image token channel"] | RowsOnDisk
    labels: Int[Tensor, " image"]
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    losses: Float[Tensor, " image"]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(self.embeddings), len(self.labels), len(self.ids), len(self.losses)}
        if len(lengths) != 1:
            raise ValueError(
                f"the store has {len(self.embeddings)} embeddings, {len(self.labels)} labels, "
                f"{len(self.ids)} ids and {len(self.losses)} losses: give one of each for every image."
            )
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("two images of the store share an id: give every image its own.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def resolution(self) -> int:
        """Side in pixels at which the vectors were learned, and are meant to be sampled."""
        return self.provenance["resolution"]

    @cached_property
    def fingerprint(self) -> str:
        """A key of the vectors, labels and class names, whatever the images are called."""
        return content_key(as_part_of_key(self.embeddings), self.labels.numpy(), self.class_names)

    @property
    def num_tokens(self) -> int:
        return self.embeddings.shape[1]

    @property
    def embedding_width(self) -> int:
        return self.embeddings.shape[2]

    def subset(self, indices: Sequence[int]) -> "EmbeddingStore":
        """The images at these positions, in this order."""
        rows = torch.as_tensor(list(indices), dtype=torch.int64)
        return dataclasses.replace(
            self,
            embeddings=pick(self.embeddings, rows.numpy()),
            labels=self.labels[rows],
            ids=tuple(self.ids[row] for row in rows.tolist()),
            losses=self.losses[rows],
        )

    def of(self, real: LabelledImages) -> "EmbeddingStore":
        """The vectors of these images, found by their ids; ValueError where they or their labels differ."""
        places = {image_id: row for row, image_id in enumerate(self.ids)}
        if missing := [image_id for image_id in real.ids if image_id not in places]:
            raise ValueError(
                f"the store has no vectors of {len(missing)} of {len(real)} images, {missing[0]!r} for one: "
                "invert them first."
            )
        own = self.subset([places[image_id] for image_id in real.ids])
        if own.class_names != real.class_names or own.labels.tolist() != real.labels.tolist():
            raise ValueError("the store knows these images by other labels: invert them again.")
        return own

    def mean(self) -> Float[Tensor, "token channel"]:
        """The mean of all vectors: the paper's unconditional vector (section 3.2)."""
        if not len(self):
            raise ValueError("the store is empty and has no mean: invert some images first.")
        return self._mean

    @cached_property
    def _mean(self) -> Tensor:
        return sum(part.sum(dim=0) for part in chunks(self.embeddings)) / len(self)

    def class_mean(self, label: int) -> Float[Tensor, "token channel"]:
        """The mean over the images of one class."""
        if label not in self._class_means:
            members = (self.labels == label).nonzero()[:, 0]
            if not len(members):
                known = sorted(set(self.labels.tolist()))
                raise ValueError(f"the store has no image of class {label}: it has {known}.")
            self._class_means[label] = self.subset(members.tolist()).mean()
        return self._class_means[label]

    @cached_property
    def _class_means(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def classmates(self) -> dict[int, np.ndarray]:
        """The rows of each class, in the order of their ids: the store's own order must not matter."""
        by_id = np.array(sorted(range(len(self)), key=self.ids.__getitem__), dtype=np.int64)
        labels = self.labels.numpy()[by_id]
        return {label: by_id[labels == label] for label in np.unique(labels).tolist()}

    @cached_property
    def places_in_class(self) -> np.ndarray:
        """Where each row stands among its `classmates`."""
        places = np.empty(len(self), dtype=np.int64)
        for members in self.classmates.values():
            places[members] = np.arange(len(members))
        return places

    def check_matches(self, diffusion: FrozenDiffusion) -> None:
        """Raise a ValueError unless the vectors were learned for this very checkpoint."""
        made_with = self.provenance.get("model", "an unknown checkpoint")
        remedy = f"load {made_with!r}, or invert the images again"
        if self.embedding_width != diffusion.embedding_width:
            raise ValueError(
                f"the store's vectors are {self.embedding_width} wide but {diffusion.name!r} takes "
                f"{diffusion.embedding_width}: {remedy}."
            )
        if self.provenance.get("model_fingerprint") != diffusion.fingerprint:
            raise ValueError(
                f"the store was learned with {made_with!r}, whose weights are not those of "
                f"{diffusion.name!r}: {remedy}."
            )

    def save(self, folder: str | Path, *, compress: str = "float32") -> Path:
        """Write safetensors shards and a provenance.json, all or nothing, in place of an older store.

        `compress` is a codec of `artefacts.compression`; all but "float32" lose a little of the vectors.
        """
        folder, packed = Path(folder), packed_shards(self.embeddings, compress, IMAGES_PER_SHARD)
        count = -(-max(len(self), 1) // IMAGES_PER_SHARD)  # an empty store has a shard too
        names = [f"embeddings-{number:05d}.safetensors" for number in range(count)]
        contents = {"class_names": self.class_names, "shards": names, "compress": compress}
        record = {"format": FORMAT, **contents, "checksum": content_key(contents)}
        with write_folder_atomically(folder, {**record, "provenance": self.provenance}) as staging:
            for number, (name, vectors) in enumerate(zip(names, packed, strict=True)):
                rows = slice(number * IMAGES_PER_SHARD, (number + 1) * IMAGES_PER_SHARD)
                tensors = {"labels": self.labels[rows].clone(), "losses": self.losses[rows].clone()}
                content = tensor_bytes({**vectors, **tensors}, {"ids": self.ids[rows]})
                (staging / name).write_bytes(content)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "EmbeddingStore":
        """Read a store as it was saved; ArtefactError if it is missing, damaged or something else.

        Vectors that are too many for the memory stay in the folder, and are checked when all are read.
        """
        folder = Path(folder)
        if not (folder / PROVENANCE_FILE).is_file():
            raise ArtefactError(
                f"{folder} holds no embedding store: give a folder that `diffinv invert` or "
                "EmbeddingStore.save wrote."
            )
        record = read_json(folder / PROVENANCE_FILE)
        if record.get("format") != FORMAT:
            found = record.get("format", "something else")
            raise ArtefactError(f"{folder} holds {found!r}, not {FORMAT!r}: choose another folder.")
        contents = {name: record[name] for name in ("class_names", "shards", "compress") if name in record}
        if record.get("checksum", expected := content_key(contents)) != expected:
            raise ArtefactError(f"{folder / PROVENANCE_FILE} is damaged: save the store again.")
        paths = [folder / name for name in record["shards"]]
        ids = [read_header(path)["ids"] for path in paths]
        names, shared = own_and_shared(read_tensors(paths[0])[0])
        names = [name for name in names if name not in _OTHERS]
        read = partial(_vectors_in, record.get("compress", "float32"), names, shared)
        shape = read(paths[0], None).shape[1:]
        vectors = RowsOnDisk(read, paths, list(map(len, ids)), shape, np.float32, wrap=torch.from_numpy)
        kept = [read_rows(path, _OTHERS) for path in paths]
        return cls(
            embeddings=pick(vectors, range(len(vectors))),
            labels=torch.cat([part["labels"] for part in kept]),
            losses=torch.cat([part["losses"] for part in kept]),
            class_names=tuple(record["class_names"]),
            ids=tuple(image_id for part in ids for image_id in part),
            provenance=record["provenance"],
        )


def _vectors_in(
    codec: str, names: Sequence[str], shared: dict[str, Tensor], path: Path, rows: Sequence[int] | None
) -> Float[np.ndarray, "image token channel"]:
    tensors = read_tensors(path)[0] if rows is None else read_rows(path, names, rows)
    return unpack(Packed({name: tensors[name] for name in names}, shared), codec).numpy()
