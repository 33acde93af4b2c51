"""The learned conditioning vectors of a dataset, with what they were learned from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffinv.artefacts.compression import Packed, pack, unpack
from diffinv.artefacts.keys import content_key
from diffinv.artefacts.tensors import read_tensors, tensor_bytes
from diffinv.artefacts.writing import PROVENANCE_FILE, ArtefactError, read_json, write_folder_atomically
from diffinv.datasets import LabelledImages
from diffinv.models.diffusion import FrozenDiffusion

FORMAT = "diffinv.EmbeddingStore/1"
IMAGES_PER_SHARD = 1024  # 16 MB at five tokens of width 768


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """One set of conditioning vectors per real image: c* of the paper's equation 3.

    `losses` is each image's mean denoising loss over the last tenth of its updates. `provenance` names the
    checkpoint ("model", "model_fingerprint"), the resolution and the settings that made the vectors.
    """

    embeddings: Float[Tensor, "image token channel"]  # float32, on the CPU
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
        return content_key(self.embeddings.numpy(), self.labels.numpy(), self.class_names)

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
            embeddings=self.embeddings[rows],
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
        return self.embeddings.mean(dim=0)

    def class_mean(self, label: int) -> Float[Tensor, "token channel"]:
        """The mean over the images of one class."""
        members = self.labels == label
        if not members.any():
            known = sorted(set(self.labels.tolist()))
            raise ValueError(f"the store has no image of class {label}: it has {known}.")
        return self.embeddings[members].mean(dim=0)

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
        folder, packed = Path(folder), pack(self.embeddings, compress)
        starts = range(0, max(len(self), 1), IMAGES_PER_SHARD)  # an empty store has a shard too
        shards = {f"embeddings-{start // IMAGES_PER_SHARD:05d}.safetensors": start for start in starts}
        contents = {"class_names": self.class_names, "shards": list(shards), "compress": compress}
        record = {"format": FORMAT, **contents, "checksum": content_key(contents)}
        with write_folder_atomically(folder, {**record, "provenance": self.provenance}) as staging:
            for name, start in shards.items():
                rows = slice(start, start + IMAGES_PER_SHARD)
                tensors = {"labels": self.labels[rows].clone(), "losses": self.losses[rows].clone()}
                content = tensor_bytes({**packed.shard(rows), **tensors}, {"ids": self.ids[rows]})
                (staging / name).write_bytes(content)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "EmbeddingStore":
        """Read a store as it was saved; ArtefactError if it is missing, damaged or something else."""
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
        shards = [read_tensors(folder / name) for name in record["shards"]]
        labels, losses = (torch.cat([part.pop(key) for part, _ in shards]) for key in ("labels", "losses"))
        packed = Packed.of_shards([part for part, _ in shards])
        return cls(
            embeddings=unpack(packed, record.get("compress", "float32")),
            labels=labels,
            losses=losses,
            class_names=tuple(record["class_names"]),
            ids=tuple(image_id for _, header in shards for image_id in header["ids"]),
            provenance=record["provenance"],
        )
