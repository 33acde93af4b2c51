"""`diffinv evaluate REAL SYNTHETIC`: the evaluation card of two folders, as text, JSON and a page."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffinv.artefacts.writing import provenance, write_json
from diffinv.commands.practice import override
from diffinv.datasets import DatasetError, LabelledImages, load_dataset
from diffinv.datasets.decoding import read_image, to_square
from diffinv.datasets.folder import SUFFIXES
from diffinv.datasets.labelled_images import is_saved
from diffinv.evaluation.card import card_record, card_text, evaluation_card
from diffinv.evaluation.page import write_page
from diffinv.lessons.profiles import load_profile
from diffinv.models.clip import load_clip

NEIGHBOURS = 5


def write_evaluation(options: argparse.Namespace) -> str:
    """Judge `options.synthetic` by `options.folder`; write JSON and HTML and return the text."""
    profile = load_profile(options.profile)
    training = None if options.no_accuracy else override(profile.training, options, "optimiser_steps")
    real, test = _real_images(options)
    synthetic = read_every_image(Path(options.synthetic).expanduser(), real)
    card = evaluation_card(
        real,
        synthetic,
        test=test,
        clip=load_clip(options.clip or profile.clip, device=options.device or profile.device),
        training=training,
        seeds=range(options.seed, options.seed + options.seeds),
        against_real=bool(options.against_real) and training is not None,
        k=NEIGHBOURS if options.neighbours is None else options.neighbours,
    )
    names = [Path(folder).resolve().name for folder in (options.synthetic, options.folder)]
    title = f"{names[0]} against {names[1]}"
    out = options.out or Path(f"{names[0]}-evaluation.json")
    page = out.with_suffix(".html")
    asked = {key: value for key, value in vars(options).items() if key != "verb"}
    write_json(out, {**provenance(options=asked), "title": title, **card_record(card)})
    write_page(card, page, title=title)
    counts = f"{len(synthetic)} synthetic against {len(real)} training images"
    return f"{title}: {counts}\n\n{card_text(card)}\n{page} shows it, {out} holds the numbers.\n"


def read_every_image(folder: Path, real: LabelledImages) -> LabelledImages:
    """Every image of a folder, its labels and its resolution those of `real`; a class may have none.

    The folder holds what `LabelledImages.save` wrote, or folders called as the classes of `real`.
    DatasetError for a class that `real` has not, or where there is no image.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: give one that holds a folder of images per class.")
    if not is_saved(folder):
        return _read_class_folders(folder, real)
    found = LabelledImages.load(folder)
    _check_classes(folder, found.class_names, real)
    labels = np.array([real.class_names.index(name) for name in found.class_names])[found.labels]
    return replace(found, labels=labels, class_names=real.class_names).resize(real.resolution)


def _real_images(options: argparse.Namespace) -> tuple[LabelledImages, LabelledImages | None]:
    # Without --seed: the split is that of `diffinv invert`, whose images are the synthetic ones' originals.
    real = load_dataset(options.folder, split="train", resolution=options.resolution)
    if options.test is not None:
        return real, read_every_image(Path(options.test).expanduser(), real)
    if is_saved(Path(options.folder).expanduser()):  # one set, without splits
        return real, None
    return real, load_dataset(options.folder, split="test", resolution=real.resolution)


def _read_class_folders(folder: Path, real: LabelledImages) -> LabelledImages:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    _check_classes(folder, [path.name for path in classes], real)
    files = [
        path
        for folder_of_class in classes
        for path in sorted(folder_of_class.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    if not files:
        raise DatasetError(f"{folder} holds no image: put the images of each class into a folder of its own.")
    names = [path.relative_to(folder) for path in files]
    return LabelledImages(
        images=np.stack([to_square(read_image(path), real.resolution, path) for path in files]),
        labels=np.array([real.class_names.index(name.parts[0]) for name in names]),
        class_names=real.class_names,
        ids=tuple(name.as_posix() for name in names),
        provenance={"dataset": str(folder)},
    )


def _check_classes(folder: Path, names: Sequence[str], real: LabelledImages) -> None:
    if unknown := sorted(set(names) - set(real.class_names)):
        raise DatasetError(
            f'{folder} has the class "{unknown[0]}", which the real images have not: rename or remove it.'
        )
