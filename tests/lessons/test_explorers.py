"""An explorer shows, without anybody watching, the very picture with which the widget would start."""

import io
import subprocess
import sys
from dataclasses import replace

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from diffinv.lessons import explorers, scenes
from diffinv.lessons.explorers import explore
from diffinv.lessons.opening import opening
from diffinv.lessons.scenes import Scene
from diffinv.method.cached import invert


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


@pytest.fixture
def watched(monkeypatch):
    for module in (explorers, scenes):
        monkeypatch.setattr(module, "headless", lambda: False)


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


def every_widget(box):
    for widget in getattr(box, "children", ()):
        yield widget
        yield from every_widget(widget)


def test_a_watched_explorer_starts_with_the_same_values_and_has_nothing_that_blocks(watched):
    explorer = explore(values, **controls())
    words = next(widget for widget in explorer.children if isinstance(widget, ipywidgets.HTML))
    assert words.value.startswith("[5, 0.5")
    assert not any(isinstance(widget, ipywidgets.Output) for widget in every_widget(explorer))


def test_a_drag_is_one_question_and_a_long_name_is_shown_whole(watched):
    explorer = explore(values, **controls())
    named = [control for control in explorer.children if getattr(control, "description", "")]
    assert len(named) == 10 and all(control.style.description_width == "initial" for control in named)
    assert not any(getattr(control, "continuous_update", False) for control in explorer.children)


def test_an_answer_may_come_in_parts_and_an_error_is_said(watched, monkeypatch):
    shown = []
    monkeypatch.setattr(explorers, "_show", lambda result, *_: shown.append(result))

    def parts(scale):
        yield "coarse"
        if scale > 6:
            raise ValueError("no scale < 6")
        yield "fine"

    explorer = explore(parts, scale=(1, 9))
    assert shown == ["coarse", "fine"]
    explorer.children[0].value = 8
    assert shown[2:] == ["coarse"] and explorer.children[-2].value == "no scale &lt; 6"


def test_a_control_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no argument 'scael' to control: choose from scale"):
        explore(lambda scale: scale, scael=(1, 9))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    lesson = opening("smoke", dataset="icons10")
    real = lesson.pool("icons10", seed=0).per_class(2, seed=0).resize(32)
    quick = replace(lesson.settings.inversion, steps_per_image=2)
    store = invert(lesson.diffusion, real, quick, cache_dir=tmp_path_factory.mktemp("cache"))
    return Scene(lesson.diffusion, real, store, replace(lesson.settings.sampling, resolution=32), quick)


def test_each_view_is_a_picture_with_and_without_somebody_who_watches(scene, watched, monkeypatch):
    views = [
        (scene.samples, {"image": scene.images, "guidance_scale": (1.0, 3.0), "steps": (2, 20)}),
        (scene.walk, {"first": scene.images, "weight": (0.0, 1.0)}),
        (scene.denoising, {"image": scene.images, "step": (1, 8)}),
        (scene.learning, {"image": scene.images, "updates": [3, 6]}),
    ]
    pictures = [explore(view, **options).children[-1].value for view, options in views]
    monkeypatch.setattr(explorers, "headless", lambda: True)
    monkeypatch.setattr(scenes, "headless", lambda: True)
    for (view, options), live in zip(views, pictures, strict=True):
        quiet = explore(view, **options)
        assert isinstance(quiet, Image.Image)
        np.testing.assert_array_equal(np.asarray(quiet), np.asarray(Image.open(io.BytesIO(live))))


def test_a_slider_changes_the_picture(scene, watched):
    explorer = explore(scene.samples, image=scene.images, guidance_scale=(1.0, 3.0), seed=(0, 9))
    picture, seen = explorer.children[-1], set()
    for control, value in ((0, 0), (0, 3), (1, 3.0), (2, 5)):
        explorer.children[control].value = value
        seen.add(picture.value)
    assert len(seen) == 4


def test_a_coarse_picture_comes_before_one_of_many_steps(scene, watched):
    assert [isinstance(each, Figure) for each in scene.samples(steps=20)] == [True, True]
    assert len(list(scene.samples(steps=5))) == 1


def test_a_walk_begins_and_ends_with_the_vectors_of_its_images(scene):
    far = [scene.walk(0, 3, weight).axes[0].images[0].get_array() for weight in (0.0, 1.0)]
    width = far[0].shape[1] // 5
    start, end = (mosaic[:, width + 3 : 2 * width] for mosaic in far)
    assert np.array_equal(start, end), "the vectors of A draw the same image, wherever the walk is"
    assert not np.array_equal(far[0], far[1])


def test_a_click_on_the_map_shows_that_image_and_every_button_has_a_place(scene, watched):
    map_ = scene.map()
    grid, picture = map_.children[0], map_.children[-1]
    areas = [button.layout.grid_area for button in grid.children]
    assert len(set(areas)) == len(scene.real) == len(grid.children)
    before = picture.value
    grid.children[3].click()
    first = picture.value
    grid.children[4].click()
    assert len({before, first, picture.value}) == 3
    assert [button.tooltip for button in grid.children] == [scene.name(i) for i in range(len(scene.real))]


def test_the_map_holds_what_the_vectors_differ_in_most(scene):
    places, share = scene.places
    flat = scene.store.embeddings.flatten(1).double().numpy()
    assert places.shape == (len(scene.real), 2) and 0 < share <= 1
    centred = flat - flat.mean(axis=0)
    np.testing.assert_allclose(np.square(places).sum() / np.square(centred).sum(), share)
    direction = centred.T @ places[:, 0]
    random = np.random.default_rng(0).normal(size=(flat.shape[1], 20))
    spread = [np.square(centred @ way / np.linalg.norm(way)).sum() for way in (direction, *random.T)]
    assert spread[0] == max(spread)
