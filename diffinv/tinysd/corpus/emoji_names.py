"""What emoji are called, whoever drew them: plain words, and one of nine kinds of things.

Most vendors use the names of the Unicode standard and file them in a few categories of their own. The names
and categories of one vendor that draws every emoji, Noto, are therefore applied to all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

NAMING_SET = "noto"
KINDS = ("animal", "plant", "food", "face", "travel", "sky", "object", "flag", "activity")
# People have too much detail for 32 px, and symbols are letters and arrows: neither is used.
KIND_OF_CATEGORY = {
    "Activities": "activity", "Animals & Nature": "animal", "Food & Drink": "food", "Objects": "object",
    "Smileys & Emotion": "face", "Travel & Places": "travel", "Flags": "flag",
}  # fmt: skip
# Where a category holds things that its name does not fit.
KIND_OF_WORDS = {
    "plant": {
        "blossom", "bouquet", "cactus", "cherry blossom", "deciduous tree", "evergreen tree", "fallen leaf",
        "four leaf clover", "herb", "hibiscus", "hyacinth", "leaf fluttering in wind", "leafless tree",
        "lotus", "maple leaf", "mushroom", "palm tree", "potted plant", "rose", "seedling", "shamrock",
        "sheaf of rice", "sunflower", "tulip", "white flower", "wilted flower", "christmas tree",
    },
    "sky": {
        "cloud", "cloud with lightning", "cloud with lightning and rain", "cloud with rain",
        "cloud with snow", "comet", "crescent moon", "cyclone", "droplet", "fire", "first quarter moon",
        "first quarter moon face", "full moon", "full moon face", "glowing star", "high voltage",
        "last quarter moon", "last quarter moon face", "meteor", "milky way", "new moon", "new moon face",
        "rainbow", "ringed planet", "shooting star", "snowflake", "snowman", "snowman without snow", "star",
        "sun", "sun behind cloud", "sun behind large cloud", "sun behind rain cloud",
        "sun behind small cloud", "sun with face", "tornado", "umbrella", "closed umbrella",
        "umbrella with rain drops", "waning crescent moon", "waning gibbous moon", "water wave",
        "waxing crescent moon", "waxing gibbous moon", "wind face",
    },
    "object": {
        "alarm clock", "barber pole", "bellhop bell", "brick", "compass", "hourglass done",
        "hourglass not done", "luggage", "mantelpiece clock", "oil drum", "police car light", "rock",
        "stop sign", "stopwatch", "thermometer", "timer clock", "watch", "wheel", "wood",
    },
    "face": {"alien", "exploding head", "ogre", "goblin", "robot", "star struck"},
}  # fmt: skip
# Traces and parts of animals, suits of cards, and what fits no kind.
NAMELESS = {
    "coral", "empty nest", "feather", "microbe", "nest with eggs", "paw prints", "pig nose", "rosette",
    "spider web", "wing", "club suit", "diamond suit", "heart suit", "spade suit", "map of japan",
    "face in clouds",
}  # fmt: skip
# One vendor's flags are named in ways of its own ("chineseflag") or are mere letters.
FLAG = re.compile(r"(?:flag-for-)?(?:flag-)?(?!regionalindicator|\w+flag$)([a-z-]+)")
CLOCK_FACE = re.compile(r".*-(oclock|thirty)")


@dataclass(frozen=True)
class EmojiNames:
    """The known emoji: ``words`` by any spelling without hyphens, and ``kinds`` by words."""

    words: dict[str, str]
    kinds: dict[str, str]

    @classmethod
    def read(cls, package: Path) -> EmojiNames:
        """Read names, other names and categories of the naming set; ValueError if it is not there."""
        path = package / "json" / f"{NAMING_SET}.json"
        if not path.is_file():
            raise ValueError(f"{path} is missing: unpack the whole @iconify/json there.")
        known = json.loads(path.read_text())
        kinds = {
            _words(name): kind
            for category, kind in KIND_OF_CATEGORY.items()
            for name in known["categories"].get(category, ())
            if not CLOCK_FACE.fullmatch(name) and (kind != "face" or "face" in name.split("-"))
        }
        listed = {_words(name) for names in known["categories"].values() for name in names}
        for kind, members in KIND_OF_WORDS.items():
            kinds |= dict.fromkeys(members & listed, kind)
        words = {words.replace(" ", ""): words for words in kinds if words not in NAMELESS}
        for name, alias in known.get("aliases", {}).items():
            if (parent := _glued(alias["parent"])) in words:
                words.setdefault(_glued(name), words[parent])
        return cls(words, kinds)

    def parse(self, name: str, category: str) -> tuple[str, str] | None:
        """Give the words and the kind of a name in a vendor's category; None for what is not used.

        Trailing numbers, which tell drawings of one thing apart, are left out; a vendor that writes names
        without hyphens, or faces without "face", is understood.
        """
        stem = re.sub(r"-\d+$", "", name)
        for spelling in (_glued(stem), f"{_glued(stem)}face"):
            words = self.words.get(spelling)
            if words and (spelling == _glued(stem) or self.kinds[words] == "face"):
                return words, self.kinds[words]
        if category == "Flags" and (flag := FLAG.fullmatch(stem)):
            words = _words(flag[1])
            return (words if "flag" in words else f"{words} flag"), "flag"
        return None


def _words(name: str) -> str:
    return name.replace("-", " ")


def _glued(name: str) -> str:
    return name.replace("-", "")
