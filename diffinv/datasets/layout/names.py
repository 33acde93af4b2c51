"""What folder and file names say: which split they mean, and how a name is written down."""

import os
import re
import unicodedata
from collections.abc import Iterable

_WORDS = {
    "train": "train training trn",
    "validation": "validation valid val dev development eval evaluation",
    "test": "test testing tst holdout heldout",
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words.split()}
# Words that say nothing of which split, also glued on as in "trainset".
_NEUTRAL = {
    *("set", "sets", "split", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures"),
    *("folder", "files", "seg", "labels", "label", "metadata", "annotations"),
}
_GLUED = re.compile(f"({'|'.join(_SPLIT_OF_WORD)})({'|'.join(_NEUTRAL)})?")


def storable(name: str) -> str:
    """A name that fits any file and line: control characters and bytes that are no UTF-8 are spelt out."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def readable(name: str) -> str:
    """A name that can be stored and compared, whichever way its accents are stored (NFC)."""
    return unicodedata.normalize("NFC", storable(name))


def split_of(name: str) -> str | None:
    """The split that a name spells, such as "training_set", "Test Images" or "val2017", or None."""
    split, rest = _parse(name)
    return None if rest else split


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """The split that each of these names spells, without those that spell none.

    Names such as "flowers_train" and "flowers_test" are understood by what they share.
    """
    parsed = {name: _parse(name) for name in names}
    shared: dict[tuple[str, ...], set[str]] = {}
    for split, rest in parsed.values():
        if split is not None:
            shared.setdefault(rest, set()).add(split)
    return {
        name: split
        for name, (split, rest) in parsed.items()
        if split is not None and (not rest or len(shared[rest]) > 1)
    }


def twins(one: str, other: str) -> str | None:
    """How two names that look alike differ: in case, in blanks, in how accents are stored; else None."""
    if readable(one) == readable(other):
        return "in how their accents are stored"
    one, other = readable(one).casefold(), readable(other).casefold()
    if one == other:
        return "in case"
    return "in blanks" if re.sub(r"[\s_-]", "", one) == re.sub(r"[\s_-]", "", other) else None


def _parse(name: str) -> tuple[str | None, tuple[str, ...]]:
    # "trainImages", "TRAIN_IMAGES" and "train-2017" alike: digits are no words.
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    text = " ".join(words).replace("hold out", "holdout").replace("held out", "heldout")
    split, rest = None, []
    for word in text.split():
        found = _GLUED.fullmatch(word)
        if found and split in (None, _SPLIT_OF_WORD[found[1]]):
            split = _SPLIT_OF_WORD[found[1]]
        elif word not in _NEUTRAL:
            rest.append(word)
    return split, tuple(rest)
