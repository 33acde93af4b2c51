"""`diffinv findings`: what the notebooks that have run found, claim by claim."""

import argparse
import sys


def add_to(verbs) -> None:
    verb = verbs.add_parser("findings", help="say what the notebooks that have run found, claim by claim")
    verb.add_argument("folder", nargs="?", default="figures", help="an output folder of reproduce")
    verb.add_argument("--compact", action="store_true", help="one line for each letter of the paper's claims")
    verb.set_defaults(verb=run)


def run(options: argparse.Namespace) -> int:
    from diffinv.studies.claims import findings
    from diffinv.studies.ledger import compact_table, ledger

    said = compact_table(ledger(options.folder)) if options.compact else findings(options.folder)
    sys.stdout.write(said + "\n")
    return 0
