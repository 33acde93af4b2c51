"""`diffinv invert`: stage 1, the vectors of a folder's images."""

import argparse
import sys
from pathlib import Path

from diffinv.commands.options import (
    REAL_IMAGES,
    add_model,
    add_reading,
    at_least,
    load_model,
    override,
    reading,
)
from diffinv.commands.parts import add_parts


def add_to(verbs) -> None:
    verb = verbs.add_parser("invert", help="stage 1: learn the vectors of a folder of class folders")
    add = verb.add_argument
    add("folder", metavar="FOLDER", help=REAL_IMAGES)
    add("--out", type=Path, required=True, metavar="STORE", help="folder for the learned vectors")
    add("--split", default="train", help="train, validation or test (default: %(default)s)")
    add("--resolution", type=at_least(1), help="side at which to learn (default: the profile's)")
    add("--num-tokens", type=at_least(1), help="vectors per image")
    add("--steps-per-image", type=at_least(1), help="updates per image")
    add("--learning-rate", type=float)
    add_reading(verb)
    add_model(verb)
    add_parts(verb)
    verb.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    from diffinv.artefacts.writing import check_output
    from diffinv.datasets import load_dataset
    from diffinv.lessons.profiles import load_profile
    from diffinv.method.cached import invert

    check_output(options.out, folder=True)
    profile = load_profile(options.profile).for_dataset(str(options.folder))
    profile = profile.using("", options.resolution or 0)
    settings = override(profile.inversion, options, "num_tokens", "steps_per_image", "learning_rate", "seed")
    resolution = profile.sampling.resolution
    real = load_dataset(options.folder, split=options.split, resolution=resolution, **reading(options))
    diffusion = load_model(options, profile)
    if (nearest := diffusion.suitable_resolution(side := real.resolution)) != side:
        raise ValueError(f"{diffusion.name!r} takes no images of {side} px: choose --resolution {nearest}.")
    store = invert(diffusion, real, settings)
    store.save(options.out)
    sys.stdout.write(f"{options.out} holds the vectors of {len(store)} images.\n")
    return 0
