"""`--shard` and `--engine`: a verb's work shared among processes or machines."""

import argparse
import sys
from typing import TYPE_CHECKING

from diffinv.artefacts.parts import Part, PartDone, only_part
from diffinv.commands.options import at_least, option

if TYPE_CHECKING:
    from diffinv.artefacts.engine import Engine


def add_parts(verb: argparse.ArgumentParser, *, shard: bool = True, stages: bool = False) -> None:
    """Add how the work is shared; of work in stages, one has to be done before parts of the next are made."""
    add = verb.add_argument_group("sharing the work").add_argument
    if shard:
        then = "once for each stage, at last" if stages else "after all of them,"
        add("--shard", metavar="K/N", help=f"make part K of N; {then} run without --shard")
    add("--engine", metavar="NAME", help="local (processes of this machine) or ray (a cluster)")
    add("--workers", type=at_least(1), metavar="N", help="default: one per GPU, else one per core")
    add("--ray-address", metavar="ADDRESS", help="such as auto (default: a cluster of this machine alone)")
    verb.set_defaults(stages=stages)


def run_shared(options: argparse.Namespace) -> int:
    """Run a verb: one part of it, or the whole, on an engine where one is named."""
    part, engine = getattr(options, "shard", None), chosen_engine(options)
    if part is None:
        if engine is None:
            return options.verb(options)
        from diffinv.artefacts.engine import using

        with using(engine):
            return options.verb(options)
    if engine is not None:
        raise ValueError("--shard and --engine both share the work: leave one out.")
    part = Part.parse(part)
    with only_part(part, stages=options.stages):
        try:
            code = options.verb(options)
        except PartDone as done:
            then = "run all parts again for the next stage, at last one" if options.stages else "at last run"
            made = f"part {part} is done: {done.files} files in the cache"
            sys.stdout.write(f"{made}; {then} without --shard.\n")
            return 0
    if not options.stages:
        raise ValueError("this command has no parts: leave --shard out.")
    return code


def chosen_engine(options: argparse.Namespace) -> "Engine | None":
    """The engine that the options name; ValueError, before any work, for one that is not there."""
    name = getattr(options, "engine", None)
    if name is None:
        for other in ("workers", "ray_address"):
            if getattr(options, other, None) is not None:
                raise ValueError(f"{option(other)} is for an engine: add --engine local or ray.")
        return None
    from diffinv.artefacts.engine import Engine
    from diffinv.lessons.profiles import load_profile

    device = getattr(options, "device", None) or load_profile(options.profile).device
    return Engine(name, options.workers or 0, options.ray_address, gpus=False if device == "cpu" else None)
