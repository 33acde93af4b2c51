"""What a stage learns from when: few concepts at first, then rarer ones and emoji beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from diffinv.tinysd.corpus.captions import Corpus
from diffinv.tinysd.corpus.emoji import EmojiCorpus

Pairs = tuple[np.ndarray, list[str], np.ndarray]
EMOJI_SHARE = 0.15  # of the pairs, once emoji are drawn at all
WIDER_SHARE = 0.4  # of the icons, once icons of the wider concepts are drawn at all
DENOISER_WIDER_SHARE = 0.2  # the same of what the denoiser learns from
# The commonest concepts first: a small network learns few concepts well sooner than many badly.
COMMONEST_ALONE_SHARE = 0.4  # of the denoiser's samples before it meets 64 px


class ImageSource(Protocol):
    """Draws images ``float32 [count, h, w, 3]`` in [0, 1], captions, and the rows they were made from."""

    def draw(self, generator: np.random.Generator, count: int) -> Pairs: ...


class PairSource(Protocol):
    """An image source that can also be told the share of plain black and white icons."""

    def draw(self, generator: np.random.Generator, count: int, *, plain_share: float = 0.0) -> Pairs: ...


@dataclass(frozen=True)
class Mixture:
    """Icons, and with probability ``emoji_share`` an emoji instead, whose row is -1."""

    icons: Corpus
    emoji: EmojiCorpus
    emoji_share: float = EMOJI_SHARE

    @classmethod
    def load(cls, folder: Path, part: str, resolution: int) -> Mixture:
        """Read both corpora, area-averaged to ``resolution`` px.

        ``train`` has the wider concepts too, and balances the common ones: where icons were equally likely,
        the fifth of the concepts with the fewest were drawn right half as often as that with the most.
        """
        train = part == "train"
        icons = Corpus.load(
            folder, part, resolution, wider_share=WIDER_SHARE if train else 0.0, balanced=train
        )
        return cls(icons, EmojiCorpus.load(folder, part, resolution))

    def with_wider_share(self, share: float) -> Mixture:
        """The same with another share of rarer concepts among the icons, if it has any."""
        return replace(self, icons=self.icons.with_wider_share(share))

    def draw(self, generator: np.random.Generator, count: int, *, plain_share: float = 0.0) -> Pairs:
        """Draw pairs as ``Corpus.draw`` does; ``plain_share`` is of the icons."""
        is_emoji = generator.random(count) < self.emoji_share
        num_emoji = int(is_emoji.sum())
        images, captions, rows = self.icons.draw(generator, count, plain_share=plain_share)
        coloured, names, _ = self.emoji.draw(generator, num_emoji)
        for position, image, name in zip(np.flatnonzero(is_emoji), coloured, names, strict=True):
            images[position], captions[position], rows[position] = image, name, -1
        return images, captions, rows


@dataclass(frozen=True)
class Curriculum:
    """What to draw pairs from, after the ``first_samples`` samples that come from ``first``."""

    source: PairSource
    first: PairSource | None = None
    first_samples: int = 0

    def at(self, samples: int) -> PairSource:
        """Return what is drawn from after ``samples`` samples."""
        return self.first if self.first and samples < self.first_samples else self.source
