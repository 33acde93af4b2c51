"""The gallery: one static page that shows every figure with its lesson, its data and how it was made."""

import json
import re
from os.path import relpath
from pathlib import Path
from typing import Any

from PIL import Image

from diffinv.artefacts.pages import render
from diffinv.artefacts.writing import write_atomically
from diffinv.reproduce.manifest import beside

PAGE = "index.html"
_PICTURE = re.compile(r"(!\[[^\]]*\]\()(?![a-z]+:)([^)\s]+)\)")  # in Markdown, with a relative link


def write_gallery(records: dict[str, Any], output: Path, notebooks: Path) -> Path:
    """Write `output/index.html` from the records of a manifest; links are relative, no network is needed."""
    text = render(
        Path(__file__).with_suffix(".html"),
        records=records,
        heading=lambda name: _heading(notebooks / f"{name}.ipynb"),
        folder=Path(relpath(notebooks.resolve(), output.resolve())).as_posix(),
        words=lambda image: _words(output / image),
        executed=lambda name: (
            f"executed/{name}.ipynb" if (output / f"executed/{name}.ipynb").exists() else None
        ),
        beside=beside,
    )
    page = output / PAGE
    with write_atomically(page, "w") as file:
        file.write(text)
    return page


def link_pictures(executed: Path, notebook: Path, output: Path) -> None:
    """Let the texts of an executed copy show the figures in `output`, where its run has just drawn them.

    A notebook's links lead from its own folder, which the copy does not lie in. A picture that `output` lacks
    is shown from where the notebook has it.
    """

    def from_here(link: re.Match[str]) -> str:
        drawn = output / Path(link[2]).name
        picture = drawn if drawn.exists() else notebook.parent / link[2]
        return link[1] + Path(relpath(picture.resolve(), executed.parent.resolve())).as_posix() + ")"

    content = json.loads(executed.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _PICTURE.sub(from_here, "".join(cell["source"]))
    with write_atomically(executed, "w") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _heading(notebook: Path) -> str:
    """The lesson's own first heading, or its file name in words."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.is_file() else ()
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = re.search("^# (.+)", text, re.MULTILINE)
    return found[1].strip() if found else _in_words(notebook.stem)


def _words(image: Path) -> tuple[str, str]:
    """What a figure says of itself (see `save_figure`): caption and alt text, or its file name in words."""
    try:
        with Image.open(image) as file:
            said = file.info
    except OSError:  # not written by `save_figure`
        said = {}
    caption = said.get("Title") or _in_words(image.stem)
    return caption, said.get("Description") or caption


def _in_words(name: str) -> str:
    """A file name in words: "03_accuracy_against_number" gives "Accuracy against number"."""
    return re.sub(r"^\d\d_", "", name).replace("_", " ").capitalize()
