"""The command line: `diffinv reproduce | augment | invert | sample | evaluate | findings | doctor`, and more.

A verb is a module with two functions: `add_to` describes its options, `run` imports what it needs and returns
the exit code, so that `diffinv --help` is instant.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import NoReturn

from diffinv import __version__
from diffinv.commands import augment, doctor, evaluate, findings, invert, reproduce, sample
from diffinv.commands.options import in_terms_of
from diffinv.commands.parts import run_shared
from diffinv.foundation.errors import guarded, say

EXIT_CODES = (
    "exit codes: 0 done; 1 a part of the work failed, or the installation is damaged; 2 bad input, said in "
    "one sentence; 130 interrupted, and the same command goes on from there"
)


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments, as the verbs do with their input."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")


def _reword(wording: Callable[[str], str], record: logging.LogRecord) -> bool:
    record.msg, record.args = wording(record.getMessage()), None
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, one of `EXIT_CODES`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Figures go into files here; one of a desktop or of a Colab cell may not even be installed.
    os.environ.pop("MPLBACKEND", None)
    # One that the shell closed is None.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    try:
        os.getcwd()
    except FileNotFoundError:  # the linear algebra of torch would end the process
        return say("the folder that you are in is gone: change to another.", 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without umlauts gets the rest of the report
            stream.reconfigure(errors="backslashreplace")
    if arguments[:1] == ["pretrain"]:  # has a parser of its own
        # By its name: the factory is no part of what the rest of the package is checked against.
        return guarded(lambda: import_module("diffinv.tinysd.pretrain").main(arguments[1:]) or 0)
    options = build_parser().parse_args(arguments)
    # Below the commands, errors and warnings speak of arguments in Python.
    wording = partial(in_terms_of, options)
    said = logging.StreamHandler(sys.stderr)
    said.addFilter(partial(_reword, wording))
    logging.basicConfig(format="%(message)s", handlers=[said])
    logging.getLogger("diffinv").setLevel(logging.INFO)
    return guarded(lambda: run_shared(options), wording)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb; `pretrain` has its own and is only named."""
    parser = _Parser(
        prog="diffinv",
        description="Better image classifiers from the images that a frozen diffusion model makes of yours.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"diffinv {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in (reproduce, augment, invert, sample, evaluate, findings, doctor):
        verb.add_to(verbs)
    for parser_of_verb in verbs.choices.values():
        parser_of_verb.epilog = EXIT_CODES
    verbs.add_parser("pretrain", help="make the embedded model again (see diffinv pretrain --help)")
    return parser
