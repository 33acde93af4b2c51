"""The pre-training corpus: open-source icons as alpha masks, each with a concept, style words and a licence.

The source is the npm package ``@iconify/json`` (``ICONIFY_VERSION``), fetched with ``npm pack`` only to
pre-train again. Whole icon sets are held out; the concepts of ``novel10`` are left out of the training part.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from diffinv.artefacts.writing import write_array, write_atomically, write_json
from diffinv.tinysd.corpus.concepts import (
    BRANDS,
    ICONS10,
    NOVEL10,
    UNSPOKEN_WORDS,
    UNSPOKEN_WORDS_OF_WIDER,
    parse_icon_name,
)
from diffinv.tinysd.embedded.near_duplicates import drop_evaluated_shapes, drop_near_duplicates

ICONIFY_VERSION = "2.2.535"
RENDER_RESOLUTION = 64
LICENCES = frozenset({
    "MIT", "Apache-2.0", "ISC", "BSD-3-Clause", "BSD-2-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-3.0",
    "OFL-1.1", "Unlicense", "MPL-2.0",
})  # fmt: skip
# Each array of a corpus with the table of its rows, and with the facts that hold the checksum of both.
FILES = {"masks": ("icons", "corpus"), "emoji": ("emoji", "emoji")}
# Any number would do; the shipped weights and datasets belong to the third that this one holds out.
HOLD_OUT_SALT = 222


def family(icon_set: str) -> str:
    """Name the design family of a set (``fa6-solid`` -> ``fa``), held out or trained on as a whole."""
    merged = {
        "ic": "material", "mdi": "material", "bxs": "bx", "boxicons": "bx", "system": "remix", "ri": "remix",
        "uit": "uil", "uis": "uil", "uim": "uil", "fad": "fad", "el": "elusive", "la": "icons8",
    }  # fmt: skip
    stem = re.sub(r"\d+$", "", icon_set.split("-")[0])
    return merged.get(icon_set, merged.get(stem, stem))


def held_out(icon_set: str) -> bool:
    """Say whether a set belongs to the third of all families that is never trained on."""
    return hashlib.sha256(f"hold-out/{HOLD_OUT_SALT}/{family(icon_set)}".encode()).digest()[0] % 3 == 0


def fetch_iconify(folder: Path) -> Path:
    """Fetch and unpack ``@iconify/json`` into ``folder`` with ``npm pack``; reuse what is there."""
    package = folder / "package"
    if not (package / "collections.json").exists():
        if not (npm := shutil.which("npm")):
            raise ValueError(
                "npm is not installed: install Node.js, or name an unpacked @iconify/json (--iconify)."
            )
        folder.mkdir(parents=True, exist_ok=True)
        wanted = f"@iconify/json@{ICONIFY_VERSION}"
        if subprocess.run([npm, "pack", wanted, "--silent"], cwd=folder).returncode:
            raise ValueError(f"npm could not fetch {wanted}: connect, or name an unpacked one (--iconify).")
        with tarfile.open(folder / f"iconify-json-{ICONIFY_VERSION}.tgz") as archive:
            archive.extractall(folder / "unpacking", filter="data")
        # Moved only when whole, so that an interrupted unpacking is not taken for the package.
        (folder / "unpacking" / "package").rename(package)
    return package


def free_sets(package: Path) -> dict[str, dict]:
    """List the icon sets whose licence allows training and shipping: no logos, no trademarks."""
    if not (package / "collections.json").is_file():
        raise ValueError(
            f"{package} has no collections.json: name an unpacked @iconify/json, or none to fetch it."
        )
    every = json.loads((package / "collections.json").read_text())
    return {
        name: entry
        for name, entry in every.items()
        if entry["license"].get("spdx") in LICENCES
        and entry.get("category") not in {"Logos", "Programming"}
        and "brands" not in name
    }


def collections(package: Path) -> dict[str, dict]:
    """List the monochrome ones among the free sets."""
    return {name: entry for name, entry in free_sets(package).items() if not entry.get("palette")}


def list_icons(package: Path) -> pd.DataFrame:
    """List every usable icon: set, name, concept, style, whether its set is held out."""
    rows = []
    for icon_set in collections(package):
        icons = json.loads((package / "json" / f"{icon_set}.json").read_text())["icons"]
        for name, icon in icons.items():
            concept, style = parse_icon_name(name)
            if concept and not icon.get("hidden"):
                rows.append((icon_set, name, concept, style, held_out(icon_set)))
    return pd.DataFrame(rows, columns=["icon_set", "name", "concept", "style", "held_out"])


def select_icons(icons: pd.DataFrame, num_concepts: int, num_wider: int = 0) -> pd.DataFrame:
    """Keep the most frequent trainable concepts, and what the embedded datasets are made of.

    Adds ``part``: ``train`` and ``held_out`` (the same concepts, other sets), ``wider`` (the ``num_wider``
    next most frequent concepts, trained on too), ``icons10`` (held-out sets) and ``novel10`` (all sets, since
    no set's novel10 icons are trained on), with its class in ``label``.
    """
    spoken = icons[[UNSPOKEN_WORDS.isdisjoint(concept.split()) for concept in icons["concept"]]]
    wordy = spoken[[concept.replace(" ", "").isalpha() and len(concept) > 1 for concept in spoken["concept"]]]
    counts = Counter(wordy.loc[~wordy["held_out"], "concept"])
    by_frequency = [concept for concept, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    frequent = {*by_frequency[:num_concepts], *ICONS10}
    left_out = UNSPOKEN_WORDS_OF_WIDER | BRANDS
    rarer = [
        concept
        for concept in by_frequency
        if concept not in frequent and left_out.isdisjoint(concept.split())
    ]
    known = wordy[wordy["concept"].isin(frequent)]
    wider = wordy[wordy["concept"].isin(rarer[:num_wider])]
    parts = [
        known[~known["held_out"]].assign(part="train", label=""),
        known[known["held_out"]].assign(part="held_out", label=""),
        wider[~wider["held_out"]].assign(part="wider", label=""),
    ]
    for part, classes, pool in (
        ("icons10", ICONS10, spoken[spoken["held_out"]]),
        ("novel10", NOVEL10, icons),
    ):
        label_of = {concept: label for label, concepts in classes.items() for concept in concepts}
        chosen = pool[pool["concept"].isin(label_of)]
        parts.append(chosen.assign(part=part, label=chosen["concept"].map(label_of)))
    return pd.concat(parts, ignore_index=True)


def render_pictures(package: Path, icon_set: str, names: list[str]) -> Iterator[np.ndarray]:
    """Draw icons of one set in colour, ``uint8 [64, 64, 4]``, alpha last and not multiplied into the colours.

    What cannot be drawn gives an empty picture.
    """
    import resvg_py

    data = json.loads((package / "json" / f"{icon_set}.json").read_text())
    for name in names:
        icon = data["icons"][name]
        left, top = icon.get("left", data.get("left", 0)), icon.get("top", data.get("top", 0))
        width = icon.get("width", data.get("width", 16))
        height = icon.get("height", data.get("height", 16))
        side = max(width, height)
        box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" color="#000" width="64" height="64">'
        try:
            png = bytes(
                resvg_py.svg_to_bytes(svg_string=f"{svg}{icon['body']}</svg>", width=RENDER_RESOLUTION)
            )
        except ValueError:
            yield np.zeros((RENDER_RESOLUTION, RENDER_RESOLUTION, 4), np.uint8)
            continue
        with Image.open(io.BytesIO(png)) as image:
            canvas = image.convert("RGBA").resize((RENDER_RESOLUTION, RENDER_RESOLUTION))
        yield np.asarray(canvas)


def _render_set(job: tuple[Path, str, list[str]], channels: int | slice) -> np.ndarray:
    return np.stack([picture[..., channels] for picture in render_pictures(*job)])


def build_corpus(
    folder: Path,
    *,
    num_concepts: int = 200,
    num_wider: int = 0,
    package: Path | None = None,
    workers: int = 2,
) -> Path:
    """Write ``masks.npy`` (uint8 ``[icon, 64, 64]``), ``icons.parquet`` and ``corpus.json`` into ``folder``.

    Icons whose mask is empty or full, and held-out or dataset icons whose shape (nearly) equals a trained
    one, are dropped, so that nothing is evaluated on what was trained on under another set's name; and icons
    of the wider concepts that (nearly) equal one of those that remain, whatever its name.
    """
    package = package or fetch_iconify(folder / "iconify")
    icons = select_icons(list_icons(package), num_concepts, num_wider)
    if "train" not in set(icons["part"]):
        raise ValueError(f"{package} has no icon to train on: unpack the whole @iconify/json there.")
    icons, masks = draw_icons(package, icons, workers)
    coverage = masks.mean((1, 2)) / 255
    icons = icons[((coverage > 0.02) & (coverage < 0.95))[icons["mask"]]]
    icons = drop_near_duplicates(icons, masks).reset_index(drop=True)
    icons = drop_evaluated_shapes(icons, masks).reset_index(drop=True)
    sets = describe_sets(collections(package), icons)
    return write_corpus(folder, "masks", masks, icons, {**count_parts(icons), "sets": sets})


def write_corpus(folder: Path, array: str, pictures: np.ndarray, rows: pd.DataFrame, facts: dict) -> Path:
    """Write an array, the table of its rows and, last, what is known of both, under the names in `FILES`."""
    table, record = FILES[array]
    write_array(folder / f"{array}.npy", pictures)
    with write_atomically(folder / f"{table}.parquet") as file:
        rows.to_parquet(file)
    known = {"iconify_version": ICONIFY_VERSION, "sha256": corpus_digest(pictures, rows)}
    write_json(folder / f"{record}.json", {**known, **facts})
    return folder


def corpus_digest(pictures: np.ndarray, rows: pd.DataFrame) -> str:
    """Hash, sha256 in hex, of the pictures of a corpus and the table of its rows."""
    return hashlib.sha256(pictures.tobytes() + rows.to_csv().encode()).hexdigest()


def count_parts(icons: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many ``icons`` each part of a corpus has, and of how many ``concepts``."""
    parts = icons.groupby("part")["concept"]
    return {"icons": parts.size().to_dict(), "concepts": parts.nunique().to_dict()}


def draw_icons(
    package: Path, icons: pd.DataFrame, workers: int, *, channels: int | slice = 3
) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw every icon once: ``icons`` with the row of its mask in ``mask``, and masks ``[icon, 64, 64]``.

    Of other ``channels`` than alpha alone, pictures ``[icon, 64, 64, channel]``.
    """
    unique = icons.drop_duplicates(["icon_set", "name"]).sort_values(["icon_set", "name"])
    jobs = [
        (package, icon_set, group["name"].tolist())
        for icon_set, group in unique.groupby("icon_set", sort=True)
    ]
    with ProcessPoolExecutor(workers) as pool:
        masks = np.concatenate(list(pool.map(partial(_render_set, channels=channels), jobs)))
    row_of = {key: row for row, key in enumerate(zip(unique["icon_set"], unique["name"], strict=True))}
    rows = [row_of[key] for key in zip(icons["icon_set"], icons["name"], strict=True)]
    return icons.assign(mask=rows), masks


def describe_sets(
    entries: dict[str, dict], icons: pd.DataFrame, is_held_out: Callable[[str], bool] = held_out
) -> dict[str, dict]:
    """Say of every set that is used who drew it, under which licence, and for what it is used.

    ``entries`` are what ``collections.json`` says of the sets.
    """
    return {
        icon_set: {
            "name": entries[icon_set]["name"],
            "author": entries[icon_set]["author"]["name"],
            "licence": entries[icon_set]["license"]["spdx"],
            "url": entries[icon_set]["author"].get("url", ""),
            "held_out": is_held_out(icon_set),
            "icons": int(count),
        }
        for icon_set, count in icons.groupby("icon_set").size().items()
    }
