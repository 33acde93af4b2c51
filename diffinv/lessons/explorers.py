"""Explorers: a function with sliders where somebody watches, one static picture where nobody does."""

import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from diffinv.foundation.progress import headless


def explore(function: Callable[..., Any], **controls: Any) -> Any:
    """Let the reader play with `function`, each of `controls` in ipywidgets' abbreviations or a widget.

    An abbreviation is (lowest, highest[, step]) for a slider, a list or mapping of options, a bool, a number
    or a text. Returns an `ipywidgets.interactive`, to be shown by being the last expression of a cell.
    Headless, where widgets can block a notebook for ever, `function` runs once with each control's first
    value, and its result is returned. ValueError for a control that `function` does not take.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in controls:
        if name not in parameters and not takes_any:
            raise ValueError(f"no argument {name!r} to control: choose from {', '.join(parameters)}.")
    if headless():
        return function(**{name: _first_value(parameters.get(name), c) for name, c in controls.items()})
    import ipywidgets

    explorer = ipywidgets.interactive(function, **controls)
    for control in explorer.children:
        if hasattr(getattr(control, "style", None), "description_width"):
            control.style.description_width = "initial"  # by default a long name is cut off
    return explorer


def _first_value(parameter: inspect.Parameter | None, control: Any) -> Any:
    """Where ipywidgets would start: at a widget's or a lone value's own, else at the function's default."""
    if hasattr(control, "value"):
        return control.value
    if isinstance(control, str | Real):
        return control
    if parameter is not None and parameter.default is not parameter.empty:
        return parameter.default
    if isinstance(control, Mapping):
        return next(iter(control.values()))
    if isinstance(control, tuple):  # the middle of a slider
        lowest, highest, *step = control
        half = type(highest - lowest)((highest - lowest) / 2)
        return lowest + (int(half / step[0]) * step[0] if step else half)
    first = next(iter(control))
    return first[1] if isinstance(first, tuple) else first  # an option may be a (label, value) pair
