"""What anybody should know of a set of images before training on it, a sentence each, and who tells it."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from diffinv.datasets.layout.names import readable
from diffinv.datasets.layout.plan import Classes, Layout
from diffinv.foundation.errors import listed

log = logging.getLogger(__name__)
FEW_IMAGES, UNEQUAL = 3, 10
_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def remarks(folder: Path, splits: Mapping[str, Classes], digests: Mapping[Path, bytes]) -> Iterator[str]:
    """Sentences on classes that are absent, small or unequal, and on images that stand in two places.

    Two images are the same where `digests`, those of their files, are.
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


def _identical(splits: Mapping[str, Classes], digests: Mapping[Path, bytes]) -> Iterator[str]:
    places: dict[bytes, list[tuple[str, str, Path]]] = {}
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
