"""The gallery: one static page that shows every figure with its lesson, its data and how it was made."""

import json
from os.path import relpath
from pathlib import Path
from typing import Any

from diffinv.artefacts.pages import render
from diffinv.artefacts.writing import write_atomically

PAGE = "index.html"


def write_gallery(manifest: dict[str, Any], output: Path, notebooks: Path) -> Path:
    """Write `output/index.html` from the manifest's content; links are relative, no network is needed."""
    lessons = [
        _lesson(notebooks / f"{name}.ipynb", record, output) for name, record in manifest["notebooks"].items()
    ]
    page = output / PAGE
    with write_atomically(page, "w") as file:
        file.write(render(Path(__file__).with_suffix(".html"), lessons=lessons))
    return page


def _lesson(notebook: Path, record: dict[str, Any], output: Path) -> dict[str, Any]:
    link = Path(relpath(notebook.resolve(), output.resolve())).as_posix()
    pictures = [file for file in record["files"] if file.endswith(".png")]
    figures = [_figure(image, record["files"]) for image in pictures]
    return {
        "file": notebook,
        "heading": _heading(notebook),
        "link": link,
        "record": record,
        "figures": figures,
    }


def _figure(image: str, files: list[str]) -> dict[str, Any]:
    beside = {kind: image.removesuffix("png") + kind for kind in ("svg", "csv")}
    links = {kind: file for kind, file in beside.items() if file in files}
    return {"image": image, "links": links, "caption": _title(Path(image).stem)}


def _heading(notebook: Path) -> str:
    """The lesson's own first heading, or its file name in words."""
    if notebook.is_file():
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            for line in "".join(cell["source"]).splitlines() if cell["cell_type"] == "markdown" else ():
                if line.startswith("# "):
                    return line.removeprefix("# ").strip()
    return _title(notebook.stem)


def _title(name: str) -> str:
    """A file name in words: "03_accuracy_against_number" gives "Accuracy against number"."""
    words = name[3:] if name[:2].isdigit() and name[2:3] == "_" else name
    return words.replace("_", " ").capitalize()
