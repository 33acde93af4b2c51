"""Lessons in a real JupyterLab and a real browser: they run, their explorers answer, nothing is red.

Screenshots stay in build/browser.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "browser"
LESSONS = ("00_quickstart", "01_inversion", "02_sampling_diversity", "03_classifier_training")
EXPLORERS = {"01_inversion": 1, "02_sampling_diversity": 4}
#: All cells are in the page, wherever the reader is; nothing is fetched from elsewhere.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
NOTEBOOK = "window.jupyterapp.shell.currentWidget"
READY = """() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"""
RUN = """() => { window.ended = false;
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ended = true; }) }"""
RED = f"""() => {NOTEBOOK}.content.model.toJSON().cells.flatMap(cell => cell.outputs ?? [])
    .filter(each => each.output_type === 'error' || each.name === 'stderr')
    .map(each => each.evalue ?? each.text)"""
CHANGED = "([image, before]) => image.src !== before && image.complete && image.naturalWidth > 0"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """The address of a JupyterLab that serves the lessons in the smoke profile."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install -e '.[notebooks,dev]'")
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    for lesson in LESSONS:
        text = (ROOT / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8")
        smoke = text.replace('profile: str = \\"tiny\\"', 'profile: str = \\"smoke\\"')
        assert smoke != text
        (home / "notebooks" / f"{lesson}.ipynb").write_text(smoke, encoding="utf-8")
        for picture in set(re.findall(r"\.\./(figures/[\w.]+)", text)):
            (home / "figures").mkdir(exist_ok=True)
            shutil.copy(ROOT / picture, home / picture)
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config", "DIFFINV_CACHE": "cache", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    unwatched = {"PYTEST_CURRENT_TEST", "DIFFINV_HEADLESS", "DIFFINV_PROFILE", "MPLBACKEND"}
    watched = {name: value for name, value in os.environ.items() if name not in unwatched}
    watched |= {name: str(home / folder) for name, folder in folders.items()} | {"OMP_NUM_THREADS": "1"}
    watched["PYTHONPATH"] = str(ROOT)
    options = {
        "ServerApp.port": port, "ServerApp.root_dir": home, "ServerApp.open_browser": False,
        "IdentityProvider.token": "", "ServerApp.allow_root": True, "ServerApp.log_level": "ERROR",
        "LabApp.expose_app_in_browser": True, "LabApp.extension_manager": "readonly",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    with (home / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=watched, stdout=log, stderr=log, cwd=home)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (home / "log.txt").read_text()
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(chromium, lab):
    """A page, and what its console calls an error."""
    page = chromium.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(600_000)
    # A badge is all that a lesson asks of another server.
    empty = {"body": "<svg xmlns='http://www.w3.org/2000/svg'/>", "content_type": "image/svg+xml"}
    page.route(re.compile(r"https?://(?!127\.0\.0\.1)"), lambda route: route.fulfill(**empty))
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda said: page.problems.append(said.text) if said.type == "error" else None)
    yield page
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")  # and their memory
    page.close()


def run_all(page, lab, lesson):
    """Open a lesson in a workspace of its own, run it whole, and see no red box."""
    page.goto(f"{lab}/lab/workspaces/{lesson}/tree/notebooks/{lesson}.ipynb")
    page.wait_for_function(READY)
    page.evaluate(RUN)
    page.wait_for_function("() => window.ended", polling=500)
    SHOTS.mkdir(parents=True, exist_ok=True)
    assert page.evaluate(RED) == []


def answers(page, explorer, move) -> None:
    """The picture of an explorer changes after a move."""
    picture = explorer.locator("img.widget-image")
    before = picture.get_attribute("src")
    move()
    page.wait_for_function(CHANGED, arg=[picture.element_handle(), before])


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_and_its_explorers_answer(lesson, lab, page):
    run_all(page, lab, lesson)
    explorers = page.locator(".jp-OutputArea-output .widget-vbox:has(img.widget-image)")
    assert explorers.count() == EXPLORERS.get(lesson, 0)
    for number in range(explorers.count()):
        explorer = explorers.nth(number)
        explorer.scroll_into_view_if_needed()
        if explorer.locator(".widget-slider").count():
            slider = explorer.locator(".noUi-handle").last
            answers(page, explorer, lambda slider=slider: slider.press("ArrowRight"))
        else:  # the map
            for button in (0, 5):
                answers(page, explorer, explorer.locator("button").nth(button).click)
        explorer.screenshot(path=SHOTS / f"{lesson}_explorer{number}.png")
    page.screenshot(path=SHOTS / f"{lesson}.png")
    assert page.evaluate(RED) == [] and page.problems == []
