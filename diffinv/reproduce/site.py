"""The gallery: one static page that shows every figure with its lesson, its data and how it was made."""

import json
from collections.abc import Iterator
from html import escape
from os.path import relpath
from pathlib import Path
from typing import Any

from diffinv.artefacts.writing import write_atomically

PAGE = "index.html"

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --line: #e3e6ea; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 3rem 1.5rem 5rem; background: #fff; color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 2rem; letter-spacing: -.02em; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 3.2rem 0 .2rem; letter-spacing: -.01em; }
p { margin: 0; color: var(--soft); max-width: 48rem; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
.grid { display: grid; gap: 1.5rem; margin-top: 1.2rem;
        grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
         display: flex; flex-direction: column; }
figure > a { display: flex; flex: 1; align-items: center; justify-content: center; padding: 1rem; }
img { max-width: 100%; max-height: 30rem; height: auto; }
figcaption { border-top: 1px solid var(--line); padding: .7rem 1rem; font-size: .9rem; }
figcaption span { color: var(--soft); }
nav { display: inline; }
nav a { margin-left: .8rem; }
footer { margin-top: 4rem; border-top: 1px solid var(--line); padding-top: 1rem; font-size: .9rem;
         color: var(--soft); }
"""


def write_gallery(manifest: dict[str, Any], output: Path, notebooks: Path) -> Path:
    """Write `output/index.html` from the manifest's content; links are relative, no network is needed."""
    page = output / PAGE
    sections = "\n".join(
        _section(name, record, output, notebooks) for name, record in manifest["notebooks"].items()
    )
    with write_atomically(page, "w") as file:
        file.write(
            f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>diffinv: the figures</title>
<style>{_STYLE}</style>
<h1>The figures</h1>
<p>Each one is drawn by a notebook of this repository, headless, from the data beside it.
<a href="manifest.json">manifest.json</a> says how: parameters, seeds, commit, hashes, versions.</p>
{sections or "<p>No notebook has been run yet.</p>"}
</html>
"""
        )
    return page


def _section(name: str, record: dict[str, Any], output: Path, notebooks: Path) -> str:
    notebook = notebooks / f"{name}.ipynb"
    link = Path(relpath(notebook.resolve(), output.resolve())).as_posix()
    facts = [
        f"profile {record['profile']}",
        f"{record['wall_seconds']:.0f} s on {record['device']}",
        f"commit {record['commit'][:10]}" if record["commit"] else "",
    ]
    figures = "\n".join(_figures(record))
    return f"""<section id="{escape(name)}">
<h2>{escape(name[:2])} &middot; {escape(_heading(notebook))}</h2>
<p><a href="{escape(link)}">{escape(notebook.name)}</a> &middot; {escape(" · ".join(filter(None, facts)))}</p>
<div class="grid">
{figures}
</div>
</section>"""


def _figures(record: dict[str, Any]) -> Iterator[str]:
    for image in (file for file in record["files"] if file.endswith(".png")):
        stem = image.removesuffix(".png")
        beside = {kind: f"{stem}.{kind}" for kind in ("svg", "csv") if f"{stem}.{kind}" in record["files"]}
        links = "".join(f'<a href="{escape(file)}">{kind.upper()}</a>' for kind, file in beside.items())
        caption = escape(_title(Path(stem).name))
        yield (
            f'<figure><a href="{escape(beside.get("svg", image))}">'
            f'<img src="{escape(image)}" alt="{caption}" loading="lazy"></a>'
            f"<figcaption>{caption}<nav>{links}</nav></figcaption></figure>"
        )


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
