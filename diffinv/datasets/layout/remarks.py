"""What anybody should know of a set of images before training on it, a sentence each, and who tells it."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from diffinv.datasets.decoding import Fit, UnreadableImage
from diffinv.datasets.layout.names import readable
from diffinv.datasets.layout.plan import Layout
from diffinv.foundation.errors import listed

log = logging.getLogger(__name__)
FEW_IMAGES, UNEQUAL = 3, 10
WORTH_SAYING = 0.25  # of an image that a crop cuts off
Image = PurePath | str  # an image's file, or what it is called
Splits = Mapping[str, Mapping[str, Sequence[Image]]]  # the images of every class in every split
_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def remarks(folder: Path, splits: Splits, digests: Mapping[Any, bytes]) -> Iterator[str]:
    """Sentences on classes that are absent, small or unequal, and on images that stand in two places.

    Two images are the same where `digests`, those of their encoded bytes, are.
    """
    train = splits["train"]
    for split in set(splits) - {"train"}:
        if absent := [name for name in train if not splits[split].get(name)]:
            yield f"the {split} split of {folder} has no image of {listed(absent)}, and cannot judge it."
    counts = {name: len(paths) for name, paths in train.items()}
    if few := [f"{name} ({count})" for name, count in counts.items() if count <= FEW_IMAGES]:
        yield f"classes in {folder} with {FEW_IMAGES} training images or fewer: {listed(few)}."
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] >= UNEQUAL * counts[least]:
        yield (
            f"the classes in {folder} are imbalanced ({counts[most]} training images of {most}, "
            f"{counts[least]} of {least}): accuracy is mostly that of {most}."
        )
    yield from _identical(splits, digests)


def _identical(splits: Splits, digests: Mapping[Any, bytes]) -> Iterator[str]:
    places: dict[bytes, list[tuple[str, str, Image]]] = {}
    for split, classes in splits.items():
        for name, paths in classes.items():
            for path in paths:
                if path in digests:
                    places.setdefault(digests[path], []).append((split, name, path))
    for split in sorted(set(splits) - {"train"}):
        leaked = [
            path
            for same in places.values()
            if any(where == "train" for where, _, _ in same)
            for where, _, path in same
            if where == split
        ]
        if leaked:
            names = listed([readable(str(path)) for path in leaked], 3)
            yield f"{split} images that are identical to training images: {len(leaked)} ({names})."
    twice = [same for same in places.values() if len({name for _, name, _ in same}) > 1]
    if twice:
        pairs = listed([listed([readable(str(path)) for _, _, path in same], 3) for same in twice], 3)
        yield f"identical images in two classes: {len(twice)} ({pairs})."


def unreadable(errors: Sequence[UnreadableImage]) -> str:
    """All images that cannot be read, in one sentence: nobody wants to hear of one per run."""
    if len(errors) == 1:
        return f"{str(errors[0]).rstrip('.')}, or go on without it with skip_damaged=True."
    named = listed([error.culprit for error in errors])
    remedy = "replace them, take them out, or go on without them with skip_damaged=True"
    return f"{len(errors)} images cannot be read ({named}): {remedy}."


def said_of_pixels(
    folder: Path, split: str, sizes: Mapping[Any, tuple[int, int]], fit: Fit, white: int
) -> Iterator[str]:
    """Sentences on what was done to the pixels of these images, of those widths and heights."""
    if 255 < white < 65535:
        yield f"grey values in {folder} reach no more than {white}, which is taken for white."
    lost = {image: 1 - min(size) / max(size) for image, size in sizes.items()}
    far = [image for image in lost if lost[image] > WORTH_SAYING]
    if far and fit != "pad":
        worst = max(far, key=lost.__getitem__)
        done = "cropped to their middle" if fit == "crop" else "squashed"
        other = "squash" if fit == "crop" else "crop"
        name = worst.name if isinstance(worst, PurePath) else worst
        yield (
            f"{len(far)} of {len(lost)} {split} images in {folder} are {done}, {name} by "
            f'{lost[worst]:.0%}: choose fit="pad" or fit="{other}" for another way.'
        )


def left_out(folder: Path, errors: Collection[UnreadableImage]) -> Iterator[str]:
    """A sentence on images that cannot be read, where there are some."""
    if errors:
        named = listed([error.culprit for error in errors])
        yield f"{len(errors)} images in {folder} are left out: {named}."


def tell(layout: Layout | None, sentences: Iterable[str]) -> None:
    """Log the plan of a folder, and as a warning each sentence on what a reader would not expect."""
    collected = _collected.get()
    if layout is not None and collected is None:
        _tell_once(logging.INFO, layout.summary)
    for sentence in (*(layout.notes if layout else ()), *sentences):
        if collected is None:
            _tell_once(logging.WARNING, sentence)
        elif sentence not in collected:
            collected.append(sentence)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Put into a list what would be logged as warnings inside the block, for a report of the caller's."""
    sentences: list[str] = []
    token = _collected.set(sentences)
    try:
        yield sentences
    finally:
        _collected.reset(token)


@cache  # three splits of one folder would say it three times
def _tell_once(level: int, sentence: str) -> None:
    log.log(level, sentence)
