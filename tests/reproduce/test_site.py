"""The site: of a lesson that has run, of one that has not, and of those of the repository."""

import base64
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sites import ROOT, Page, lessons_site

from diffinv.commands.main import main
from diffinv.figures import save_figure
from diffinv.reproduce.manifest import Manifest
from diffinv.reproduce.rendering import mathematics
from diffinv.reproduce.site import write_site
from diffinv.studies.claims import JUDGED

RECORD = {"profile": "tiny", "wall_seconds": 3.2, "device": "cpu", "commit": None, "files": []}
TEXT = r"""[![Open in Colab](https://example.org/badge.svg)](https://example.org/colab)

# Curves & <b>lines</b>

**Does it rise?**

![A rising curve](../figures/curve.png) and $x_1^2$, see [the other](01_next.ipynb#setup).

## Set-up, again

$$\hat\epsilon = \arg\min_c \bigl\|c\bigr\|$$

| | a |
| --- | --- |
| b | 1 |

<details><summary>Solution</summary>

**Folded.**

</details>
"""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def png(data: str):
    return new_output("display_data", {"image/png": data, "text/plain": "<Figure>"})


def text(*parts: str):
    return [new_output("stream", name="stdout", text=part) for part in parts]


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """An output folder into which the first of two lessons has run."""
    place = tmp_path_factory.mktemp("place")
    (place / "notebooks").mkdir()
    save_figure(
        plt.figure(), "curve", pd.DataFrame({"x": [1]}), place / "out", caption="More & more", alt="It rises"
    )
    save_figure(plt.figure(), "shipped", None, place / "figures", caption="From the clone")
    injected = {"tags": ["injected-parameters"]}
    table = pd.DataFrame({"a": [1]}, index=["b"]).to_html()
    cells = [
        new_markdown_cell(TEXT),
        new_code_cell("output_dir = '/of/this/machine'", metadata=injected),
        new_code_cell("import os\n%time", outputs=text("one ", "line\n")),
        new_code_cell("x < 1", outputs=[new_output("execute_result", {"text/html": table})]),
        new_code_cell(
            'plt.show()\nsave_figure(fig, "curve", rows)', outputs=[png(PIXEL), *text("said"), png(PIXEL)]
        ),
        new_code_cell(
            "1 / 0", outputs=[new_output("error", traceback=["\x1b[31mZeroDivisionError\x1b[0m: <by zero>"])]
        ),
    ]
    (place / "out" / "executed").mkdir()
    nbformat.write(new_notebook(cells=cells), place / "out" / "executed" / "00_curves.ipynb")
    for cell in cells:
        cell.pop("outputs", None)
    source = [new_markdown_cell(TEXT)]
    nbformat.write(new_notebook(cells=source), place / "notebooks" / "00_curves.ipynb")
    later = [new_markdown_cell("# Next\n\n## Setup"), new_code_cell('save_figure(fig, "shipped")')]
    nbformat.write(new_notebook(cells=later), place / "notebooks" / "01_next.ipynb")
    return place / "out"


@pytest.fixture(scope="module")
def site(output) -> Path:
    records = {"00_curves": {**RECORD, "files": ["curve.png", "curve.csv", "rest.csv"]}}
    (output / "rest.csv").write_text("x\n1\n")
    return write_site(records, output, output.parent / "notebooks").parent


def of(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text()


def test_a_lesson_that_has_run_shows_what_it_printed_and_drew(site):
    page = of(site, "00_curves")
    assert '<pre tabindex="0" class="output">one line\n</pre>' in page, "what is printed in parts is one text"
    assert "ZeroDivisionError: &lt;by zero&gt;" in page and "\x1b" not in page
    assert "/of/this/machine" not in page
    assert "<td></td>" in page and "border=" not in page
    assert "<strong>Folded.</strong>" in page
    assert page.index("<h1") < page.index("one line") < page.index("ZeroDivisionError")


def test_its_figures_have_their_words_and_lead_to_their_data(site):
    page, links = of(site, "00_curves"), Page(site / "00_curves.html").links
    assert "More &amp; more" in page and 'alt="It rises"' in page
    assert {"figures/curve.svg", "figures/curve.csv", "figures/rest.csv", "index.html#fig-curve"} <= {*links}
    assert page.count("data:image/png") == 1, "the picture that is not saved comes first, and stays as it is"
    assert "of: Set-up, again" in page
    assert "00_curves.html#fig-curve" in Page(site / "index.html").links


def test_mathematics_is_drawn_without_a_network(site):
    page = of(site, "00_curves")
    assert page.count("<math") == 2 and "arg" in page and "\\" not in page.split("</style>")[1]
    assert mathematics(r"\nonsense{x}") == r"<code>\nonsense{x}</code>"


def test_a_badge_of_another_server_becomes_words(site):
    page = Page(site / "00_curves.html")
    assert "https://example.org/colab" in page.links and "Open in Colab" in of(site, "00_curves")
    assert not [link for link in page.loaded if link.startswith("http")]


def test_a_lesson_that_has_not_run_says_so_and_shows_what_ships(site):
    page = of(site, "01_next")
    assert "has not been run here" in page and "--only 01" in page
    assert "From the clone" in page
    assert "has not been run here" not in of(site, "00_curves")


def test_the_downloaded_notebook_finds_its_pictures(site):
    copy = site / "notebooks" / "00_curves.ipynb"
    notebook = nbformat.read(copy, as_version=4)
    nbformat.validate(notebook)
    (picture,) = re.findall(r"\((\.\..*?)\)", notebook.cells[0].source)
    assert (copy.parent / picture).resolve() == (site / "figures" / "curve.png").resolve()


def test_the_claims_stand_on_a_page(output, site):
    assert "No lesson has judged a claim yet" in of(site, "claims")
    row = dict.fromkeys(JUDGED, 0) | {"claim": "(a) x < y", "dataset": "icons10", "verdict": "supported"}
    pd.DataFrame([row | {"difference": 0.1, "low": 0.05, "high": 0.15}]).to_csv(
        output / "classifier_claims.csv", index=False
    )
    page = of(write_site({}, output, output.parent / "notebooks").parent, "claims")
    assert "(a) x &lt; y" in page and "+10.0 [5.0, 15.0]" in page and "supported" in page


def test_the_command_makes_the_site_alone_and_says_what_to_run_first(output, tmp_path, capsys):
    notebooks = str(output.parent / "notebooks")
    command = ["reproduce", "--site", "--notebooks", notebooks, "--output"]
    assert main([*command, str(tmp_path / "empty")]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert "No lesson has run here yet" in first and "diffinv reproduce" in first
    assert last == f"{tmp_path / 'empty' / 'site' / 'index.html'} shows the lessons and their figures."
    assert main([*command, str(output)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["reproduce", "--site", "--notebooks", str(tmp_path), "--output", str(tmp_path)]) == 2


def test_a_copy_that_was_cut_short_counts_as_not_run(output, tmp_path):
    (tmp_path / "executed").mkdir()
    (tmp_path / "executed" / "01_next.ipynb").write_text('{"cells": [')
    page = write_site({}, tmp_path, output.parent / "notebooks")
    assert "has not been run here" in of(page.parent, "01_next")


def test_odd_names_and_a_notebook_that_is_gone_do_no_harm(tmp_path):
    name, image = "07_<script>&\"'", '07_a"_<b>.png'
    (tmp_path / image).write_bytes(base64.b64decode(PIXEL))
    page = write_site({name: {**RECORD, "files": [image]}}, tmp_path, tmp_path / "notebooks")
    assert "not there any more" in (page.parent / f"{name}.html").read_text()
    assert not re.search("<script|<b>|commit [^,]", page.read_text())
    assert ", some results from the cache" in page.read_text()  # nothing says that it was a cold run
    cold = {"wall_seconds": 3.2}
    write_site({name: {**RECORD, "cold": cold}}, tmp_path, tmp_path / "notebooks")
    assert "from the cache" not in page.read_text()
    write_site({}, tmp_path, tmp_path / "notebooks")
    assert "There is no lesson yet" in page.read_text()
    assert not (page.parent / f"{name}.html").exists(), "a page of yesterday is gone"


@pytest.fixture(scope="module")
def lessons(tmp_path_factory) -> Path:
    """The site of the repository, moved to where nothing of the repository lies beside it."""
    made = lessons_site(tmp_path_factory.mktemp("out"))
    return Path(shutil.move(made, tmp_path_factory.mktemp("elsewhere")))


def test_every_link_of_the_lessons_site_leads_somewhere_inside_it(lessons):
    pages = {path.name: Page(path) for path in lessons.glob("*.html")}
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {"index.html", "claims.html", "teaching.html", *(f"{name}.html" for name in names)} == pages.keys()
    for name, page in pages.items():
        assert len({*page.names}) == len(page.names), f"{name}: two places have one name"
        for link in [*page.links, *(each for each in page.loaded if not each.startswith("data:"))]:
            if link.startswith("https://"):
                assert link in page.links, f"{name} loads {link}"
                continue
            file, _, part = link.partition("#")
            assert ".." not in file and (lessons / (file or name)).is_file(), f"{name} leads to {link}"
            assert not part or part in pages[file or name].names, f"{name} leads to {link}"


def test_every_formula_and_every_picture_of_the_lessons_can_be_read(lessons):
    for path in lessons.glob("*.html"):
        body = path.read_text().split("</style>")[1]
        assert not re.search(r"\$\$|<code>[^<]*\\[a-z]+[{_^]", body), f"{path.name}: LaTeX that was not drawn"
        assert all(Page(path).alts), f"{path.name}: a picture without words"


def test_every_figure_that_ships_is_in_its_lesson_and_in_the_gallery(lessons):
    gallery = Page(lessons / "index.html").links
    for lesson, record in Manifest(ROOT / "figures").notebooks.items():
        figures = [f"fig-{Path(file).stem}" for file in record["files"] if file.endswith(".png")]
        assert {*figures} <= {*Page(lessons / f"{lesson}.html").names}, lesson
        assert {f"{lesson}.html#{name}" for name in figures} <= {*gallery}
