"""Explorers: a picture with sliders where somebody watches, one static picture where nobody does."""

import inspect
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from numbers import Real
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from diffinv.foundation.progress import headless

MAP_ROWS, MAP_COLUMNS = 14, 28  # places for buttons on a map


def explore(function: Callable[..., Any], **controls: Any) -> Any:
    """Let the reader play with `function`, each of `controls` in ipywidgets' abbreviations or a widget.

    `function` returns a figure, a picture or a text; as a generator it yields one after the other, a coarse
    one first or one per update. An abbreviation is (lowest, highest[, step]) for a slider, a list or mapping
    of options, a bool, a number or a text. Returns a widget, to be shown by being the last expression of a
    cell; it holds no `Output`, which can block a notebook for ever. Headless, `function` runs once with each
    control's first value, and its last picture is returned. ValueError for a control that `function` does
    not take.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in controls:
        if name not in parameters and not takes_any:
            raise ValueError(f"no argument {name!r} to control: choose from {', '.join(parameters)}.")
    if headless():
        values = {name: _first_value(parameters.get(name), c) for name, c in controls.items()}
        return [_shown(each) for each in _each(function(**values))][-1]
    import ipywidgets

    widgets = {name: _control(name, parameters.get(name), control) for name, control in controls.items()}
    picture, words = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def answer(_: Any = None) -> None:
        try:
            for each in _each(function(**{name: widget.value for name, widget in widgets.items()})):
                _show(each, picture, words)
        except ValueError as error:  # a widget's answer has no cell below which it could be read
            words.value = escape(str(error))

    for widget in widgets.values():
        widget.observe(answer, "value")
    answer()
    boxes = [widget for widget in widgets.values() if not isinstance(widget, ipywidgets.fixed)]
    return ipywidgets.VBox([*boxes, words, picture])


def explore_map(
    overview: Figure,
    places: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    detail: Callable[[int], Figure],
) -> Any:
    """A map on which a click on an image shows its `detail`; headless, the `overview` alone.

    `places` are [image, 2]. Each image is a button, which has its name and colour.
    """
    if headless():
        return _shown(overview)
    import ipywidgets

    picture, words = ipywidgets.Image(format="png"), ipywidgets.HTML()
    _show(overview, picture, words)
    buttons = []
    for index, (row, column) in enumerate(_cells(places)):
        layout = ipywidgets.Layout(grid_area=f"{row + 1} / {column + 1}", width="auto", height="auto")
        layout.padding, layout.margin, layout.min_width = "0", "0", "0"
        button = ipywidgets.Button(description=names[index][:2], tooltip=names[index], layout=layout)
        button.style.button_color = colours[index]
        button.on_click(lambda _, index=index: _show(detail(index), picture, words))
        buttons.append(button)
    grid = ipywidgets.Layout(
        grid_template_columns=f"repeat({MAP_COLUMNS}, 28px)", grid_template_rows=f"repeat({MAP_ROWS}, 28px)"
    )
    return ipywidgets.VBox([ipywidgets.GridBox(buttons, layout=grid), words, picture])


def _cells(places: np.ndarray) -> list[tuple[int, int]]:
    """The row and the column of each image, none twice: who comes later takes the nearest free place."""
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.array([MAP_COLUMNS - 1, MAP_ROWS - 1])
    wanted = (places - low) / np.where(high > low, high - low, 1) * size
    wanted[:, 1] = size[1] - wanted[:, 1]  # upwards
    free = np.array([(column, row) for row in range(MAP_ROWS) for column in range(MAP_COLUMNS)], dtype=float)
    found = []
    for place in wanted[: len(free)]:
        nearest = int(np.square(free - place).sum(axis=1).argmin())
        found.append((int(free[nearest, 1]), int(free[nearest, 0])))
        free[nearest] = np.inf
    return found


def _control(name: str, parameter: inspect.Parameter | None, control: Any) -> Any:
    import ipywidgets

    empty = inspect.Parameter.empty
    default = empty if parameter is None else parameter.default
    widget = control
    if not isinstance(control, ipywidgets.Widget | ipywidgets.fixed):
        widget = ipywidgets.interactive.widget_from_abbrev(control, default)
        if isinstance(widget, ipywidgets.DOMWidget):
            widget.description = name.replace("_", " ")
    if hasattr(widget, "continuous_update"):
        widget.continuous_update = False  # else one drag asks for every value on its way
    if hasattr(getattr(widget, "style", None), "description_width"):
        widget.style.description_width = "initial"  # by default a long name is cut off
    return widget


def _first_value(parameter: inspect.Parameter | None, control: Any) -> Any:
    """Where ipywidgets would start: at a widget's or a lone value's own, else at the function's default."""
    if hasattr(control, "value"):
        return control.value
    if isinstance(control, str | Real):
        return control
    default = [] if parameter is None or parameter.default is parameter.empty else [parameter.default]
    if isinstance(control, tuple):  # a slider, else from its middle
        lowest, highest, *step = control
        half = type(highest - lowest)((highest - lowest) / 2)
        return (*default, lowest + (int(half / step[0]) * step[0] if step else half))[0]
    # An option may be a (label, value) pair, and a default none of them.
    options = control.values() if isinstance(control, Mapping) else control
    offered = [option[1] if isinstance(option, tuple) else option for option in options]
    return (*[value for value in default if value in offered], *offered)[0]


def _each(result: Any) -> Iterator[Any]:
    if inspect.isgenerator(result):
        yield from result
    else:
        yield result


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _shown(result: Any) -> Any:
    """A figure as a picture, which a cell shows once; anything else as it is."""
    return Image.open(io.BytesIO(_png(result))) if isinstance(result, Figure) else result


def _show(result: Any, picture: Any, words: Any) -> None:
    if isinstance(result, Figure):
        picture.value, words.value = _png(result), ""
    else:
        words.value = escape(str(result))
