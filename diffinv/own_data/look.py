"""What a folder of images holds, said in a table before any work, and all that stands in the way of it."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from diffinv.datasets import LabelledImages, load_dataset
from diffinv.datasets.decoding import Header, MissingSplit, resize_images
from diffinv.datasets.layout.plan import UNDIVIDED
from diffinv.datasets.layout.remarks import collecting, left_out, unreadable
from diffinv.datasets.selection import share_of_classes
from diffinv.foundation.errors import listed
from diffinv.foundation.text import text_table
from diffinv.metrics.duplicates import duplicate_groups, near_duplicates

VALIDATION_SHARE = 0.15
WIDTH = 80
MOST_ROWS = 20
# Share of neighbouring pixels that are alike: of icons and emoji 0.66 and more, of photographs 0.3.
DRAWING = 0.5


@dataclass(frozen=True, eq=False)
class OwnImages:
    """Images as they will be used, and what a reader has to know of them.

    `real` is augmented and cross-validated; settings are chosen on `validation`; `test`, where the folder has
    a test split of its own, is only compared with the others for near-duplicates.
    """

    name: str
    real: LabelledImages
    validation: LabelledImages
    test: LabelledImages | None
    pairs: Int[np.ndarray, "pair 2"]  # near-duplicates among real, validation and test images, in this order
    about_files: str
    notes: tuple[str, ...]
    damaged: str = ""  # what the files that cannot be read are, where that stands in the way

    @property
    def groups(self) -> Int[np.ndarray, " image"]:
        """A number for each real image, shared by near-duplicates."""
        within = self.pairs[(self.pairs < len(self.real)).all(axis=1)]
        return duplicate_groups(within, len(self.real))

    def at(self, resolution: int) -> "OwnImages":
        """The same images at another side."""
        test = None if self.test is None else self.test.resize(resolution)
        validation = self.validation.resize(resolution)
        return replace(self, real=self.real.resize(resolution), validation=validation, test=test)

    def problems(self, num_folds: int) -> Iterator[str]:
        """All that the work could not be done with, a clause each: the culprit, then the remedy."""
        if self.damaged:
            yield self.damaged
        if self.real.num_classes < 2:
            yield f"{self.name} has one class, {self.real.class_names[0]}: add the images of another"
        labels, groups = self.real.labels, self.groups
        distinct = [len(np.unique(groups[labels == label])) for label in range(self.real.num_classes)]
        if few := [
            f"{name} ({count} distinct of {total})"
            for (name, total), count in zip(self.real.class_counts().items(), distinct, strict=True)
            if count < num_folds
        ]:
            most = f" or choose num_folds={least}" if (least := min(distinct)) >= 3 else ""
            yield (
                f"classes with fewer than {num_folds} distinct images, one for each fold: {listed(few)}: "
                f"add images{most}"
            )
        if not len(self.validation):
            yield f"{self.name} has too few images to set some aside for validation: add images"

    def __str__(self) -> str:
        parts = {"train": self.real, "validation": self.validation, "test": self.test}
        counts = {split: part.class_counts() for split, part in parts.items() if part is not None}
        names = self.real.class_names
        shown = [[name, *(str(of[name]) for of in counts.values())] for name in names[:MOST_ROWS]]
        total = ["all", *(str(sum(of.values())) for of in counts.values())]
        lines = text_table(["images of", *counts], [*shown, total], width=WIDTH)
        if hidden := len(names) - len(shown):
            lines.insert(-1, f"and {hidden} more classes")
        lines += [f"files: {self.about_files}", f"near-duplicates: {self._duplicates()}"]
        return wrapped([self.name, *lines, *(f"- {note}" for note in self.notes)])

    def record(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        parts = {"train": self.real, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "resolution": self.real.resolution,
            "images": {split: part.class_counts() for split, part in parts.items() if part is not None},
            "files": self.about_files,
            "near_duplicates": self._duplicates(),
            "notes": list(self.notes),
        }

    def _duplicates(self) -> str:
        parts = [part for part in (self.real, self.validation, self.test) if part is not None]
        ids = [name for part in parts for name in part.ids]
        split = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[self.pairs]
        across = (split[:, 0] != split[:, 1]).sum()
        labels = np.concatenate([part.labels for part in parts])[self.pairs]
        two_classes = (labels[:, 0] != labels[:, 1]).sum()
        if not len(self.pairs):
            return "none"
        named = listed([f"{ids[a]} ~ {ids[b]}" for a, b in self.pairs], 3, "pairs")
        within = len(self.pairs) - across
        return f"pairs within splits {within}, across {across}, in two classes {two_classes}: {named}"


def read_own(
    data: str | Path, *, resolution: int | None, seed: int, skip_damaged: bool, **how: Any
) -> OwnImages:
    """Read images for `augment`, and look at them; `how` is for `load_dataset`. DatasetError as that.

    Files that cannot be read are left out here, and named in `damaged` unless they may be. A folder without
    splits, or without validation images, has 15 % of each class set aside as such, by a hash of the names.
    """
    folder, how = Path(data).expanduser(), {"seed": seed, "skip_damaged": True, **how}
    others = {}
    with collecting() as findings:
        train = load_dataset(data, split="train", resolution=resolution, **how)
        for split in ("validation", "test"):
            with suppress(MissingSplit):
                others[split] = load_dataset(data, split=split, resolution=train.resolution, **how)
    undivided = findings.layout is not None and UNDIVIDED in findings.layout.files
    validation, test = others.get("validation"), others.get("test")
    # Of all splits one line says what is cropped; of parts that are drawn here there is nothing to say.
    notes = [
        remark.text
        for remark in findings.remarks
        if remark.about != "fit" and not (undivided and remark.split)
    ]
    if undivided and test is not None:
        train, test = LabelledImages.concatenate(train, test), None
    if validation is None:
        rows = share_of_classes(train.ids, train.labels, 0, VALIDATION_SHARE)
        chosen = np.isin(np.arange(len(train)), rows)
        train, validation = train.subset(~chosen), train.subset(chosen)
    if "validation" not in others or undivided:
        lacking = "no splits" if undivided else "no validation split"
        notes.append(f"{lacking} of its own: set aside for validation, of each class a share.")
    parts = [part.images for part in (train, validation, test) if part is not None]
    damaged = list(findings.damaged.values())
    if skip_damaged:
        notes += [remark.text for remark in left_out(folder, damaged)]
    stopped = unreadable(damaged).rstrip(".") if damaged and not skip_damaged else ""
    side = f"{train.resolution}x{train.resolution} px, RGB"
    return OwnImages(
        name=folder.resolve().name or str(data),
        real=train,
        validation=validation,
        test=test,
        pairs=near_duplicates(np.concatenate(parts)),
        about_files=_about_files(findings.headers, how.get("fit", "crop")) if findings.headers else side,
        notes=tuple(note.replace(f"{folder}/", "") for note in notes),
        damaged=stopped.replace(f"{folder}/", ""),
    )


def drawn_share(images: np.ndarray) -> float:
    """Share of neighbouring pixels that are alike: high in drawings, low in photographs."""
    values = resize_images(images, 32).astype(np.int16)
    return float((np.abs(np.diff(values, axis=2)).max(axis=-1) <= 2).mean())


def wrapped(lines: Sequence[str]) -> str:
    """Lines of at most 80 columns."""
    return "\n".join(
        # Names of files stay whole, to be copied.
        textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > WIDTH
        else line
        for line in lines
    )


def _about_files(headers: Mapping[Any, Header], fit: str) -> str:
    sizes = sorted({header.size for header in headers.values()}, key=math.prod)
    kinds = Counter(header.kind for header in headers.values()).most_common()
    shape = " to ".join(f"{width}x{height}" for width, height in dict.fromkeys((sizes[0], sizes[-1])))
    said = "all square"
    if oblong := [header.loss for header in headers.values() if header.loss]:
        cropped = f"cropped by up to {max(oblong):.0%}"
        done = {"crop": cropped, "pad": "padded with white", "squash": "squashed"}[fit]
        said = f"{len(oblong)} not square and {done} (fit: crop, pad or squash)"
    return f"{shape} px, {said}; {listed([f'{count} {kind}' for kind, count in kinds], 6)}"
