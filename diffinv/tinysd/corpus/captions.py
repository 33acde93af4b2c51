"""Icons become training pairs: a mask painted in two named colours, and a caption that says so."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

# hue range in degrees (None for the greys), saturation range, value range
COLOURS: dict[str, tuple[tuple[float, float] | None, tuple[float, float], tuple[float, float]]] = {
    "red": ((352, 368), (0.75, 1.0), (0.7, 1.0)), "dark red": ((352, 368), (0.7, 1.0), (0.3, 0.5)),
    "orange": ((20, 36), (0.8, 1.0), (0.85, 1.0)), "brown": ((18, 34), (0.55, 0.85), (0.35, 0.55)),
    "yellow": ((48, 60), (0.75, 1.0), (0.88, 1.0)), "light yellow": ((48, 60), (0.25, 0.5), (0.93, 1.0)),
    "green": ((95, 145), (0.65, 1.0), (0.55, 0.85)), "dark green": ((95, 150), (0.65, 1.0), (0.2, 0.4)),
    "light green": ((95, 145), (0.25, 0.5), (0.85, 1.0)), "teal": ((168, 186), (0.7, 1.0), (0.5, 0.8)),
    "blue": ((212, 236), (0.7, 1.0), (0.7, 1.0)), "dark blue": ((212, 238), (0.7, 1.0), (0.25, 0.45)),
    "light blue": ((196, 215), (0.25, 0.55), (0.88, 1.0)), "purple": ((265, 288), (0.55, 1.0), (0.5, 0.85)),
    "dark purple": ((265, 288), (0.6, 1.0), (0.22, 0.38)), "pink": ((315, 342), (0.35, 0.7), (0.88, 1.0)),
    "white": (None, (0, 0), (0.95, 1.0)), "light grey": (None, (0, 0), (0.72, 0.85)),
    "grey": (None, (0, 0), (0.42, 0.58)), "dark grey": (None, (0, 0), (0.18, 0.3)),
    "black": (None, (0, 0), (0.0, 0.06)),
}  # fmt: skip
MIN_LUMINANCE_DIFFERENCE = 0.3
EMPTY_CAPTION_SHARE = 0.1
WORD_DROP_SHARE = 0.25
ShapeVariation = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # of masks uint8 [n, h, w]


def draw_colour(generator: np.random.Generator, name: str) -> np.ndarray:
    """Draw one shade of a named colour, float RGB in [0, 1]."""
    hue, saturation, value = COLOURS[name]
    degrees = generator.uniform(*hue) % 360 if hue else 0.0
    return np.array(
        colorsys.hsv_to_rgb(degrees / 360, generator.uniform(*saturation), generator.uniform(*value))
    )


def luminance(rgb: np.ndarray) -> float:
    """Relative luminance of an RGB colour in [0, 1] (ITU-R BT.709 weights, gamma left out)."""
    return float(rgb @ np.array([0.2126, 0.7152, 0.0722]))


def draw_colour_pair(
    generator: np.random.Generator, *, bright_on_dark: bool = False, plain: bool = False
) -> tuple[str, np.ndarray, str, np.ndarray]:
    """Draw a foreground and a background whose luminances differ by more than 0.3."""
    names = ["white", "black"] if plain else list(COLOURS)
    while True:
        front_name, back_name = generator.choice(names, 2, replace=False)
        front, back = draw_colour(generator, front_name), draw_colour(generator, back_name)
        difference = luminance(front) - luminance(back)
        if (difference if bright_on_dark else abs(difference)) > MIN_LUMINANCE_DIFFERENCE and not (
            bright_on_dark and luminance(back) > 0.25
        ):
            return str(front_name), front, str(back_name), back


def colour_in(mask: np.ndarray, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Paint masks ``uint8 [..., h, w]`` in two colours ``[..., 3]``: ``float32 [..., h, w, 3]`` in [0, 1]."""
    alpha = mask[..., None].astype(np.float32) / 255
    front, back = front[..., None, None, :], back[..., None, None, :]
    return (alpha * front + (1 - alpha) * back).astype(np.float32)


def caption(generator: np.random.Generator, concept: str, style: str, front: str, back: str) -> str:
    """Write "a light blue filled heart icon on dark green", with parts left out at random."""

    def keep() -> bool:
        return generator.random() >= WORD_DROP_SHARE

    words = ["a"] if keep() else []
    words += [front] if keep() else []
    words += [style] if style and keep() else []
    words += [concept]
    words += ["icon"] if keep() else []
    words += [f"on {back}"] if keep() else []
    return " ".join(words)


@dataclass(frozen=True)
class Corpus:
    """The part of a corpus folder that one stage trains on."""

    masks: np.ndarray  # uint8 [icon, height, width]
    icons: pd.DataFrame  # one row an icon: icon_set, name, concept, style, ...
    facts: dict
    wider_share: float = 0.0  # of what is drawn: icons of the wider concepts, the last rows
    num_wider_icons: int = 0
    balanced: bool = False  # a concept is as likely as any other, however many icons show it

    @classmethod
    def load(
        cls, folder: Path, part: str, resolution: int, *, wider_share: float = 0.0, balanced: bool = False
    ) -> Corpus:
        """Read ``train``, ``held_out``, ``icons10`` or ``novel10``, area-averaged to ``resolution`` px.

        With a ``wider_share`` above 0, icons of the wider concepts too, if the corpus has any.
        """
        icons = pd.read_parquet(folder / "icons.parquet")
        wider = icons[icons["part"] == "wider"] if wider_share else icons[:0]
        icons = pd.concat([icons[icons["part"] == part], wider], ignore_index=True)
        stored = np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False)[icons["mask"]]
        factor = stored.shape[1] // resolution
        blocks = stored.reshape(len(icons), resolution, factor, resolution, factor)
        facts = json.loads((folder / "corpus.json").read_text())
        masks = blocks.mean((2, 4), dtype=np.float32).round().astype(np.uint8)
        return cls(masks, icons, facts, wider_share if len(wider) else 0.0, len(wider), balanced)

    @property
    def concepts(self) -> list[str]:
        """The concepts, most frequent first."""
        return self.icons["concept"].value_counts().index.tolist()

    def with_wider_share(self, share: float) -> Corpus:
        """The same corpus with another share of rarer concepts among what is drawn, if it has any."""
        return replace(self, wider_share=share if self.num_wider_icons else 0.0)

    def draw(
        self,
        generator: np.random.Generator,
        count: int,
        *,
        plain_share: float = 0.0,
        vary: ShapeVariation | None = None,
    ) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Draw pairs: images ``float32 [count, h, w, 3]`` in [0, 1], captions, and rows of ``icons``.

        ``plain_share`` of them are white on black or black on white, as most icons are; ``vary`` changes the
        masks before they are painted.
        """
        rows = self._draw_rows(generator, count)
        fronts, backs, captions = [], [], []
        for concept, style in self.icons.iloc[rows][["concept", "style"]].itertuples(index=False):
            plain = plain_share > 0 and generator.random() < plain_share
            front_name, front, back_name, back = draw_colour_pair(generator, plain=plain)
            fronts.append(front)
            backs.append(back)
            captions.append(caption(generator, concept, style, front_name, back_name))
        masks = self.masks[rows] if vary is None else vary(self.masks[rows], generator)
        return colour_in(masks, np.stack(fronts), np.stack(backs)), captions, rows

    @property
    def _first_wider(self) -> int:
        """Row of the first icon of a wider concept; those before it are of the common ones."""
        return len(self.icons) - self.num_wider_icons

    @cached_property
    def _balanced_odds(self) -> np.ndarray:
        """Probability of each icon of the common concepts, if these are balanced."""
        concepts = self.icons["concept"].iloc[: self._first_wider]
        counts = concepts.map(concepts.value_counts()).to_numpy()
        return 1 / counts / concepts.nunique()

    def _draw_rows(self, generator: np.random.Generator, count: int) -> np.ndarray:
        if self.balanced:
            rows = generator.choice(self._first_wider, size=count, p=self._balanced_odds)
        else:
            rows = generator.integers(self._first_wider, size=count)
        if self.wider_share:
            wider = generator.random(count) < self.wider_share
            rows[wider] = generator.integers(self._first_wider, len(self.icons), size=int(wider.sum()))
        return rows
