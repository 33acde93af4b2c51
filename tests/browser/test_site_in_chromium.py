"""The lessons' site as a browser shows it: from files, on a telephone, in the dark, read aloud."""

import shutil
import subprocess
from pathlib import Path

import pytest
from sites import ROOT, lessons_site

PAGES = ["index", "claims", "teaching", *sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))]
AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return lessons_site(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip(f"npm is not installed, which brings {AXE}")
    packed = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True)
    if packed.returncode:
        pytest.skip(f"npm could not bring {AXE}: {packed.stderr.strip()[-200:]}")
    shutil.unpack_archive(folder / packed.stdout.strip(), folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def opened(chromium, site):
    """A function that opens a page of the site, and the list of what went wrong since."""
    context, wrong = chromium.new_context(viewport={"width": 1200, "height": 900}), []

    def sort_out(route) -> None:
        if not route.request.url.startswith("file:"):
            wrong.append(f"a request leaves the page: {route.request.url}")
        route.continue_()

    context.route("**/*", sort_out)
    page = context.new_page()
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def missed(request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before it came
            wrong.append(f"missing: {request.url}")

    page.on("requestfailed", missed)

    def open_(name: str):
        page.goto((site / f"{name}.html").as_uri(), wait_until="load")
        return page

    yield open_, wrong
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_whole_and_fits_a_telephone(opened, name):
    open_, wrong = opened
    page = open_(name)
    # A picture is fetched when it comes near; here at once, so that one that is missing is missed.
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert not page.evaluate(
        "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
    )
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not wrong


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_everybody(opened, axe, name):
    """Contrast in light and dark, the order of headings, the words of pictures, whatever axe tests."""
    open_, wrong = opened
    page = open_(name)
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        only = "" if scheme == "light" else ", runOnly: ['color-contrast']"
        found = page.evaluate(f"axe.run({{resultTypes: ['violations']{only}}})")["violations"]
        said = [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]
        assert not said, f"{name}, {scheme}: {said}"
    assert not wrong


def test_folded_code_opens_and_a_figure_leads_to_its_lesson(opened):
    open_, wrong = opened
    page = open_("index")
    page.locator("#fig-quickstart a").click()
    assert page.url.endswith("00_quickstart.html#fig-quickstart")
    assert page.locator("#fig-quickstart").is_visible()
    code = page.locator("details pre").first
    assert not code.is_visible()
    page.locator("summary").first.click()
    assert code.is_visible()
    assert page.locator("math").first.bounding_box()["height"] > 10, "mathematics is drawn"
    page.locator("a[rel=next]").first.click()
    assert page.url.endswith("01_inversion.html")
    assert not wrong
