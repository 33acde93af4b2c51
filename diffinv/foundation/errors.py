"""Errors at the edge of a program: what the user can mend ends as one sentence and an exit code."""

import os
import sys
from collections.abc import Callable, Sequence

# Packages of the extras, which a plain installation lacks.
MOST_NAMED = 50  # culprits in one sentence
_EXTRA_OF = {"papermill": "notebooks", "resvg_py": "pretrain", "mlxtend": "pretrain"}


def guarded(command: Callable[[], int], wording: Callable[[str], str] = str) -> int:
    """Run a command and return its exit code: 0 done, 1 something failed, 2 bad input, 130 interrupted.

    `wording` puts a sentence into the terms of the command. A defect stays a traceback; DIFFINV_DEBUG=1 shows
    one for the user's errors too.
    """
    if os.environ.get("DIFFINV_DEBUG") == "1":
        return command()
    try:
        code = command()
        sys.stdout.flush()  # here, where a reader who is gone can be told from a defect
        return code
    except KeyboardInterrupt:
        return say("Interrupted; what was finished is kept, and the same command goes on from there.", 130)
    except BrokenPipeError:
        if not _reader_is_gone():
            return say("A process that was to do a part of the work has ended: run the command again.", 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        return say(wording(_sentence(error)), 2)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA_OF:
            raise
        return say(f'{error.name} is not installed: pip install "diffinv[{_EXTRA_OF[error.name]}]".', 2)
    except MemoryError:
        return say("The memory ran out: choose a smaller batch size, resolution or number of images.", 2)
    except RuntimeError as error:
        # Ours are worded for users, and a device that is out of memory is theirs to help.
        if not (type(error).__module__.startswith("diffinv.") or type(error).__name__ == "OutOfMemoryError"):
            raise
        return say(wording(_sentence(error)), 2)


def _reader_is_gone() -> bool:
    """Whether it is the standard output that is broken: its reader, such as `head`, had enough."""
    try:
        sys.stdout.write("\n")  # what could not be written before is no longer waiting
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def listed(names: Sequence[str], most: int = MOST_NAMED, what: str = "") -> str:
    """Names in one line, "and 7 more", or 7 more of `what`, in place of those beyond `most`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more {what}".rstrip() if more > 0 else "")


def say(sentence: str, code: int) -> int:
    """Write a sentence to stderr and return the exit code."""
    sys.stderr.write(f"diffinv: {sentence}\n")
    return code


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and (error.filename is not None or error.strerror):
        what = "the output" if error.filename is None else error.filename
        return f"{what}: {(error.strerror or str(error)).lower()}."
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
