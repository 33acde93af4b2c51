"""`diffinv evaluate`: is it worth it for these images, or how good is this synthetic set?"""

import argparse
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffinv.commands.options import (
    REAL_IMAGES,
    add_model,
    add_reading,
    asked,
    at_least,
    load_model,
    option,
    override,
    reading,
)
from diffinv.commands.parts import add_parts
from diffinv.studies import LEAST_SEEDS

if TYPE_CHECKING:
    from diffinv.classifiers.training import Training
    from diffinv.datasets import LabelledImages
    from diffinv.studies.grid import Condition
    from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

log = logging.getLogger(__name__)
IMAGES_PER_REAL, NEIGHBOURS = 5, 5
REAL, SYNTHETIC, BOTH = "real", "synthetic", "real + synthetic"


def add_to(verbs) -> None:
    verb = verbs.add_parser(
        "evaluate",
        help="compare classifiers trained on your images, on synthetic ones and on both; "
        "or judge a synthetic set",
        description="With REAL alone: make synthetic images of it and compare classifiers trained on the "
        "real images, on the synthetic ones and on both. With SYNTHETIC: the evaluation card of that set.",
    )
    add = verb.add_argument
    add("folder", metavar="REAL", help=REAL_IMAGES)
    add("synthetic", nargs="?", metavar="SYNTHETIC", help="folder of synthetic images of the same classes")
    kinds = f"trainings of each kind, at least {LEAST_SEEDS} (default: %(default)s)"
    add("--seeds", type=at_least(LEAST_SEEDS), default=3, metavar="N", help=kinds)
    add("--resolution", type=at_least(1), help="side of the images (default: the folder's own)")
    add("--optimiser-steps", type=at_least(1), help="steps of each training (default: the profile's)")
    out = "default: NAME-evaluation.json, NAME being the last folder's; a card's page lies beside it"
    add("--out", type=Path, metavar="JSON", help=out)
    add("--json", action="store_true", help="print that record, for machines, in place of the report")
    add = verb.add_argument_group("with REAL alone").add_argument
    add("--images-per-real", type=at_least(1), metavar="N", help="default: 5")
    add("--real-per-class", type=at_least(1), metavar="N", help="use only so many real images per class")
    add("--interpolation-weight", type=float, help="share of a classmate's vectors; 0 = none")
    add = verb.add_argument_group("with SYNTHETIC").add_argument
    add("--test", metavar="FOLDER", help="real images to test on (default: REAL's test split)")
    whose = (
        "a CLIP or DINOv2 whose features to compare: tinysd, a folder or a hub id (default: the profile's)"
    )
    add("--features", "--clip", metavar="MODEL", help=whose)
    # None until given, to tell who asks for it in vain.
    flag = {"action": "store_true", "default": None}
    add("--against-real", **flag, help="train classifiers on REAL as well")
    add("--no-accuracy", **flag, help="train no classifier")
    add("--neighbours", type=at_least(1), metavar="K", help="of precision, recall, ... (default: 5)")
    add_reading(verb)
    add_model(verb)
    add_parts(verb)
    verb.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    from diffinv.artefacts.writing import as_json

    if options.synthetic is None:
        _refuse(
            options, "test", "features", "against_real", "no_accuracy", "neighbours", where="needs SYNTHETIC"
        )
        record, report = _compare(options)
    else:
        own = ("images_per_real", "real_per_class", "interpolation_weight", "model")
        _refuse(options, *own, where="is for REAL alone")
        record, report = _judge(options)
    sys.stdout.write(as_json(record) if options.json else report)
    return 0


def _refuse(options: argparse.Namespace, *names: str, where: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f"{option(name)} {where}: leave it out.")


def _compare(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Train on real images, on synthetic ones and on both: the record, which is written, and a report."""
    from diffinv.artefacts.writing import check_output, provenance, write_json
    from diffinv.datasets import load_dataset
    from diffinv.evaluation.gain import gain_record, gain_report
    from diffinv.studies.grid import run_study

    name = Path(options.folder).resolve().name
    out = options.out or Path(f"{name}-evaluation.json")
    check_output(out)
    how = {"seed": options.seed, **reading(options)}
    train = load_dataset(options.folder, split="train", resolution=options.resolution, **how)
    # The folder's splits may differ in their natural resolution.
    test = load_dataset(options.folder, split="test", resolution=train.resolution, **how)
    seeds = range(options.seed, options.seed + options.seeds)
    conditions = list(_conditions(options, train))
    rows = run_study(conditions, train=train, test=test, seeds=seeds, dataset=name, by_class=True)
    if (count := options.real_per_class) is not None:  # another seed takes others, as many
        train = train.per_class(count, seed=options.seed)
    found = gain_record(rows, train=train, test=test)
    record = {**provenance(options=asked(options)), "dataset": name, **found}
    write_json(out, record)
    return record, "\n".join([f"{name}:", *gain_report(record), "", f"{out} holds every row.", ""])


def _conditions(options: argparse.Namespace, train: "LabelledImages") -> "Iterator[Condition]":
    from diffinv.lessons.profiles import load_profile
    from diffinv.studies.grid import Condition
    from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
    from diffinv.synthesizers.real import Real

    profile = load_profile(options.profile).for_dataset(str(options.folder))
    # Vectors are learned at the images' own side, or above where the profile's model wants more.
    side = max(train.resolution, profile.sampling.resolution or 0)
    diffusion = load_model(options, profile.using("", side))
    profile = profile.using("", diffusion.suitable_resolution(side))
    synthesizer = DiffusionInversion(
        diffusion,
        override(profile.inversion, options, "seed"),
        override(profile.perturbation, options, "interpolation_weight"),
        profile.sampling,
    )
    shared: dict[str, Any] = {
        "training": _of_length(profile.training_for(str(options.folder)), options),
        # The parser leaves it open, to tell who asks for it in vain.
        "images_per_real": IMAGES_PER_REAL if options.images_per_real is None else options.images_per_real,
        "real_per_class": options.real_per_class,
    }
    _say_sides(synthesizer, train, options.seeds * shared["images_per_real"])
    yield Condition(REAL, Real(), **{**shared, "images_per_real": 1})
    yield Condition(SYNTHETIC, synthesizer, **shared)
    yield Condition(BOTH, synthesizer, with_real=True, **shared)


def _of_length(training: "Training", options: argparse.Namespace) -> "Training":
    return training if options.optimiser_steps is None else training.of_length(options.optimiser_steps)


def _say_sides(synthesizer: "DiffusionInversion", train: "LabelledImages", samples_per_real: int) -> None:
    """Say where images are drawn at another side than theirs, or at one that the model was not made for."""
    from diffinv.reproduce.talk import duration
    from diffinv.studies.estimate import estimate

    diffusion, side = synthesizer.diffusion, synthesizer.sampling.resolution or train.resolution
    name, native = diffusion.name, diffusion.native_resolution
    if side != train.resolution:
        log.info(
            "images of %d px are drawn at %d px, which %r takes, and resized.", train.resolution, side, name
        )
    if side > native:
        settings: dict[str, Any] = {
            "inversion": synthesizer.inversion,
            "sampling": replace(synthesizer.sampling, resolution=native),
        }
        # Measured where it is soon done; attention takes more than in proportion to the pixels.
        seconds = estimate(diffusion, train, images_per_real=samples_per_real, **settings).seconds
        log.info(
            "%r draws images of %d px, and worse ones of %d px; by an estimate they take %s or more: choose "
            "--resolution %d, or --model for one that draws large images.",
            name, native, side, duration(seconds * (side / native) ** 2), native,
        )  # fmt: skip


def _judge(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Judge the synthetic set by the real one and write the page: the record, and the card as text."""
    from diffinv.artefacts.writing import check_output, provenance, write_json
    from diffinv.datasets.folder import load_like
    from diffinv.evaluation.card import card_record, card_text, evaluation_card
    from diffinv.evaluation.page import write_page
    from diffinv.lessons.profiles import load_profile
    from diffinv.models.dinov2 import load_features

    profile = load_profile(options.profile)
    training = None if options.no_accuracy else _of_length(profile.training, options)
    names = [Path(folder).resolve().name for folder in (options.synthetic, options.folder)]
    out = options.out or Path(f"{names[0]}-evaluation.json")
    page = out.with_suffix(".html")
    if page == out:
        raise ValueError(f"--out {out} is where the page goes: name the file of numbers, {out.stem}.json.")
    for path in (out, page):
        check_output(path)
    real, test = _real_images(options)
    synthetic = load_like(Path(options.synthetic).expanduser(), real)
    card = evaluation_card(
        real,
        synthetic,
        test=test,
        clip=load_features(options.features or profile.clip, device=options.device or profile.device),
        training=training,
        seeds=range(options.seed, options.seed + options.seeds),
        against_real=bool(options.against_real) and training is not None,
        k=NEIGHBOURS if options.neighbours is None else options.neighbours,
    )
    title = f"{names[0]} against {names[1]}"
    record = {**provenance(options=asked(options)), "title": title, **card_record(card)}
    write_json(out, record)
    write_page(card, page, title=title)
    counts = f"{len(synthetic)} synthetic against {len(real)} training images"
    return record, f"{title}: {counts}\n\n{card_text(card)}\n{page} shows it, {out} holds the numbers.\n"


def _real_images(options: argparse.Namespace) -> "tuple[LabelledImages, LabelledImages | None]":
    from diffinv.datasets import load_dataset
    from diffinv.datasets.folder import load_like
    from diffinv.datasets.labelled_images import is_saved

    # Without --seed: the split is that of `diffinv invert`, whose images are the synthetic ones' originals.
    how = reading(options)
    real = load_dataset(options.folder, split="train", resolution=options.resolution, **how)
    if options.test is not None:
        return real, load_like(Path(options.test).expanduser(), real)
    if is_saved(Path(options.folder).expanduser()):  # one set, without splits
        return real, None
    return real, load_dataset(options.folder, split="test", resolution=real.resolution, **how)
