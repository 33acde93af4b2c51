"""The site: static pages of lessons, figures, data and claims, which load nothing from elsewhere."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from os.path import relpath
from pathlib import Path
from typing import Any

from PIL import Image

from diffinv.artefacts.pages import render
from diffinv.artefacts.writing import ArtefactError, write_whole
from diffinv.reproduce.rendering import ELSEWHERE, code_styles, markdown, saved_figures, shown
from diffinv.studies.claims import EVERY, VERDICTS, effect_in_words
from diffinv.studies.ledger import ledger

_PICTURE = re.compile(r"(!\[[^\]]*\]\()(?![a-z]+:)([^)\s]+)\)")  # in Markdown, with a relative link


@dataclass(frozen=True)
class Picture:
    """A figure of a lesson: its words, its size in pixels, and its files by kind, as paths in the site."""

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

    @cached_property
    def has_run(self) -> bool:
        with suppress(OSError, ValueError):  # not there, or cut short when its process was killed
            return bool(json.loads(self.executed.read_text(encoding="utf-8")))
        return False

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
        """A figure by its name, with what it says of itself (see `save_figure`); None if it is not drawn."""
        if name not in self.pictures:
            place = next((place for place in self.places if (place / f"{name}.png").exists()), None)
            self.pictures[name] = None if place is None else self._taken_from(place, name)
        return self.pictures[name]

    def _taken_from(self, place: Path, name: str) -> Picture:
        said, size = {}, (1, 1)
        with suppress(OSError), Image.open(place / f"{name}.png") as file:
            said, size = file.info, file.size
        caption = str(said.get("Title") or _in_words(name))
        there = [
            path.name
            for path in (place / f"{name}.{kind}" for kind in ("png", "svg", "csv"))
            if path.exists()
        ]
        files = {Path(file).suffix[1:]: self.copied(place / file, "figures") for file in there}
        return Picture(name, caption, str(said.get("Description") or caption), size, files)

    def follow(self, url: str, folder: Path) -> str:
        """Where a link of a text that lies in `folder` leads in the site; the file comes along."""
        if ELSEWHERE.match(url):
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
        numbers = [lesson.name[:2] for lesson in lessons]
        always: dict[str, Any] = {"lessons": lessons, "numbered": numbers, "drawn": drawn}
        always |= {"teaching": teaching, "picture": site.picture, "every": EVERY, "code": code_styles()}
        template = Path(__file__).with_suffix(".html")
        text = render(template, **always, **values, kind=kind, title=title)
        (site.folder / page).write_text(text, encoding="utf-8")

    for place, lesson in enumerate(lessons):
        download = site.copied(lesson.file, "notebooks") if lesson.cells else None
        if download:
            # It is read beside the figures of the site, and not where it has been run.
            link_pictures(site.folder / download, lesson.notebook, site.folder / "figures")
        cells = [
            *shown(lesson.cells, lesson.title, markdown(site.follow, lesson.notebook.parent), site.picture)
        ]
        beside = [figure for figure in drawn[lesson.name] if ("picture", figure) not in cells]
        pictured = {file for figure in drawn[lesson.name] for file in figure.files.values()}
        tables = [output / file for file in lesson.record.get("files", ()) if file.endswith(".csv")]
        copied = [site.copied(table, "figures") for table in tables if table.exists()]
        data = [table for table in copied if table not in pictured]
        rest = {"place": place, "download": download, "beside": beside, "data": data}
        write(f"{lesson.name}.html", "lesson", lesson.title, lesson=lesson, cells=cells, **rest)
    if teaching is not None:
        text = markdown(site.follow, teaching.parent)(teaching.read_text(encoding="utf-8"))
        write("teaching.html", "text", "Teaching with diffinv", text=text)
    claims = _claims(output, shipped)
    datasets = [*dict.fromkeys(dataset for row in claims for dataset in row["cells"] if dataset != EVERY)]
    write("claims.html", "claims", "Which claims of the paper hold here?", claims=claims, datasets=datasets)
    manifest = output / "manifest.json"
    how = site.copied(manifest, "figures") if manifest.exists() else None
    write("index.html", "start", "Training on Thin Air, in lessons", how=how)


def _claims(output: Path, shipped: Path) -> list[dict[str, Any]]:
    """The judged claims, with a cell for each dataset; [] where no lesson has judged any."""
    try:
        rows = ledger(output, shipped if shipped.is_dir() else None)
    except ArtefactError:  # a table of another version: its lesson says so when it is run
        return []
    judged = rows[rows["verdict"].isin(VERDICTS)]
    return [
        {
            "claim": claim,
            "lesson": group["lesson"].iloc[0],
            "cells": {row.dataset: (row.verdict, effect_in_words(row)) for row in group.itertuples()},
        }
        for claim, group in judged.groupby("claim", sort=False)
    ]


def _figures(lesson: Lesson, site: _Site) -> list[Picture]:
    """The figures of a lesson, in the order of its cells; then those that only its record names."""
    named = [name for cell in lesson.cells if cell.cell_type == "code" for name in saved_figures(cell)]
    recorded = [Path(file).stem for file in lesson.record.get("files", ()) if file.endswith(".png")]
    return [picture for name in dict.fromkeys(named + recorded) if (picture := site.picture(name))]


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
    write_whole(executed, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _in_words(name: str) -> str:
    """A file name in words: "03_accuracy_against_number" gives "Accuracy against number"."""
    return re.sub(r"^\d\d_", "", name).replace("_", " ").capitalize()
