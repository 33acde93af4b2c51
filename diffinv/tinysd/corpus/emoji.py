"""The corpus in colour: emoji of open-source vendors, each with its name in plain words and its kind.

Two vendors are held out as a whole. The concepts of ``novel10`` are left out of the training part here too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8

from diffinv.tinysd.corpus.captions import COLOURS, WORD_DROP_SHARE, draw_colour, luminance
from diffinv.tinysd.corpus.concepts import UNSPOKEN_WORDS
from diffinv.tinysd.corpus.corpus import describe_sets, draw_icons, fetch_iconify, free_sets, write_corpus
from diffinv.tinysd.corpus.emoji_names import EmojiNames

TRAIN_SETS = ("noto", "noto-v1", "fluent-emoji-flat", "fluent-emoji", "emojione", "streamline-emojis")
HELD_OUT_SETS = ("twemoji", "fxemoji")
MIN_COVERAGE = 0.02
# Mean absolute difference of colours and alpha, as for the icons' masks.
NEAR_DUPLICATE_DIFFERENCE = 0.02
# Enough to see where an emoji ends: its own colours, unlike a painted mask's, are of middling brightness.
MIN_LUMINANCE_DIFFERENCE = 0.15
KIND_ALONE_SHARE = 0.5


def is_held_out(icon_set: str) -> bool:
    """Say whether a vendor is never trained on."""
    return icon_set in HELD_OUT_SETS


def list_emoji(package: Path) -> pd.DataFrame:
    """List every usable emoji: set, name, words, kind and part."""
    names, rows = EmojiNames.read(package), []
    allowed = free_sets(package)
    for icon_set in (name for name in (*TRAIN_SETS, *HELD_OUT_SETS) if name in allowed):
        data = json.loads((package / "json" / f"{icon_set}.json").read_text())
        category_of = {
            name: category for category, members in data.get("categories", {}).items() for name in members
        }
        part = "held_out" if is_held_out(icon_set) else "train"
        for name, icon in data["icons"].items():
            parsed = None if icon.get("hidden") else names.parse(name, category_of.get(name, ""))
            spoken = {*name.split("-"), *(parsed[0].split() if parsed else ())}
            if parsed and (part == "held_out" or UNSPOKEN_WORDS.isdisjoint(spoken)):
                rows.append((icon_set, name, *parsed, part))
    return pd.DataFrame(rows, columns=["icon_set", "name", "words", "kind", "part"])


def build_emoji(folder: Path, *, package: Path | None = None, workers: int = 2) -> Path:
    """Write ``emoji.npy`` (uint8 ``[emoji, 64, 64, 4]``), ``emoji.parquet`` and ``emoji.json``.

    Rows of the table are those of the pictures, whose alpha, the last channel, is not multiplied into the
    colours. Empty pictures are dropped, and held-out ones that (nearly) equal a trained one, as flags may.
    """
    package = package or fetch_iconify(folder / "iconify")
    emoji = list_emoji(package)
    if set(emoji["part"]) != {"train", "held_out"}:
        raise ValueError(f"{package} lacks the emoji to train on: unpack the whole @iconify/json there.")
    emoji, pictures = draw_icons(package, emoji, workers, channels=slice(None))
    pictures = pictures[emoji.pop("mask")]
    keep = pictures[..., 3].mean((1, 2)) > MIN_COVERAGE * 255
    keep[keep] = is_new(emoji[keep], pictures[keep])
    emoji, pictures = emoji[keep].reset_index(drop=True), pictures[keep]
    facts = {
        "icons": emoji["part"].value_counts().to_dict(),
        "kinds": emoji.groupby("part")["kind"].value_counts().unstack(0, fill_value=0).to_dict(),
        "sets": describe_sets(free_sets(package), emoji, is_held_out),
    }
    return write_corpus(folder, "emoji", pictures, emoji, facts)


def is_new(emoji: pd.DataFrame, pictures: UInt8[np.ndarray, "emoji height width 4"]) -> np.ndarray:
    """Say of each emoji that it is trained on, or held out and unlike all that are trained on."""
    small = reduce_to(pictures, 16).reshape(len(pictures), -1) / np.float32(255)
    trained = small[(emoji["part"] == "train").to_numpy()]
    return np.array([
        part == "train" or float(np.abs(trained - row).mean(1).min()) >= NEAR_DUPLICATE_DIFFERENCE
        for part, row in zip(emoji["part"], small, strict=True)
    ])  # fmt: skip


def reduce_to(
    pictures: UInt8[np.ndarray, "emoji height width 4"], resolution: int
) -> UInt8[np.ndarray, "emoji resolution resolution 4"]:
    """Average areas, with alpha multiplied into the colours and left so: transparent pixels have no say."""
    factor = pictures.shape[1] // resolution
    reduced = np.empty((len(pictures), resolution, resolution, 4), np.uint8)
    for row, picture in enumerate(pictures):
        values = picture.astype(np.float32)
        values[..., :3] *= values[..., 3:] / 255
        reduced[row] = values.reshape(resolution, factor, resolution, factor, 4).mean((1, 3)).round()
    return reduced


def brightness(pictures: UInt8[np.ndarray, "emoji height width 4"]) -> Float[np.ndarray, " emoji"]:
    """Mean luminance in [0, 1] of where something is drawn; alpha is multiplied into the colours."""
    totals = pictures.sum((1, 2), dtype=np.float64)
    return np.array([luminance(total[:3]) / total[3] for total in totals])


def draw_background(
    generator: np.random.Generator, emoji_brightness: float
) -> tuple[str, Float[np.ndarray, "3"]]:
    """Draw a named colour, and a shade of it whose luminance is far enough from an emoji's mean."""
    while True:
        name = str(generator.choice(list(COLOURS)))
        colour = draw_colour(generator, name)
        if abs(luminance(colour) - emoji_brightness) >= MIN_LUMINANCE_DIFFERENCE:
            return name, colour


def lay_on(
    pictures: UInt8[np.ndarray, "emoji height width 4"], backgrounds: Float[np.ndarray, "emoji 3"]
) -> Float[np.ndarray, "emoji height width 3"]:
    """Lay pictures, alpha multiplied into the colours, on plain backgrounds: ``float32`` in [0, 1]."""
    values = pictures.astype(np.float32) / 255
    grounds = backgrounds.astype(np.float32)[:, None, None]
    return np.minimum(values[..., :3] + (1 - values[..., 3:]) * grounds, np.float32(1))


def emoji_caption(generator: np.random.Generator, words: str, kind: str, background: str) -> str:
    """Write "a cat face emoji on dark blue", or "an animal emoji"; other parts are left out at random too."""

    def keep() -> bool:
        return generator.random() >= WORD_DROP_SHARE

    noun = kind if generator.random() < KIND_ALONE_SHARE else words
    parts = [article(noun)] if keep() else []
    parts += [noun]
    parts += ["emoji"] if keep() else []
    parts += [f"on {background}"] if keep() else []
    return " ".join(parts)


def article(noun: str) -> str:
    """The indefinite article: "an" before the letter of a vowel."""
    return "an" if noun[0] in "aeiou" else "a"


@dataclass(frozen=True)
class EmojiCorpus:
    """The part of a corpus folder's emoji that one stage trains on, beside its icons."""

    pictures: UInt8[np.ndarray, "emoji height width 4"]  # alpha is last, and multiplied into the colours
    icons: pd.DataFrame  # one row an emoji: icon_set, name, words, kind, part
    facts: dict

    @classmethod
    def load(cls, folder: Path, part: str, resolution: int) -> EmojiCorpus:
        """Read ``train`` or ``held_out``, area-averaged to ``resolution`` px."""
        emoji = pd.read_parquet(folder / "emoji.parquet")
        chosen = (emoji["part"] == part).to_numpy()
        stored = np.load(folder / "emoji.npy", mmap_mode="r", allow_pickle=False)[chosen]
        facts = json.loads((folder / "emoji.json").read_text())
        return cls(reduce_to(stored, resolution), emoji[chosen].reset_index(drop=True), facts)

    def draw(
        self, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "count height width 3"], list[str], Int[np.ndarray, " count"]]:
        """Draw pairs: images ``float32`` in [0, 1] on a random colour, captions, and rows of ``icons``."""
        rows = generator.integers(len(self.icons), size=count)
        pictures, backgrounds, captions = self.pictures[rows], [], []
        told = self.icons.iloc[rows][["words", "kind"]].itertuples(index=False)
        for (words, kind), light in zip(told, brightness(pictures), strict=True):
            name, colour = draw_background(generator, light)
            backgrounds.append(colour)
            captions.append(emoji_caption(generator, words, kind, name))
        return lay_on(pictures, np.stack(backgrounds)), captions, rows
