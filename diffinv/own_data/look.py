"""What a folder of images holds, said in a table before any work, and all that stands in the way of it."""

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from PIL import Image

from diffinv.datasets import CATALOGUE, DatasetError, LabelledImages, embedded_names, load_dataset, look_at
from diffinv.datasets.decoding import resize_images
from diffinv.datasets.hub import is_hub_folder
from diffinv.datasets.labelled_images import is_saved
from diffinv.datasets.layout.plan import UNDIVIDED, Layout
from diffinv.datasets.layout.remarks import collecting
from diffinv.datasets.selection import share_of_classes
from diffinv.foundation.errors import listed
from diffinv.metrics.duplicates import duplicate_groups, near_duplicates

VALIDATION_SHARE = 0.15
WIDTH = 80
MOST_ROWS, MOST_NAME = 20, 24
DRAWING = (
    0.5  # share of neighbouring pixels that are alike; of icons and emoji 0.66 and more, of photographs 0.3
)


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
        table = pd.DataFrame({name: part.class_counts() for name, part in parts.items() if part is not None})
        table.loc["all"] = table.sum()
        table.index = [
            name if len(name) <= MOST_NAME else name[: MOST_NAME - 1] + "…" for name in table.index
        ]
        shown = pd.concat([table[:-1][:MOST_ROWS], table[-1:]]).rename_axis("images of", axis="columns")
        lines = [shown.to_string(), f"files: {self.about_files}", f"near-duplicates: {self._duplicates()}"]
        if hidden := len(table) - len(shown):
            lines.insert(1, f"and {hidden} more classes")
        return wrapped([f"{self.name}", *lines, *(f"- {note}" for note in self.notes)])

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
        return f"{within} pairs within splits, {across} across, {two_classes} in two classes: {named}"


def read_own(
    data: str | Path, *, resolution: int | None, seed: int, skip_damaged: bool, **how: Any
) -> OwnImages:
    """Read images for `augment`, and look at them; `how` is for `load_dataset`. DatasetError as that.

    Files that cannot be read are left out here, and named in `damaged` unless they may be. A folder without
    splits, or without validation images, has 15 % of each class set aside as such, by a hash of the names.
    """
    folder, how = Path(data).expanduser(), {"seed": seed, "skip_damaged": True, **how}
    layout = _layout_of(data, how)
    undivided = layout is not None and UNDIVIDED in layout.files
    with collecting() as notes:
        train = load_dataset(data, split="train", resolution=resolution, **how)
        others = {}
        for split in ("validation", "test"):
            if layout is None or undivided or split in layout.files:
                try:
                    others[split] = load_dataset(data, split=split, resolution=train.resolution, **how)
                except DatasetError:
                    if layout is not None and not undivided:
                        raise  # it is there, and wrong
    validation, test = others.get("validation"), others.get("test")
    if undivided and test is not None:
        train, test = LabelledImages.concatenate(train, test), None
    if validation is None:
        chosen = np.isin(
            np.arange(len(train)), share_of_classes(train.ids, train.labels, 0, VALIDATION_SHARE)
        )
        train, validation = train.subset(~chosen), train.subset(chosen)
        notes.append(
            f"{len(validation)} training images, of each class a share, are set aside for validation."
        )
    elif undivided:
        # What is said of the test part would be read as one of the folder's own.
        notes[:] = [note for note in notes if not note.startswith(("the test split", "test images"))]
        notes.append(f"no splits of its own: {len(validation)} images are set aside for validation.")
    parts = [part.images for part in (train, validation, test) if part is not None]
    left_out = [note for note in notes if "are left out:" in note]
    if layout:  # one line for all splits says it
        notes[:] = [note for note in notes if not re.search("are (cropped to their middle|squashed),", note)]
    return OwnImages(
        name=folder.name or str(data),
        real=train,
        validation=validation,
        test=test,
        pairs=near_duplicates(np.concatenate(parts)),
        about_files=_about_files(layout, how) if layout else f"{train.resolution}x{train.resolution} px, RGB",
        notes=tuple(note.replace(f"{folder}/", "") for note in notes),
        damaged="" if skip_damaged or not left_out else _refused(left_out).replace(f"{folder}/", ""),
    )


def drawn_share(images: np.ndarray) -> float:
    """Share of neighbouring pixels that are alike: high in drawings, low in photographs."""
    values = resize_images(images, 32).astype(np.int16)
    return float((np.abs(np.diff(values, axis=2)).max(axis=-1) <= 2).mean())


def wrapped(lines: Sequence[str]) -> str:
    """Lines of at most 80 columns; tables, which have their own line breaks, stay as they are."""
    return "\n".join(
        line if "\n" in line else textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines
    )


def _layout_of(data: str | Path, how: dict[str, Any]) -> Layout | None:
    """What an own folder of image files is taken for; None for anything else that can be loaded."""
    folder = Path(data).expanduser()
    named = isinstance(data, str) and data in (*embedded_names(), *CATALOGUE)
    if named or not folder.is_dir() or is_saved(folder) or is_hub_folder(folder):
        return None
    if any(is_saved(path) for path in folder.iterdir()):
        return None
    return look_at(folder, how.get("class_level"))


def _about_files(layout: Layout, how: dict[str, Any]) -> str:
    sizes, modes = Counter(), Counter()  # type: ignore[var-annotated]
    for classes in layout.files.values():
        for path in (path for paths in classes.values() for path in paths):
            try:
                with Image.open(path) as image:
                    sizes[image.size] += 1
                    modes[f"{image.format} {image.mode}"] += 1
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue  # named among the damaged
    smallest, largest = min(sizes, key=math.prod), max(sizes, key=math.prod)
    oblong = {size: count for size, count in sizes.items() if size[0] != size[1]}
    shape = f"{smallest[0]}x{smallest[1]}"
    if len(sizes) > 1:
        shape += f" to {largest[0]}x{largest[1]}"
    kinds = listed([f"{count} {mode}" for mode, count in modes.most_common()], 6)
    if not oblong:
        return f"{shape} px, all square; {kinds}"
    loss = 1 - min(min(size) / max(size) for size in oblong)
    done = {"crop": f"cropped by up to {loss:.0%}", "pad": "padded with white", "squash": "squashed"}
    said = f"{sum(oblong.values())} not square and {done[how.get('fit', 'crop')]} (fit: crop, pad or squash)"
    return f"{shape} px, {said}; {kinds}"


def _refused(left_out: list[str]) -> str:
    files = listed([note.partition(": ")[2].rstrip(".") for note in left_out])
    return f"files cannot be read ({files}): replace them, or go on without them with skip_damaged=True"
