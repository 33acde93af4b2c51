"""One progress bar for notebooks, terminals and logs."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

_LOG: dict[str, Any] = {"mininterval": 10, "delay": 10, "ascii": True}  # a line every 10 s, none within 10 s
_NO_REST = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}]"


def headless() -> bool:
    """Whether nobody is watching: under the notebook runner (DIFFINV_HEADLESS=1) or under pytest."""
    return os.environ.get("DIFFINV_HEADLESS") == "1" or "PYTEST_CURRENT_TEST" in os.environ


def ipython_shell() -> Any:
    """The shell of IPython that runs this code, a notebook's among them; None where none does."""
    # Whoever runs it has imported it: looking there costs a script nothing.
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def progress(
    iterable: Iterable[Item],
    total: int | None = None,
    desc: str = "",
    *,
    enabled: bool = True,
    alike: bool = True,
) -> Iterator[Item]:
    """Iterate with a bar: a widget in a live notebook, text in a terminal, in a log a line every 10 s.

    `tqdm.auto` alone freezes at 0 % in papermill's logs, and a text bar stores one output per refresh;
    what is done within 10 s leaves no line in a log. The bar says how long the rest will take only where the
    items are `alike`: what some of them took says nothing about the others else.
    """
    if not enabled:
        yield from iterable
        return
    how: dict[str, Any] = {"total": total, "desc": desc}
    if not alike:
        how["bar_format"] = _NO_REST
    if headless() or not (hasattr(ipython_shell(), "kernel") or sys.stderr.isatty()):
        from tqdm import tqdm

        # A notebook shows on red ground what comes by stderr; elsewhere stdout is for the result.
        bar = tqdm(iterable, file=sys.stdout if headless() else sys.stderr, **how, **_LOG)
    else:
        from tqdm.auto import tqdm as tqdm_auto

        bar = tqdm_auto(iterable, **how)
    with bar:
        yield from bar
