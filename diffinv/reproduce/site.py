"""The site: static pages of the lessons, their figures and data, and the claims, which load nothing from elsewhere."""

import ast
import html
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from os.path import relpath
from pathlib import Path
from typing import Any

from PIL import Image

from diffinv.artefacts.pages import render
from diffinv.artefacts.writing import ArtefactError, write_atomically
from diffinv.reproduce.manifest import beside
from diffinv.studies.claims import EVERY, effect_in_words
from diffinv.studies.ledger import ledger

_PICTURE = re.compile(r"(!\[[^\]]*\]\()(?![a-z]+:)([^)\s]+)\)")  # in Markdown, with a relative link
_ELSEWHERE = re.compile(r"[a-z]+:|#")


@dataclass(frozen=True)
class Picture:
    """A figure of a lesson: its words, its size in pixels, and its files by kind, as paths inside the site."""

    name: str
    caption: str
    alt: str
    size: tuple[int, int]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Lesson:
    """A numbered notebook: as it ran into the output folder, or else its source, which has no output."""

    notebook: Path
    executed: Path
    record: Mapping[str, Any]  # of its last success, from the manifest; {} without one

    @property
    def name(self) -> str:
        return self.notebook.stem

    @property
    def has_run(self) -> bool:
        return self.executed.exists()

    @property
    def file(self) -> Path:
        return self.executed if self.has_run else self.notebook

    @cached_property
    def cells(self) -> list[Any]:
        from nbformat import read

        return read(self.file, as_version=4).cells if self.file.exists() else []  # a notebook may be gone

    @cached_property
    def texts(self) -> list[str]:
        return [cell.source for cell in self.cells if cell.cell_type == "markdown"]

    @property
    def title(self) -> str:
        """The lesson's own first heading, or its file name in words."""
        found = re.search("^# (.+)", "\n".join(self.texts), re.MULTILINE)
        return found[1].strip() if found else _in_words(self.name)

    @property
    def question(self) -> str:
        """What stands in bold below the heading, "" where nothing does."""
        found = re.search(r"^# .+\s+\*\*(.+)\*\*$", "\n".join(self.texts), re.MULTILINE)
        return found[1] if found else ""


@dataclass
class _Site:
    """A site that is being made in `folder`: whatever its pages link to is copied there when they do."""

    folder: Path
    places: Sequence[Path]  # where figures are looked for, the first place first
    pages: Mapping[str, str]  # of a file's name: the page that shows it
    pictures: dict[str, Picture | None] = field(default_factory=dict)

    def copied(self, file: Path, folder: str) -> str:
        (self.folder / folder).mkdir(exist_ok=True)
        shutil.copyfile(file, self.folder / folder / file.name)
        return f"{folder}/{file.name}"

    def picture(self, name: str) -> Picture | None:
        """A figure by its name, with the words that it says of itself (see `save_figure`); None if not drawn."""
        if name not in self.pictures:
            place = next((place for place in self.places if (place / f"{name}.png").exists()), None)
            self.pictures[name] = None if place is None else self._taken_from(place, name)
        return self.pictures[name]

    def _taken_from(self, place: Path, name: str) -> Picture:
        said, size = {}, (1, 1)
        with suppress(OSError), Image.open(place / f"{name}.png") as file:
            said, size = file.info, file.size
        caption = str(said.get("Title") or _in_words(name))
        there = [path.name for path in (place / f"{name}.{kind}" for kind in ("png", "svg", "csv")) if path.exists()]
        files = {Path(file).suffix[1:]: self.copied(place / file, "figures") for file in there}
        return Picture(name, caption, str(said.get("Description") or caption), size, files)

    def follow(self, url: str, folder: Path) -> str:
        """Where a link of a text that lies in `folder` leads in the site; the file comes along."""
        if _ELSEWHERE.match(url):
            return url
        file, _, part = url.partition("#")
        if page := self.pages.get(Path(file).name):
            return f"{page}#{part}" if part else page
        if Path(file).suffix == ".png" and (picture := self.picture(Path(file).stem)):
            return picture.files["png"]
        return self.copied(folder / file, "files") if (folder / file).is_file() else url


def write_site(records: Mapping[str, Any], output: Path, notebooks: Path) -> Path:
    """Write `output/site` from the records of a manifest and the executed copies; return its first page.

    A lesson that has not run into `output` is shown by its source and by the figures that a clone ships.
    Whatever a page links to lies in the site: it can be moved, published, and read without a network.
    """
    output, notebooks = output.resolve(), notebooks.resolve()
    sources = {path.stem: path for path in notebooks.glob("[0-9][0-9]_*.ipynb")}
    lessons = [
        Lesson(
            sources.get(name, notebooks / f"{name}.ipynb"),
            output / f"executed/{name}.ipynb",
            records.get(name, {}),
        )
        for name in sorted({*sources, *records})
    ]
    teaching = notebooks.parent / "docs" / "teaching.md"
    pages = {f"{lesson.name}.ipynb": f"{lesson.name}.html" for lesson in lessons}
    if teaching.exists():
        pages |= {teaching.name: "teaching.html"}
    shipped = notebooks.parent / "figures"
    output.mkdir(parents=True, exist_ok=True)
    # A site is whole or not there: one that is being read is replaced in a moment.
    with tempfile.TemporaryDirectory(prefix=".diffinv-", suffix=".tmp", dir=output) as staging:
        site = _Site(Path(staging) / "site", (output, shipped), pages)
        site.folder.mkdir()
        _write_pages(site, lessons, output, shipped, teaching if teaching.exists() else None)
        shutil.rmtree(output / "site", ignore_errors=True)
        site.folder.rename(output / "site")
    return output / "site" / "index.html"


def _write_pages(
    site: _Site, lessons: Sequence[Lesson], output: Path, shipped: Path, teaching: Path | None
) -> None:
    drawn = {lesson.name: _figures(lesson, site) for lesson in lessons}

    def write(page: str, kind: str, title: str, **values: Any) -> None:
        blank = dict.fromkeys(("lesson", "cells", "text", "claims", "datasets", "data", "download", "place"))
        known = {"lessons": lessons, "numbered": [lesson.name[:2] for lesson in lessons], "drawn": drawn}
        known |= {"teaching": teaching, "picture": site.picture, "every": EVERY}
        text = render(
            Path(__file__).with_suffix(".html"), **blank | known | values, kind=kind, title=title, code=_styles()
        )
        (site.folder / page).write_text(text, encoding="utf-8")

    for place, lesson in enumerate(lessons):
        download = site.copied(lesson.file, "notebooks") if lesson.cells else None
        if download:
            # It is read beside the figures of the site, and not where it has been run.
            link_pictures(site.folder / download, lesson.notebook, site.folder / "figures")
        pictured = {file for each in drawn[lesson.name] for file in each.files.values()}
        data = [file for file in lesson.record.get("files", ()) if file.endswith(".csv") and f"figures/{file}" not in pictured]
        write(
            f"{lesson.name}.html", "lesson", lesson.title,
            lesson=lesson, place=place, download=download, cells=[*_shown(lesson, site)],
            data=[site.copied(output / file, "figures") for file in data if (output / file).exists()],
        )  # fmt: skip
    if teaching is not None:
        text = teaching.read_text(encoding="utf-8")
        write("teaching.html", "text", "Teaching with diffinv", text=_markdown(site, teaching.parent)(text))
    claims = _claims(output, shipped)
    datasets = [*dict.fromkeys(dataset for row in claims for dataset in row["cells"] if dataset != EVERY)]
    write("claims.html", "claims", "Which claims of the paper hold here?", claims=claims, datasets=datasets)
    if (output / "manifest.json").exists():
        site.copied(output / "manifest.json", "figures")
    write("index.html", "start", "Training on Thin Air, in lessons", data=(output / "manifest.json").exists())


def _claims(output: Path, shipped: Path) -> list[dict[str, Any]]:
    """The judged claims, with a cell for each dataset; [] where no lesson has judged any."""
    try:
        rows = ledger(output, shipped if shipped.is_dir() else None)
    except ArtefactError:  # a table of another version: its lesson says so when it is run
        return []
    judged = rows[rows["verdict"].isin(("supported", "contradicted", "undecided"))]
    return [
        {
            "claim": claim,
            "lesson": group["lesson"].iloc[0],
            "cells": {row.dataset: (row.verdict, effect_in_words(row)) for row in group.itertuples()},
        }
        for claim, group in judged.groupby("claim", sort=False)
    ]


def _figures(lesson: Lesson, site: _Site) -> list[Picture]:
    """The figures of a lesson: in the order in which its cells draw them, then those that only its record names."""
    named = [name for cell in lesson.cells if cell.cell_type == "code" for name in _saved(cell)]
    recorded = [Path(file).stem for file in lesson.record.get("files", ()) if file.endswith(".png")]
    return [picture for name in dict.fromkeys(named + recorded) if (picture := site.picture(name))]


def _saved(cell: Any) -> list[str]:
    """The names of the figures that a cell saves, where it writes them out."""
    with suppress(SyntaxError):  # a cell with a magic of IPython draws nothing here
        calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
        saves = [call for call in calls if getattr(call.func, "id", None) == "save_figure" and len(call.args) > 1]
        return [name.value for call in saves if isinstance(name := call.args[1], ast.Constant)]
    return []


def _shown(lesson: Lesson, site: _Site) -> Iterator[tuple[str, Any]]:
    """What a lesson's page shows, from top to bottom: pairs of a kind and its content, HTML or a picture."""
    from nbconvert.filters import strip_ansi
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    markdown = _markdown(site, lesson.notebook.parent)
    section, joined = lesson.title, CoalesceStreamsPreprocessor()
    for cell in lesson.cells:
        source = cell.source
        if cell.cell_type == "markdown":
            section = ([section, *re.findall(r"^#+ (.+)", source, re.MULTILINE)])[-1]
            yield "text", markdown(source)
            continue
        if cell.cell_type != "code" or not source.strip():
            continue
        joined.preprocess_cell(cell, {}, 0)
        yield "code", highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))
        pictures = [picture for name in _saved(cell) if (picture := site.picture(name))]
        drawn = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        unnamed = max(0, drawn - len(pictures))  # the first ones: a figure is saved last
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "error":
                yield "error", strip_ansi("\n".join(output.traceback))
            elif "image/png" in data and unnamed:
                unnamed -= 1
                yield "image", (data["image/png"].replace("\n", ""), f"Drawn by the code above, of: {section}")
            elif "image/png" in data:
                if pictures:
                    yield "picture", pictures.pop(0)
            elif "text/html" in data:
                yield "html", re.sub(r"<style.*?</style>|border=\"1\" ", "", data["text/html"], flags=re.DOTALL)
            elif said := output.get("text") or data.get("text/plain"):
                yield "output", strip_ansi(said)
        for picture in pictures if not lesson.has_run else ():
            yield "picture", picture


def _markdown(site: _Site, folder: Path) -> Callable[[str], str]:
    """A function from the Markdown of a text that lies in `folder` to HTML, mathematics included."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return f'<div class="scroll" tabindex="0">{mathematics(body, "block")}</div>'

        def inline_math(self, body: str) -> str:
            return mathematics(body)

        def heading(self, text: str, level: int, **attributes: Any) -> str:
            return f'<h{level} id="{_anchor(text)}">{text}</h{level}>\n'

        def image(self, text: str, url: str, title: str | None = None) -> str:
            # A badge of another server would be a request: its words stay.
            if _ELSEWHERE.match(url):
                return html.escape(text)
            return f'<img src="{html.escape(site.follow(url, folder))}" alt="{html.escape(text)}">'

        def link(self, text: str, url: str, title: str | None = None) -> str:
            return super().link(text, site.follow(url, folder), title)

        def block_code(self, code: str, info: str | None = None) -> str:
            return super().block_code(code, info).replace("<pre>", '<pre tabindex="0">', 1)

    def as_html(text: str) -> str:
        drawn = MarkdownWithMath(renderer=Renderer(escape=False)).render(text)
        # What is wider than a telephone is moved within its own frame, by a keyboard too.
        return drawn.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")

    return as_html


def mathematics(formula: str, display: str = "inline") -> str:
    """A formula in LaTeX as MathML, which browsers draw by themselves; as code where it cannot be converted."""
    from latex2mathml.converter import convert

    # What latex2mathml does not know: sizes of delimiters, and an operator that it takes for a symbol.
    known = re.sub(r"\\[bB]igg?[lrm]?(?![a-zA-Z])", "", formula).replace(r"\|", r"\Vert ")
    known = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", known)
    with suppress(Exception):  # its errors have no common class
        drawn = convert(known.strip(), display=display)
        if "\\" not in drawn:  # a command that it did not know
            return drawn
    return f"<code>{html.escape(formula)}</code>"


def _styles() -> str:
    """The colours of code, on light and on dark ground."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs("pre") for style in ("default", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


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


def _anchor(heading: str) -> str:
    """The name by which a link finds a heading, as GitHub makes it."""
    words = html.unescape(re.sub(r"<[^>]+>", "", heading)).lower()
    return re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")


def _in_words(name: str) -> str:
    """A file name in words: "03_accuracy_against_number" gives "Accuracy against number"."""
    return re.sub(r"^\d\d_", "", name).replace("_", " ").capitalize()
