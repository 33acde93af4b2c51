"""What anybody should know of a set of images before training on it, a sentence each, and who tells it."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Literal

from diffinv.datasets.decoding import Fit, Header, UnreadableImage
from diffinv.datasets.layout.names import readable
from diffinv.datasets.layout.plan import Layout
from diffinv.foundation.errors import listed

log = logging.getLogger(__name__)
FEW_IMAGES, UNEQUAL = 3, 10
MOST_DAMAGED = 20  # of one kind in a sentence
WORTH_SAYING = 0.25  # of an image that a crop cuts off
Image = PurePath | str  # an image's file, or what it is called
Splits = Mapping[str, Mapping[str, Sequence[Image]]]  # the images of every class in every split


@dataclass(frozen=True)
class Remark:
    """One thing to know of a set of images, and whether it is of a split, or of what is done to pixels."""

    text: str
    split: str = ""
    about: Literal["", "fit"] = ""


@dataclass
class Findings:
    """What was found while images were read: their layout, remarks, the headers of files, those left out."""

    layout: Layout | None = None
    remarks: list[Remark] = field(default_factory=list)
    headers: dict[Any, Header] = field(default_factory=dict)
    damaged: dict[str, UnreadableImage] = field(default_factory=dict)


_collected: ContextVar[Findings | None] = ContextVar("collected", default=None)


def remarks(folder: Path, splits: Splits, digests: Mapping[Any, bytes]) -> Iterator[Remark]:
    """Sentences on classes that are absent, small or unequal, and on images that stand in two places.

    Two images are the same where `digests`, those of their encoded bytes, are.
    """
    train = splits["train"]
    for split in set(splits) - {"train"}:
        if absent := [name for name in train if not splits[split].get(name)]:
            text = f"the {split} split of {folder} has no image of {listed(absent)}, and cannot judge it."
            yield Remark(text, split)
    counts = {name: len(paths) for name, paths in train.items()}
    if few := [f"{name} ({count})" for name, count in counts.items() if count <= FEW_IMAGES]:
        yield Remark(f"classes in {folder} with {FEW_IMAGES} training images or fewer: {listed(few)}.")
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] >= UNEQUAL * counts[least]:
        yield Remark(
            f"the classes in {folder} are imbalanced ({counts[most]} training images of {most}, "
            f"{counts[least]} of {least}): accuracy is mostly that of {most}."
        )
    yield from _identical(splits, digests)


def _identical(splits: Splits, digests: Mapping[Any, bytes]) -> Iterator[Remark]:
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
            text = f"{split} images that are identical to training images: {len(leaked)} ({names})."
            yield Remark(text, split)
    twice = [same for same in places.values() if len({name for _, name, _ in same}) > 1]
    if twice:
        pairs = listed([listed([readable(str(path)) for _, _, path in same], 3) for same in twice], 3)
        yield Remark(f"identical images in two classes: {len(twice)} ({pairs}).")


def unreadable(errors: Sequence[UnreadableImage]) -> str:
    """All images that cannot be read, in one sentence: nobody wants to hear of one per run."""
    if len(errors) == 1:
        return f"{str(errors[0]).rstrip('.')}, or go on without it with skip_damaged=True."
    named = []
    for remedy in dict.fromkeys(error.remedy for error in errors):
        alike = [error.culprit for error in errors if error.remedy == remedy]
        named.append(f"{listed(alike, MOST_DAMAGED)}: {remedy}")
    remedy = "mend them, or go on without them with skip_damaged=True"
    return f"{len(errors)} images cannot be read ({'; '.join(named)}): {remedy}."


def said_of_pixels(
    folder: Path, split: str, headers: Mapping[Any, Header], fit: Fit, white: int
) -> Iterator[Remark]:
    """Sentences on what was done to the pixels of these images."""
    if (findings := _collected.get()) is not None:
        findings.headers.update(headers)
    if 255 < white < 65535:
        yield Remark(f"grey values in {folder} reach no more than {white}, which is taken for white.")
    lost = {image: header.loss for image, header in headers.items()}
    far = [image for image in lost if lost[image] > WORTH_SAYING]
    if far and fit != "pad":
        worst = max(far, key=lost.__getitem__)
        done = "cropped to their middle" if fit == "crop" else "squashed"
        other = "squash" if fit == "crop" else "crop"
        name = worst.name if isinstance(worst, PurePath) else worst
        text = (
            f"{len(far)} of {len(lost)} {split} images in {folder} are {done}, {name} by "
            f'{lost[worst]:.0%}: choose fit="pad" or fit="{other}" for another way.'
        )
        yield Remark(text, split, "fit")


def left_out(folder: Path, errors: Sequence[UnreadableImage]) -> Iterator[Remark]:
    """A sentence on images that cannot be read, where there are some."""
    if (findings := _collected.get()) is not None:
        findings.damaged.update({error.culprit: error for error in errors})
    elif errors:
        named = listed([error.culprit for error in errors], MOST_DAMAGED)
        yield Remark(f"images in {folder} that are left out: {len(errors)} ({named}).")


def tell(layout: Layout | None, sentences: Iterable[Remark]) -> None:
    """Log the plan of a folder, and as a warning each sentence on what a reader would not expect."""
    findings = _collected.get()
    if layout is not None and findings is not None:
        findings.layout = layout
    elif layout is not None:
        _tell_once(logging.INFO, layout.summary)
    for remark in (*map(Remark, layout.notes if layout else ()), *sentences):
        if findings is None:
            _tell_once(logging.WARNING, remark.text)
        elif remark not in findings.remarks:
            findings.remarks.append(remark)


@contextmanager
def collecting() -> Iterator[Findings]:
    """Gather what would be logged as warnings inside the block, for a report of the caller's."""
    findings = Findings()
    token = _collected.set(findings)
    try:
        yield findings
    finally:
        _collected.reset(token)


@cache  # three splits of one folder would say it three times
def _tell_once(level: int, sentence: str) -> None:
    log.log(level, sentence)
