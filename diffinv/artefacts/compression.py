"""Vectors in fewer bytes: half precision, few bits, principal components, product quantisation."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_NAME = re.compile(r"(float(?:32|16))|(int)([2-8])|(pca|pq)(\d+)")
_CENTROIDS = 256  # a code is one byte
_SHARED = "shared."
_SEED = 0  # of k-means, so that the same vectors give the same bytes


@dataclass(frozen=True)
class Packed:
    """Vectors as they lie on disk: tensors with a row for each image, and those that all images share."""

    per_image: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """All of it, the shared basis or codebook included."""
        return self.shared_bytes + sum(tensor.nbytes for tensor in self.per_image.values())

    @property
    def shared_bytes(self) -> int:
        """The basis or codebook alone."""
        return sum(tensor.nbytes for tensor in self.shared.values())

    def shard(self, rows: slice) -> dict[str, Tensor]:
        """The tensors of these images; the first shard holds those that all share, too."""
        own = {name: tensor[rows].clone() for name, tensor in self.per_image.items()}
        shared = {_SHARED + name: tensor for name, tensor in self.shared.items()}
        return own if rows.start else {**own, **shared}


def own_and_shared(shard: Mapping[str, Tensor]) -> tuple[list[str], dict[str, Tensor]]:
    """Of a first shard, the names of what each image has of its own, and the tensors that all share."""
    shared = {name.removeprefix(_SHARED): it for name, it in shard.items() if name.startswith(_SHARED)}
    return [name for name in shard if not name.startswith(_SHARED)], shared


def packed_shards(vectors: Any, codec: str, size: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of one shard after the other, of so many images each; of no image there is one shard.

    Vectors on disk are read as they are needed, unless the codec learns from all. ValueError as for `pack`.
    """
    starts = range(0, max(len(vectors), 1), size)
    if _kind(codec)[0] in ("pca", "pq"):
        packed = pack(vectors[:], codec)
        yield from (packed.shard(slice(start, start + size)) for start in starts)
        return
    for start in starts:
        packed = pack(vectors[start : start + size], codec)
        yield packed.shard(slice(None)) if start == 0 else dict(packed.per_image)


def check_codec(codec: str) -> None:
    """ValueError, one sentence, unless it is "float32", "float16", "intB", "pcaK" or "pqM"."""
    if _NAME.fullmatch(codec) is None:
        raise ValueError(
            f"there is no compression {codec!r}: choose float32, float16, int and the bits per number "
            "(int2 to int8), pca and components kept per token (pca48), or pq and bytes per token (pq32)."
        )


def pack(vectors: Float[Tensor, "image token channel"], codec: str) -> Packed:
    """Compress vectors.

    "intB" keeps each token's largest size in half precision, and of each number how many steps it is away
    from zero, in B bits: 127 steps at most for "int8", 3 for "int3". "pcaK" keeps K principal
    components of a token, as int8 does, with their basis and mean in half precision. "pqM" cuts a token into
    M parts, and keeps the nearest of 256 centroids of each (Jegou et al. 2011). Bases and centroids are
    learned from these very vectors. ValueError for another name, and for too few vectors or channels.
    """
    kind, size = _kind(codec)
    tokens = vectors.reshape(-1, vectors.shape[-1])
    if kind == "pca":
        return _pca(vectors, tokens, size)
    if kind == "pq":
        return _product_quantisation(vectors, tokens, size)
    if kind == "int":
        return _integers(vectors, size)
    return Packed({"embeddings": vectors.to(getattr(torch, kind))}, {})


def unpack(packed: Packed, codec: str) -> Float[Tensor, "image token channel"]:
    """The vectors in float32, equal to those that were packed only for "float32"."""
    kind, size = _kind(codec)
    stored, shared = packed.per_image["embeddings"], packed.shared
    if kind == "pq":
        parts = torch.arange(stored.shape[-1])
        return shared["codebook"].float()[parts, stored.long()].flatten(-2)
    if kind in ("int", "pca"):
        if kind == "int" and size < 8:
            stored = _unpack_bits(stored, size, int(shared["channels"]))
        vectors = stored.float() * packed.per_image["scale"].float()
        return vectors @ shared["basis"].float() + shared["mean"].float() if kind == "pca" else vectors
    return stored.float()


def _kind(codec: str) -> tuple[str, int]:
    check_codec(codec)
    if codec.startswith("float"):
        return codec, 0
    kind = codec.rstrip("0123456789")
    return kind, int(codec.removeprefix(kind))


def _integers(vectors: Float[Tensor, "image token channel"], bits: int) -> Packed:
    steps = _steps(vectors, 2 ** (bits - 1) - 1)
    if bits == 8:
        return Packed(steps, {})
    # The bits of all channels of a token end to end, the last byte filled up with zeros.
    channels = vectors.shape[-1]
    codes = (steps["embeddings"].int() + 2 ** (bits - 1) - 1).numpy()
    each = (codes[..., None] >> np.arange(bits)) & 1
    packed = np.packbits(each.astype(np.uint8).reshape(*codes.shape[:2], channels * bits), axis=-1)
    shared = {"channels": torch.tensor([channels], dtype=torch.int32)}
    return Packed({**steps, "embeddings": torch.from_numpy(packed)}, shared)


def _unpack_bits(stored: Tensor, bits: int, channels: int) -> Tensor:
    each = np.unpackbits(stored.numpy(), axis=-1, count=bits * channels)
    codes = each.reshape(*stored.shape[:2], channels, bits) @ (1 << np.arange(bits))
    return torch.from_numpy(codes) - (2 ** (bits - 1) - 1)


def _steps(vectors: Float[Tensor, "image token channel"], most: int) -> dict[str, Tensor]:
    # The scale as it will be read back: rounded up, so that no code leaves its range.
    scale = (vectors.abs().amax(dim=-1, keepdim=True) / most).clamp(min=1e-7)
    scale = torch.where(scale.half().float() < scale, scale.half() * (1 + 2**-10), scale.half())
    codes = (vectors / scale.float()).round().clamp(-most, most).to(torch.int8)
    return {"embeddings": codes, "scale": scale}


def _pca(vectors: Tensor, tokens: Float[Tensor, "vector channel"], size: int) -> Packed:
    _check_size("components", size, min(tokens.shape))
    mean = tokens.mean(dim=0)
    basis = torch.linalg.svd(tokens - mean, full_matrices=False).Vh[:size]
    # The sign of a component is a matter of the machine: the largest entry is positive.
    basis = basis * basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)).sign()
    shared = {"basis": basis.half().contiguous(), "mean": mean.half()}
    return Packed(_steps((vectors - shared["mean"].float()) @ shared["basis"].float().T, 127), shared)


def _product_quantisation(vectors: Tensor, tokens: Float[Tensor, "vector channel"], parts: int) -> Packed:
    width = tokens.shape[1]
    _check_size("parts", parts, width)
    if width % parts:
        raise ValueError(f"vectors {width} wide cannot be cut into {parts} equal parts: choose a divisor.")
    if len(tokens) < _CENTROIDS:
        raise ValueError(
            f"{len(tokens)} vectors are too few for {_CENTROIDS} centroids: choose int8 or more images."
        )
    quantiser = faiss.ProductQuantizer(width, parts, 8)
    quantiser.cp.seed, quantiser.cp.min_points_per_centroid = _SEED, 1
    rows = np.ascontiguousarray(tokens.numpy(), dtype=np.float32)
    quantiser.train(rows)
    codes = torch.from_numpy(quantiser.compute_codes(rows)).view(*vectors.shape[:2], parts)
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(parts, _CENTROIDS, width // parts)
    return Packed({"embeddings": codes}, {"codebook": torch.from_numpy(centroids.copy()).half()})


def _check_size(what: str, size: int, most: int) -> None:
    if not 1 <= size <= most:
        raise ValueError(f"{size} {what} per token cannot be kept: choose from 1 to {most}.")
