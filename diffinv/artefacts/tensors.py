"""Tensors on disk: safetensors files that know by a checksum whether they still hold what was written."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.writing import ArtefactError

CHECKSUM = "checksum"


def tensor_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """A file of these tensors, always of the same bytes; the values of its header are ready for JSON."""
    texts = {name: json.dumps(value) for name, value in header.items()}
    written = save(dict(tensors), {**texts, CHECKSUM: _checksum(tensors, texts)})
    # safetensors writes the names of its header in an order of chance: sorted, padded as it pads them.
    end = 8 + int.from_bytes(written[:8], "little")
    sorted_header = json.dumps(json.loads(written[8:end]), sort_keys=True, separators=(",", ":")).encode()
    sorted_header += b" " * (-len(sorted_header) % 8)
    return len(sorted_header).to_bytes(8, "little") + sorted_header + written[end:]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file; ArtefactError if it is missing or a single bit of it is spoilt.

    Files of earlier versions have no checksum, and are read as they are.
    """
    with _opened(path) as (file, texts):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = texts.pop(CHECKSUM, None)
        header = {name: json.loads(text) for name, text in texts.items()}
    if expected not in (None, _checksum(tensors, texts)):
        raise ArtefactError(f"{path} is damaged (it has another checksum): make or copy it again.")
    return tensors, header


def read_header(path: Path) -> dict[str, Any]:
    """The header alone, unchecked, without reading the tensors; ArtefactError if there is none."""
    with _opened(path) as (_, texts):
        return {name: json.loads(text) for name, text in texts.items() if name != CHECKSUM}


def read_rows(path: Path, names: Iterable[str], rows: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Only these tensors and these rows of them (None = all), unchecked; ArtefactError if that cannot be."""
    with _opened(path) as (file, _):
        slices = {name: file.get_slice(name) for name in names}
        if rows is None:
            return {name: each[:] for name, each in slices.items()}
        return {name: torch.stack([each[row] for row in rows]) for name, each in slices.items()}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file, dict(file.metadata())
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ArtefactError(f"{path} is missing or damaged ({error}): make or copy it again.") from error


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    return content_key(dict(texts), {name: tensor.numpy() for name, tensor in tensors.items()})
