"""What lies in a folder: images, tables and folders, each place visited once, and what was passed over."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from diffinv.datasets.layout.names import readable, split_of
from diffinv.foundation.errors import listed

SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c", ".jpc"),
    *(".jpf", ".jpx", ".tga"),
}
TABLES = {".csv", ".tsv", ".jsonl", ".parquet"}
# Of these kinds only those called so: most describe one image each.
_MAYBE_TABLES = {".txt", ".json", ".xlsx", ".xls", ".ods"}
_CALLED_TABLE = re.compile("label|class|annot|meta|truth|target|list|files|images", re.IGNORECASE)
# Kinds that begin with a mark of their own: a file with another suffix, or none, is one of them by that.
_MARKED = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000")
# What often lies beside images and is none: passed over without a warning.
_COMPANIONS = {
    *(".txt", ".md", ".rst", ".html", ".json", ".xml", ".yaml", ".yml", ".ini", ".db", ".log", ".py"),
    *(".ipynb", ".sha256", ".md5"),
    *TABLES,
}
_TOOL_FOLDERS = {
    *("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "__pycache__"),
    *("cvs", "thumbnails", "_thumbs", "_thumbnails", "system volume information"),
}


@dataclass(frozen=True)
class Tree:
    """A folder: its own images and tables, and the folders in it."""

    path: Path
    images: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    folders: tuple["Tree", ...] = ()

    def every(self) -> Iterator["Tree"]:
        """This folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.every()

    def every_image(self) -> tuple[Path, ...]:
        """The images of this folder and of all below it, in the order of their paths."""
        return tuple(sorted(path for tree in self.every() for path in tree.images))

    def filled(self) -> tuple["Tree", ...]:
        """The folders in it that hold an image, at whatever depth."""
        return tuple(folder for folder in self.folders if folder.every_image())


def survey(folder: Path) -> tuple[Tree, tuple[str, ...]]:
    """All that a folder holds, and sentences on what in it cannot be reached or read.

    Hidden files, and folders that tools keep, are passed over. Links are followed, to each place once.
    """
    walk = _Walk()
    tree = walk.down(folder)
    return tree, tuple(walk.sentences(folder))


@dataclass
class _Walk:
    visited: set[Path] = field(default_factory=set)
    twice: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def down(self, folder: Path) -> Tree:
        self.visited.add(folder.resolve())
        images: list[Path] = []
        tables: list[Path] = []
        folders: list[Tree] = []
        try:
            # Links come last, so that a place is called by its own path where it has one here.
            with os.scandir(folder) as found:  # which knows the kinds without asking the disk again
                entries = sorted(found, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError:
            self.closed.append(str(folder))
            entries = []
        for entry in entries:
            path = folder / entry.name
            suffix = path.suffix.lower()
            if path.name.startswith("."):
                continue
            if entry.is_symlink() and not os.path.exists(path):  # or it leads to itself
                self.dangling.append(str(path))
            elif entry.is_dir():
                if path.name.lower() in _TOOL_FOLDERS:
                    continue
                if path.resolve() in self.visited:
                    self.twice.append(str(path))
                    continue
                skipped = self.skipped.total()
                below = self.down(path)
                speaks_of_images = _CALLED_TABLE.search(path.name) and self.skipped.total() == skipped
                if speaks_of_images and not below.every_image():  # no class, but tables may lie there
                    tables += below.tables
                else:
                    folders.append(below)
            elif not entry.is_file():
                self.skipped["pipes or devices"] += 1  # reading one might never end
            elif suffix in SUFFIXES or (suffix not in _COMPANIONS and _shows_an_image(path)):
                images.append(path)
            elif suffix in TABLES or (
                suffix in _MAYBE_TABLES and (split_of(path.stem) or _CALLED_TABLE.search(path.stem))
            ):
                tables.append(path)
            elif suffix not in _COMPANIONS:
                self.skipped[suffix or path.name] += 1
        folders.sort(key=lambda tree: tree.path)
        return Tree(folder, tuple(sorted(images)), tuple(tables), tuple(folders))

    def sentences(self, folder: Path) -> Iterator[str]:
        if self.skipped:
            kinds = listed([f"{count} {kind}" for kind, count in sorted(self.skipped.items())])
            count = sum(self.skipped.values())
            one = "file in {} is no image" if count == 1 else "files in {} are no images"
            yield f"{count} {one.format(folder)} that Pillow reads, and skipped: {kinds}."
        for paths, what in (
            (self.dangling, "lead nowhere, and are skipped"),
            (self.twice, "lead to folders that are read already, and are not followed"),
        ):
            if paths:
                yield f"links in {folder} {what}: {listed([readable(path) for path in paths])}."
        if self.closed:
            yield f"folders in {folder} are not yours to read, and are skipped: {listed(self.closed)}."


def _shows_an_image(path: Path) -> bool:
    try:
        with Image.open(path, formats=_MARKED):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
