"""Where an artefact lies: the key of its content, and the folder of cached ones."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

# Metadata of a dataclass field that was added later: at its default it is no part of a key, so that what was
# cached before it existed is found. Not for a default whose meaning changes.
ABSENT_AT_DEFAULT: Mapping[str, bool] = {"diffinv.absent_at_default": True}


@dataclass(frozen=True, eq=False)
class Streamed:
    """An array that comes in pieces, along its first axis, and has the key of the whole."""

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]


def default_cache_dir() -> Path:
    """The folder of cached artefacts: `$DIFFINV_CACHE`, or `diffinv` in the platform's cache folder."""
    if chosen := os.environ.get("DIFFINV_CACHE"):
        return Path(chosen).expanduser()
    return user_cache_path("diffinv", appauthor=False)


def content_key(*parts: Any) -> str:
    """The first 20 hex digits of the SHA-256 of `parts`, the same on every platform and in every process.

    Takes str, int, float, bool, None, Path, numpy arrays and scalars, `Streamed`, and dataclasses, lists,
    tuples and mappings with string keys of these; a tuple counts as a list, and the order of a mapping's keys
    does not count, nor does a field of `ABSENT_AT_DEFAULT` that has its default. TypeError otherwise.
    """
    canonical = json.dumps(_canonical(parts), separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


def described(settings: Any) -> dict[str, Any]:
    """A settings dataclass and those in it as dicts, for JSON, of the fields that count in a key."""
    return {
        name: described(value) if dataclasses.is_dataclass(value) else value
        for name, value in _counting(settings).items()
    }


def _canonical(part: Any) -> Any:
    # Every container and object is tagged, so that two different values never share their JSON.
    if isinstance(part, np.generic):
        return _canonical(part.item())
    if part is None or isinstance(part, bool | str | int | float):
        return part
    if isinstance(part, Path):
        return ["path", part.as_posix()]
    if isinstance(part, np.ndarray) and part.dtype.kind in "biufcSU":
        part = Streamed(part.dtype, part.shape, [part])
    if isinstance(part, Streamed):
        stored: np.dtype = part.dtype.newbyteorder("<")
        digest = hashlib.sha256()
        for piece in part.pieces:
            digest.update(np.ascontiguousarray(piece, dtype=stored).reshape(-1).view(np.uint8).data)
        return ["array", stored.str, list(part.shape), digest.hexdigest()]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = [[name, _canonical(value)] for name, value in _counting(part).items()]
        return ["dataclass", type(part).__qualname__, fields]
    if isinstance(part, dict) and all(isinstance(name, str) for name in part):
        return ["dict", [[name, _canonical(part[name])] for name in sorted(part)]]
    if isinstance(part, list | tuple):
        return ["list", [_canonical(item) for item in part]]
    kind = type(part).__name__
    raise TypeError(f"a {kind} has no content key: pass plain values, arrays or dataclasses instead.")


def _counting(part: Any) -> dict[str, Any]:
    values = {field: getattr(part, field.name) for field in dataclasses.fields(part)}
    late = ABSENT_AT_DEFAULT.keys()
    return {f.name: v for f, v in values.items() if not (f.metadata.keys() >= late and v == f.default)}
