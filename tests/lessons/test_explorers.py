"""An explorer shows, without anybody watching, the very picture with which the widget would start."""

import subprocess
import sys

import ipywidgets
import pytest

from diffinv.lessons import explorers as widgets
from diffinv.lessons.explorers import explore


def controls():
    return {
        "whole": (0, 10),
        "real": (0.0, 1.0),
        "stepped": (0, 10, 3),
        "option": ["mean", "empty"],
        "pair": [("first", 7), ("second", 8)],
        "named": {"low": 0.5, "high": 2.0},
        "flag": True,
        "number": 3,
        "text": "heart",
        "widget": ipywidgets.IntSlider(value=4, max=9),
        "fixed": ipywidgets.fixed(object),
        "defaulted": (0, 10),
    }


def values(whole, real, stepped, option, pair, named, flag, number, text, widget, fixed, defaulted=8):
    return [whole, real, stepped, option, pair, named, flag, number, text, widget, fixed, defaulted]


def test_headless_values_are_those_that_ipywidgets_starts_with():
    assert explore(values, **controls()) == values(**ipywidgets.interactive(values, **controls()).kwargs)


def test_headless_calls_once_and_makes_no_widget():
    calls = []
    explore(lambda scale: calls.append(scale), scale=(1, 9))
    assert calls == [5]
    # In a fresh process: not even importing ipywidgets, which may not be able to talk to anybody.
    code = (
        "import sys; from diffinv.lessons.explorers import explore; "
        "explore(print, end=''); print('ipywidgets' in sys.modules)"
    )
    environment = {"DIFFINV_HEADLESS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_watched_explorer_is_an_interactive_widget(monkeypatch):
    monkeypatch.setattr(widgets, "headless", lambda: False)
    explorer = explore(lambda scale: scale, scale=(1, 9))
    assert isinstance(explorer, ipywidgets.interactive)
    assert explorer.kwargs == {"scale": 5}


def test_a_long_name_of_a_control_is_shown_whole(monkeypatch):
    monkeypatch.setattr(widgets, "headless", lambda: False)
    explorer = explore(values, **controls())
    named = [control for control in explorer.children if hasattr(control, "description")]
    assert len(named) == 11 and all(control.style.description_width == "initial" for control in named)


def test_a_control_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no argument 'scael' to control: choose from scale"):
        explore(lambda scale: scale, scael=(1, 9))
