"""`diffinv findings`: what the notebooks that have run found, claim by claim."""

import argparse
import sys


def add_to(verbs) -> None:
    verb = verbs.add_parser("findings", help="say what the notebooks that have run found, claim by claim")
    verb.add_argument("folder", nargs="?", default="figures", help="an output folder of reproduce")
    verb.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    from diffinv.studies.claims import findings

    sys.stdout.write(findings(options.folder) + "\n")
    return 0
