"""A site of the repository's own lessons, one of which has run, and what its pages link to."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

from diffinv.reproduce.manifest import Manifest
from diffinv.reproduce.site import write_site

ROOT = Path(__file__).parent.parent


def lessons_site(output: Path) -> Path:
    """The site's folder: the quickstart as its golden copy ran, the other lessons from their sources."""
    (output / "executed").mkdir()
    shutil.copy(ROOT / "tests" / "golden" / "00_quickstart.ipynb", output / "executed")
    records = Manifest(ROOT / "figures").notebooks
    return write_site(records, output, ROOT / "notebooks").parent


class Page(HTMLParser):
    """The links, the names that links can lead to, and the texts of pictures of an HTML file."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: list[str] = []
        self.alts: list[str | None] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.append(given["href"])
        elif "src" in given or "href" in given:
            self.loaded.append(given.get("src") or given["href"])
        if tag == "img":
            self.alts.append(given.get("alt"))
