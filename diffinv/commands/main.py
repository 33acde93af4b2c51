"""The command line: `diffinv reproduce | invert | sample | evaluate | doctor | pretrain`.

Every verb imports what it needs when it runs, so that `diffinv --help` is instant.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from diffinv import __version__

PROFILES = "smoke, tiny, colab or paper"
# Packages of the extras, which a plain installation lacks.
_EXTRA_OF = {"papermill": "notebooks", "resvg_py": "pretrain", "mlxtend": "pretrain"}


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments, as the verbs do with their input."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 something failed, 2 bad input, 130 interrupted.

    What the user can mend ends as one sentence; DIFFINV_DEBUG=1 shows the traceback instead.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["pretrain"]:  # has a parser of its own
        return _guarded(lambda: _pretrain(arguments[1:]))
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("diffinv").setLevel(logging.INFO)
    return _guarded(lambda: options.verb(options))


def _guarded(command: Callable[[], int]) -> int:
    if os.environ.get("DIFFINV_DEBUG") == "1":
        return command()
    try:
        return command()
    except KeyboardInterrupt:
        return _say("Interrupted; what was finished is kept, and the same command goes on from there.", 130)
    except BrokenPipeError:  # the reader, such as `head`, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        return _say(_sentence(error), 2)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA_OF:
            raise
        return _say(f'{error.name} is not installed: pip install "diffinv[{_EXTRA_OF[error.name]}]".', 2)
    except MemoryError:
        return _say("The memory ran out: choose a smaller batch size, resolution or number of images.", 2)
    except RuntimeError as error:
        if not _is_users(error):
            raise
        return _say(_sentence(error), 2)


def _is_users(error: RuntimeError) -> bool:
    """Whether it is one of ours, which are worded for users, or a device out of memory."""
    return type(error).__module__.startswith("diffinv.") or type(error).__name__ == "OutOfMemoryError"


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or str(error)).lower()}."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"diffinv: {sentence}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="diffinv",
        description="Better image classifiers from the images that a frozen diffusion model makes of yours.",
    )
    parser.add_argument("--version", action="version", version=f"diffinv {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_reproduce(verbs)
    _add_invert(verbs)
    _add_sample(verbs)
    _add_evaluate(verbs)
    doctor = verbs.add_parser("doctor", help="say what is installed here, and whether it is complete")
    doctor.set_defaults(verb=_doctor)
    findings = verbs.add_parser("findings", help="say what the notebooks that have run found, claim by claim")
    findings.add_argument("folder", nargs="?", default="figures", help="an output folder of reproduce")
    findings.set_defaults(verb=_findings)
    verbs.add_parser("pretrain", help="make the embedded model again (see diffinv pretrain --help)")
    return parser


def _add_reproduce(verbs) -> None:
    verb = verbs.add_parser("reproduce", help="run the notebooks headless and collect their figures")
    verb.add_argument("--profile", default="tiny", help=f"{PROFILES} (default: %(default)s)")
    verb.add_argument("--only", metavar="01,03", help="the numbers of the notebooks to run (default: all)")
    verb.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="notebooks at a time (default: %(default)s)"
    )
    verb.add_argument(
        "--output", type=Path, default=Path("figures"), metavar="DIR", help="default: %(default)s"
    )
    verb.add_argument(
        "--notebooks", type=Path, default=Path("notebooks"), metavar="DIR", help="default: %(default)s"
    )
    verb.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a notebook parameter",
    )
    verb.add_argument("--force", action="store_true", help="run also what is up to date")
    verb.set_defaults(verb=_reproduce)


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--profile", default="tiny", help=f"where unset options come from: {PROFILES} (default: %(default)s)"
    )
    verb.add_argument(
        "--model", help="tinysd, a folder in diffusers' layout, or a hub id (default: the profile's)"
    )
    verb.add_argument("--device", help="cpu, cuda or mps (default: the profile's)")
    verb.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_invert(verbs) -> None:
    verb = verbs.add_parser("invert", help="stage 1: learn the vectors of a folder of class folders")
    verb.add_argument("folder", metavar="FOLDER", help="class folders, icons10, novel10, emoji6 or mnist5k")
    verb.add_argument(
        "--out", type=Path, required=True, metavar="STORE", help="folder for the learned vectors"
    )
    verb.add_argument("--split", default="train", help="train, validation or test (default: %(default)s)")
    verb.add_argument("--resolution", type=int, help="side at which to learn (default: the profile's)")
    verb.add_argument("--num-tokens", type=int, help="vectors per image")
    verb.add_argument("--steps-per-image", type=int, help="updates per image")
    verb.add_argument("--learning-rate", type=float)
    _add_model(verb)
    verb.set_defaults(verb=_invert)


def _add_sample(verbs) -> None:
    verb = verbs.add_parser("sample", help="stage 2: draw a synthetic set from learned vectors")
    verb.add_argument("store", type=Path, metavar="STORE", help="folder written by diffinv invert")
    verb.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder for the synthetic images"
    )
    verb.add_argument("--images-per-real", type=int, default=5, metavar="N", help="default: %(default)s")
    verb.add_argument("--guidance-scale", type=float, help="1 = unguided")
    verb.add_argument("--noise-std", type=float, help="noise on the vectors, the paper's lambda")
    verb.add_argument("--interpolation-weight", type=float, help="share of a partner's vectors; 0 = none")
    verb.add_argument("--unconditional", help="mean, class_mean or empty_prompt")
    verb.add_argument("--num-inference-steps", type=int)
    verb.add_argument("--scheduler", help="a scheduler class of diffusers, such as DDIMScheduler")
    _add_model(verb)
    verb.set_defaults(verb=_sample)


def _add_evaluate(verbs) -> None:
    verb = verbs.add_parser(
        "evaluate",
        help="compare classifiers trained on your images, on synthetic ones and on both; "
        "or judge a synthetic set",
        description="With REAL alone: make synthetic images of it and compare classifiers trained on the "
        "real images, on the synthetic ones and on both. With SYNTHETIC: the evaluation card of that set.",
    )
    verb.add_argument("folder", metavar="REAL", help="class folders, icons10, novel10, emoji6 or mnist5k")
    verb.add_argument(
        "synthetic", nargs="?", metavar="SYNTHETIC", help="folder of synthetic images of the same classes"
    )
    verb.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="trainings of each kind, at least 3 (default: %(default)s)",
    )
    verb.add_argument("--resolution", type=int, help="side of the images (default: the folder's own)")
    verb.add_argument("--optimiser-steps", type=int, help="steps of each training (default: the profile's)")
    verb.add_argument(
        "--out",
        type=Path,
        metavar="JSON",
        help="default: NAME-evaluation.json, NAME being the last folder's; a card's page lies beside it",
    )
    proof = verb.add_argument_group("with REAL alone")
    proof.add_argument("--images-per-real", type=int, metavar="N", help="default: 5")
    proof.add_argument("--real-per-class", type=int, metavar="N", help="use only so many real images a class")
    card = verb.add_argument_group("with SYNTHETIC")
    card.add_argument("--test", metavar="FOLDER", help="real images to test on (default: REAL's test split)")
    card.add_argument("--clip", metavar="MODEL", help="whose features to compare (default: the profile's)")
    card.add_argument(
        "--against-real", action="store_true", default=None, help="train classifiers on REAL as well"
    )
    card.add_argument("--no-accuracy", action="store_true", default=None, help="train no classifier")
    card.add_argument("--neighbours", type=int, metavar="K", help="of precision, recall, ... (default: 5)")
    _add_model(verb)
    verb.set_defaults(verb=_evaluate)


def _reproduce(options: argparse.Namespace) -> int:
    from diffinv.reproduce.runner import reproduce

    parameters = {}
    for assignment in options.parameter:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise ValueError(f"a parameter is given as NAME=VALUE, not {assignment!r}.")
        parameters[name] = value
    outcomes = reproduce(
        options.profile,
        only=options.only.split(",") if options.only else None,
        jobs=options.jobs,
        output=options.output,
        parameters=parameters,
        notebooks=options.notebooks,
        force=options.force,
    )
    failed = [outcome.notebook.stem for outcome in outcomes if outcome.status == "failed"]
    sys.stdout.write(f"{options.output / 'index.html'} shows the figures.\n")
    if failed:
        return _say(f"{len(failed)} of {len(outcomes)} notebooks failed: {', '.join(failed)}.", 1)
    return 0


def _invert(options: argparse.Namespace) -> int:
    from diffinv.commands.practice import invert_folder

    store = invert_folder(options)
    sys.stdout.write(f"{options.out} holds the vectors of {len(store.ids)} images.\n")
    return 0


def _sample(options: argparse.Namespace) -> int:
    from diffinv.commands.practice import sample_store

    synthetic = sample_store(options)
    sys.stdout.write(f"{options.out} holds {len(synthetic)} images of {synthetic.num_classes} classes.\n")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    if options.synthetic is None:
        _refuse(options, "test", "clip", "against_real", "no_accuracy", "neighbours", where="needs SYNTHETIC")
        from diffinv.commands.practice import evaluate

        sys.stdout.write(evaluate(options))
        return 0
    _refuse(options, "images_per_real", "real_per_class", "model", where="is for REAL alone")
    from diffinv.commands.evaluate import write_evaluation

    sys.stdout.write(write_evaluation(options))
    return 0


def _refuse(options: argparse.Namespace, *names: str, where: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} {where}: leave it out.")


def _doctor(options: argparse.Namespace) -> int:
    from diffinv.commands.doctor import examine

    findings = examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok " if finding.ok else "BAD"
        sys.stdout.write(f"{mark}  {finding.name:<{width}}  {finding.value}\n")
    return 0 if all(finding.ok for finding in findings) else 1


def _findings(options: argparse.Namespace) -> int:
    from diffinv.studies.claims import findings

    sys.stdout.write(findings(options.folder) + "\n")
    return 0


def _pretrain(arguments: list[str]) -> int:
    # By its name: the factory is no part of what the rest of the package is checked against.
    return import_module("diffinv.tinysd.pretrain").main(arguments) or 0
