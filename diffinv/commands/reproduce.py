"""`diffinv reproduce`: the notebooks, headless, and their figures."""

import argparse
import sys
from pathlib import Path

from diffinv.commands.options import PROFILES, at_least
from diffinv.commands.parts import add_parts, chosen_engine
from diffinv.foundation.errors import say


def add_to(verbs) -> None:
    verb = verbs.add_parser("reproduce", help="run the notebooks headless and collect their figures")
    add, default = verb.add_argument, "default: %(default)s"
    add("--profile", default="tiny", help=f"{PROFILES} ({default})")
    add("--only", metavar="01,03", help="the numbers of the notebooks to run (default: all)")
    add("--jobs", type=at_least(1), default=1, metavar="N", help=f"notebooks at a time ({default})")
    add("--output", type=Path, metavar="DIR", help="default: figures for tiny, else runs/PROFILE")
    add("--notebooks", type=Path, default=Path("notebooks"), metavar="DIR", help=default)
    add(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a notebook parameter",
    )
    add("--force", action="store_true", help="run also what is up to date")
    add("--site", action="store_true", help="run nothing: make the site again of what has run")
    add_parts(verb, shard=False)
    verb.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    from diffinv.lessons.profiles import load_profile
    from diffinv.reproduce.runner import reproduce

    output = options.output or Path(load_profile(options.profile).output_dir)
    if options.site:
        return _site(output, options.notebooks)
    parameters, engine = {}, chosen_engine(options)
    for assignment in options.parameter:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise ValueError(f"a parameter is given as NAME=VALUE, not {assignment!r}.")
        parameters[name] = value
    outcomes = reproduce(
        options.profile,
        only=options.only.split(",") if options.only else None,
        jobs=options.jobs,
        output=output,
        parameters=parameters,
        notebooks=options.notebooks,
        force=options.force,
        engine=None if engine is None else str(engine),
    )
    failed = [outcome.job.name for outcome in outcomes if outcome.status == "failed"]
    sys.stdout.write(f"{output / 'site' / 'index.html'} shows the lessons and their figures.\n")
    if failed:
        return say(f"{len(failed)} of {len(outcomes)} notebooks failed: {', '.join(failed)}.", 1)
    return 0


def _site(output: Path, notebooks: Path) -> int:
    from diffinv.reproduce.manifest import Manifest
    from diffinv.reproduce.runner import find_notebooks
    from diffinv.reproduce.site import write_site

    find_notebooks(notebooks)  # says so where there are none
    page = write_site(Manifest(output).notebooks, output, notebooks)
    if not any((output / "executed").glob("*.ipynb")):
        sys.stdout.write("No lesson has run here yet: `diffinv reproduce` adds what their code prints.\n")
    sys.stdout.write(f"{page} shows the lessons and their figures.\n")
    return 0
