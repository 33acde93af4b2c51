"""`diffinv sample`: stage 2, a synthetic set from learned vectors."""

import argparse
import sys
from pathlib import Path

from diffinv.commands.options import add_model, at_least, load_model, override
from diffinv.commands.parts import add_parts


def add_to(verbs) -> None:
    verb = verbs.add_parser("sample", help="stage 2: draw a synthetic set from learned vectors")
    add = verb.add_argument
    add("store", type=Path, metavar="STORE", help="folder written by diffinv invert")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder for the synthetic images")
    add("--images-per-real", type=at_least(1), default=5, metavar="N", help="default: %(default)s")
    add("--guidance-scale", type=float, help="1 = unguided")
    add("--noise-std", type=float, help="noise on the vectors, the paper's lambda")
    add("--interpolation-weight", type=float, help="share of a partner's vectors; 0 = none")
    add("--unconditional", help="mean, class_mean or empty_prompt")
    add("--num-inference-steps", type=at_least(1))
    add("--scheduler", help="a scheduler class of diffusers, such as DDIMScheduler")
    add_model(verb)
    add_parts(verb)
    verb.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    from diffinv.artefacts.writing import check_output
    from diffinv.lessons.profiles import load_profile
    from diffinv.method.store import EmbeddingStore
    from diffinv.synthesizers.base import check_request
    from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

    check_output(options.out, folder=True)
    store = EmbeddingStore.load(options.store)
    check_request(store, options.images_per_real)
    profile = load_profile(options.profile).using("", store.resolution)
    synthesizer = DiffusionInversion.from_store(
        load_model(options, profile, store.provenance["model"]),
        store,
        override(profile.perturbation, options, "noise_std", "interpolation_weight", "unconditional"),
        override(profile.sampling, options, "guidance_scale", "num_inference_steps", "scheduler"),
    )
    synthetic = synthesizer(images_per_real=options.images_per_real, seed=options.seed)
    synthetic.save(options.out)
    sys.stdout.write(f"{options.out} holds {len(synthetic)} images of {synthetic.num_classes} classes.\n")
    return 0
