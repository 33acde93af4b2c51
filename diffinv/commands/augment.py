"""`diffinv augment`: one's own images in one call, from a look at them to the proof of what is gained."""

import argparse
import sys
from pathlib import Path

from diffinv.commands.options import REAL_IMAGES, add_model, add_reading, at_least, reading
from diffinv.commands.parts import add_parts

_SAME = ("resolution", "images_per_real", "repetitions", "optimiser_steps", "device", "profile", "seed")


def add_to(verbs) -> None:
    verb = verbs.add_parser(
        "augment",
        help="check your images, make synthetic ones of them, and prove what these gain",
        description="Look at the images and estimate the work; try the model on a few; choose settings on "
        "validation images; make the set; compare classifiers by cross-validation. Interrupted, the same "
        "command goes on from there.",
    )
    add = verb.add_argument
    add("data", metavar="DATA", help=REAL_IMAGES)
    add("--out", type=Path, metavar="DIR", help="folder for the set (needed unless --check)")
    add("--check", action="store_true", help="stop after the table and the estimate")
    add("--json", action="store_true", help="print one record, for machines, in place of the report")
    add("--anyway", action="store_true", help="go on where the model seems unable to show the images")
    add("--images-per-real", type=at_least(1), metavar="N", help="default: the profile's")
    add("--resolution", type=at_least(1), help="side of the images (default: theirs, or the model's if less)")
    add("--folds", type=at_least(3), metavar="K", help="of the cross-validation (default: the profile's)")
    add(
        "--repetitions",
        type=at_least(1),
        metavar="N",
        help="of it, with other folds (default: the profile's)",
    )
    add("--optimiser-steps", type=at_least(1), help="steps of each training (default: the profile's)")
    add_reading(verb)
    add_model(verb)
    add_parts(verb, stages=True)
    verb.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    from diffinv.artefacts.writing import as_json
    from diffinv.own_data.augment import augment, prepare

    if options.out is None and not options.check:
        raise ValueError("--out is missing: name a folder for the set, or ask for --check alone.")
    if options.check and options.shard is not None:
        raise ValueError("--check makes no files that --shard could share: leave one out.")
    given = {name: getattr(options, name) for name in _SAME}
    given |= {**reading(options), "num_folds": options.folds, "model": options.model or ""}
    given["report"] = (lambda text: None) if options.json else _say
    try:
        if options.check:
            record = prepare(options.data, options.out, **given).record()
        else:
            result = augment(options.data, options.out, anyway=options.anyway, **given)
            record = {**result.record, **result.report}
    except ValueError as error:  # whose other arguments are called as the options are
        raise ValueError(str(error).replace("num_folds=", "folds=")) from error
    if options.json:
        sys.stdout.write(as_json(record))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # a log shows it before hours of work, not after
