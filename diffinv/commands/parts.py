"""`--shard` and `--engine`: a verb's work shared among processes or machines."""

import argparse
import os
import sys
from functools import partial

from diffinv.artefacts.parts import Part, PartDone, only_part
from diffinv.commands.options import at_least, option


def add_parts(verb: argparse.ArgumentParser) -> None:
    """Add how the work is shared."""
    add = verb.add_argument_group("sharing the work").add_argument
    add("--shard", metavar="K/N", help="make part K of N; after all of them, run without --shard")
    add("--engine", metavar="NAME", help="local (processes of this machine) or ray (a cluster)")
    add("--workers", type=at_least(1), metavar="N", help="default: one per GPU, else one per core")
    add("--ray-address", metavar="ADDRESS", help="such as auto (default: a cluster of this machine alone)")


def run_shared(options: argparse.Namespace) -> int:
    """Run a verb: one part of it, all parts on an engine and then the whole, or the whole."""
    shard, engine = getattr(options, "shard", None), getattr(options, "engine", None)
    if engine is None and shard is None:
        for name in ("workers", "ray_address"):
            if getattr(options, name, None) is not None:
                raise ValueError(f"{option(name)} is for an engine: add --engine local or ray.")
        return options.verb(options)
    if engine is None:
        part = Part.parse(str(shard))
        files = run_part(options, part)
        sys.stdout.write(f"part {part} is done: {files} files in the cache; at last run without --shard.\n")
        return 0
    if shard is not None:
        raise ValueError("--shard and --engine both share the work: leave one out.")
    from diffinv.studies.engine import run_parts

    on_gpu, found = _gpus(options)
    workers = options.workers or (found if on_gpu else os.cpu_count() or 1)
    run_parts(
        partial(run_part, options), engine=engine, workers=workers, gpus=on_gpu, address=options.ray_address
    )
    return options.verb(options)  # finds all of it in the cache


def run_part(options: argparse.Namespace, part: Part) -> int:
    """Make one part of a verb's work; the number of its files."""
    with only_part(part):
        try:
            options.verb(options)
        except PartDone as done:
            return done.files
    raise ValueError("this command has no parts: leave --shard and --engine out.")


def _gpus(options: argparse.Namespace) -> tuple[bool, int]:
    """Whether each worker takes a GPU, and how many this machine has."""
    import torch

    from diffinv.lessons.profiles import load_profile

    device = options.device or load_profile(options.profile).device or ""
    return device != "cpu" and torch.cuda.is_available(), torch.cuda.device_count()
