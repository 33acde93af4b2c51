"""One independent random stream per named thing, so that no result depends on batch size, order or device."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def stream(seed: int, *keys: str | int) -> torch.Generator:
    """A CPU generator that depends on the seed and the keys alone.

    `stream(0, "train/heart/0007", 3)` is the same on every device and platform, whatever was drawn elsewhere.
    Draw on the CPU and move the numbers: generators of different devices disagree for the same seed.
    """
    digest = _digest(seed, keys)
    # torch's CPU generator (a Mersenne twister) uses 32 bits of its seed; two of a million streams may
    # therefore coincide, which shares noise between two unrelated images and is harmless.
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:4], "little"))


def sample_streams(
    seed: int, key: str, ids: Sequence[str], sources: Sequence[int], copies: Sequence[int]
) -> list[torch.Generator]:
    """The stream of each sample, which its source, a place among `ids`, and its copy number name."""
    if len(sources) != len(copies):
        raise ValueError(
            f"{len(sources)} sources came with {len(copies)} copy numbers; pass one copy number per source."
        )
    return [stream(seed, key, ids[source], copy) for source, copy in zip(sources, copies, strict=True)]


def numpy_stream(seed: int, *keys: str | int) -> np.random.Generator:
    """The NumPy counterpart of `stream`, for permutations and choices."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(seed, keys)[:16], "little")))


def _digest(seed: int, keys: tuple[str | int, ...]) -> bytes:
    # repr() keeps ("a", 1) and ("a", "1") apart, and so do the brackets for ("a", "b") and ("ab",).
    named = tuple(key if isinstance(key, str) else int(key) for key in keys)
    return hashlib.sha256(repr((int(seed), named)).encode()).digest()
