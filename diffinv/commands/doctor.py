"""`diffinv doctor`: what is installed here, and whether it is complete; opens no connection."""

import argparse
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from diffinv.foundation import ASSETS

CHECKSUMS = "SHA256SUMS"
_PACKAGES = ("diffinv", "torch", "diffusers", "transformers", "numpy", "papermill")


def add_to(verbs) -> None:
    verb = verbs.add_parser("doctor", help="say what is installed here, and whether it is complete")
    verb.set_defaults(verb=run)


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is False where something has to be mended, and `value` says what."""

    name: str
    value: str
    ok: bool = True


def run(options: argparse.Namespace) -> int:
    from diffinv.artefacts.keys import default_cache_dir

    findings = [
        Finding("python", f"{platform.python_version()} on {platform.platform()}"),
        *map(_package, _PACKAGES),
        _device(),
        Finding("memory", _memory()),
        Finding("cores", str(os.cpu_count() or 1)),
        _cache(default_cache_dir()),
        *_assets(ASSETS),
        Finding("network", "not needed by the profiles smoke and tiny"),
    ]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok " if finding.ok else "BAD"
        sys.stdout.write(f"{mark}  {finding.name:<{width}}  {finding.value}\n")
    return 0 if all(finding.ok for finding in findings) else 1


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        optional = name == "papermill"
        remedy = ': pip install "diffinv[notebooks]" to run the notebooks headless' if optional else ""
        return Finding(name, f"not installed{remedy}", ok=optional)


def _device() -> Finding:
    from diffinv.foundation.networks import best_device

    device = best_device()
    if device != "cuda":
        return Finding("device", device)
    import torch

    gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Finding("device", f"cuda: {torch.cuda.get_device_name(0)}, {gigabytes:.0f} GiB")


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every platform tells
        return "unknown"
    return f"{total / 2**30:.0f} GiB"


def _cache(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        remedy = "set DIFFINV_CACHE to a folder that can"
        return Finding("cache", f"{folder} cannot be written: {remedy}", ok=False)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(existing).free
    return Finding("cache", f"{folder}, {size / 2**20:.0f} MiB, {free / 2**30:.0f} GiB free on its disk")


def _assets(folder: Path) -> Iterator[Finding]:
    """One finding per embedded asset: each of its files is there and has the checksum it was shipped with."""
    expected = read_checksums(folder / CHECKSUMS)
    if not expected:
        yield Finding("assets", f"{folder / CHECKSUMS} is missing: install diffinv again", ok=False)
    for name, files in groupby(sorted(expected, key=_asset_of), key=_asset_of):
        yield _asset(folder, name, {file: expected[file] for file in files})


def _asset(folder: Path, name: str, expected: dict[str, str]) -> Finding:
    for file, checksum in expected.items():
        path = folder / file
        if not path.is_file():
            return Finding(name, f"{file} is missing: install diffinv again", ok=False)
        if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
            return Finding(name, f"{file} is not the file that was shipped: install diffinv again", ok=False)
    size = sum((folder / file).stat().st_size for file in expected)
    return Finding(name, f"{len(expected)} files, {size / 2**20:.1f} MiB, checksums match")


def _asset_of(file: str) -> str:
    """The dataset that a file belongs to, or else its top folder."""
    parts = Path(file).parts
    return "/".join(parts[:2] if parts[0] == "datasets" and len(parts) > 2 else parts[:1])


def read_checksums(path: Path) -> dict[str, str]:
    """File -> SHA-256, from the format that `sha256sum` writes; empty if there is no such file."""
    if not path.is_file():
        return {}
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {file.removeprefix("./").removeprefix("*"): checksum for checksum, file in lines}
