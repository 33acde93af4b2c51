"""One progress bar for notebooks, terminals and logs."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def headless() -> bool:
    """Whether nobody is watching: under the notebook runner (DIFFINV_HEADLESS=1) or under pytest."""
    return os.environ.get("DIFFINV_HEADLESS") == "1" or "PYTEST_CURRENT_TEST" in os.environ


def progress(
    iterable: Iterable[Item], total: int | None = None, desc: str = "", *, enabled: bool = True
) -> Iterator[Item]:
    """Iterate with a bar: a widget in a live notebook, text in a terminal; headless, a line every 10 s.

    `tqdm.auto` alone freezes at 0 % in papermill's logs, and a text bar stores one output per refresh;
    what is done within 10 s leaves no line.
    """
    if not enabled:
        yield from iterable
        return
    if headless():
        from tqdm import tqdm

        bar = tqdm(iterable, total=total, desc=desc, file=sys.stdout, mininterval=10, delay=10, ascii=True)
    else:
        from tqdm.auto import tqdm as tqdm_auto

        bar = tqdm_auto(iterable, total=total, desc=desc)
    with bar:
        yield from bar
