"""A corpus without npm: the icons of ``icons_pool`` as alpha masks again, to pre-train offline."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8

from diffinv.datasets.embedded import FOLDER
from diffinv.foundation.randomness import numpy_stream
from diffinv.models.checkpoint import EMBEDDED
from diffinv.synthesizers.retrieval.pools import EMBEDDED_POOL, EncodedPool
from diffinv.tinysd.corpus.captions import COLOURS, draw_colour
from diffinv.tinysd.corpus.corpus import RENDER_RESOLUTION, count_parts, family, write_corpus

POOL = FOLDER / EMBEDDED_POOL / "pool.parquet"
RESOLUTION = 32
HELD_OUT_SHARE = 0.15
SHADES_PER_NAME = 32
# Of 255, beyond rounding: a picture of more than two colours is not a mask that has been painted.
MOST_RESIDUAL = 2.0


def build_miniature_corpus(folder: Path, *, seed: int = 0) -> Path:
    """Write ``masks.npy``, ``icons.parquet`` and ``corpus.json`` like the corpus stage, from the pool alone.

    The pool's painted icons become masks again, so that they can be painted in any colours; whole design
    families are held out of the pool's, to measure on. It has a fifth of the corpus, at 32 px: what an icon
    loses below that, and contrast where thin lines never cover a whole pixel, cannot be had back.
    """
    concepts = pq.read_table(POOL, columns=["concept"])["concept"].to_pylist()
    pool = EncodedPool(POOL)
    images = pool.images(range(len(pool.ids)), RESOLUTION)
    icons: list[tuple] = []
    masks: list[np.ndarray] = []
    for name, caption, concept, image in zip(pool.ids, pool.captions, concepts, images, strict=True):
        parsed = parse_caption(caption, concept)
        mask = None if parsed is None else unpaint(image, parsed[0], parsed[2])
        if parsed is not None and mask is not None:
            icon_set, icon = name.split("/", 1)
            icons.append((icon_set, icon, concept, parsed[1], held_out(icon_set, seed), len(masks)))
            masks.append(mask)
    table = pd.DataFrame(icons, columns=["icon_set", "name", "concept", "style", "held_out", "mask"])
    table = table.assign(part=np.where(table["held_out"], "held_out", "train"), label="")
    # The other stages average the stored masks down to the resolution that they want.
    factor = RENDER_RESOLUTION // RESOLUTION
    stored = np.stack(masks).repeat(factor, 1).repeat(factor, 2)
    return write_corpus(folder, "masks", stored, table, _facts(table))


def held_out(icon_set: str, seed: int) -> bool:
    """Say whether a set's design family is kept from training in the miniature."""
    return bool(numpy_stream(seed, "miniature", family(icon_set)).random() < HELD_OUT_SHARE)


def parse_caption(caption: str, concept: str) -> tuple[str, str, str] | None:
    """Take "a red filled heart icon on dark blue" apart into red, filled and dark blue.

    None for a caption that does not name two colours: such a picture is no painted mask.
    """
    before, found, back = caption.rpartition(f"{concept} icon on ")
    words = before.removeprefix("a ").split()
    fronts = [" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in COLOURS]
    if not found or not fronts or back not in COLOURS:
        return None
    return fronts[0], " ".join(words[len(fronts[0].split()) :]), back


def unpaint(
    image: UInt8[np.ndarray, "height width 3"], front: str, back: str
) -> UInt8[np.ndarray, "height width"] | None:
    """Undo ``colour_in`` for colours of which only the names are known; None for more than two colours.

    The colours of a painted mask lie on a line; its ends are taken to be the two colours, and the names say
    which of them is which.
    """
    pixels = image.reshape(-1, 3).astype(np.float64)
    centred = pixels - pixels.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    along = centred @ direction
    if np.abs(centred - np.outer(along, direction)).max() > MOST_RESIDUAL or np.ptp(along) == 0:
        return None
    low, high = pixels[along.argmin()], pixels[along.argmax()]
    shades = {name: _shades(name) for name in (front, back)}
    front_is_high = _distance(high, shades[front]) + _distance(low, shades[back]) < _distance(
        low, shades[front]
    ) + _distance(high, shades[back])
    alpha = (along - along.min()) / np.ptp(along)
    mask = alpha if front_is_high else 1 - alpha
    return (255 * mask).round().astype(np.uint8).reshape(image.shape[:2])


@cache
def _shades(name: str) -> Float[np.ndarray, "shade 3"]:
    generator = numpy_stream(0, "shades", name)
    return 255 * np.stack([draw_colour(generator, name) for _ in range(SHADES_PER_NAME)])


def _distance(colour: Float[np.ndarray, "3"], shades: Float[np.ndarray, "shade 3"]) -> float:
    return float(np.square(shades - colour).sum(axis=1).min())


def _facts(icons: pd.DataFrame) -> dict:
    """What ``corpus.json`` says of the icons, their sets described as in that of the shipped weights."""
    shipped = json.loads((EMBEDDED / "corpus.json").read_text())
    sets = {
        str(name): {**shipped["sets"][name], "held_out": bool(own["held_out"].iloc[0]), "icons": len(own)}
        for name, own in icons.groupby("icon_set")
    }
    return {"iconify_version": shipped["iconify_version"], **count_parts(icons), "sets": sets}
