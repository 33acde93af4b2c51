"""What a notebook holds, as HTML: texts with mathematics, code, and what the code printed and drew."""

import ast
import html
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ELSEWHERE = re.compile(r"[a-z]+:|#")  # a link that leads out of the folder, or stays on its page


def shown(
    cells: Sequence[Any], title: str, as_html: Callable[[str], str], picture: Callable[[str], Any]
) -> Iterator[tuple[str, Any]]:
    """What a notebook shows, from top to bottom: pairs of a kind and its content.

    "text", "code", "imports" and "html" come with HTML, "output" and "error" with plain text, "image" with a
    PNG in base64 and words in its place, and "picture" with what `picture` returns for the name of a figure
    that a cell saves; None = there is none.
    """
    from nbconvert.filters import strip_ansi
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    section, joined = title, CoalesceStreamsPreprocessor()
    for cell in cells:
        source = cell.source
        if cell.cell_type == "markdown":
            section = ([section, *re.findall(r"^#+ (.+)", source, re.MULTILINE)])[-1]
            yield "text", as_html(source)
            continue
        # What papermill adds says in which folder of which machine it ran; the record says the rest.
        tags = cell.metadata.get("tags", ())
        if cell.cell_type != "code" or not source.strip() or "injected-parameters" in tags:
            continue
        joined.preprocess_cell(cell, {}, 0)
        imports = source.startswith(("import ", "from "))
        yield "imports" if imports else "code", highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))
        pictures = [found for name in saved_figures(cell) if (found := picture(name))]
        drawn = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        unnamed = max(0, drawn - len(pictures))  # the first ones: a figure is saved last
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "error":
                yield "error", strip_ansi("\n".join(output.traceback))
            elif "image/png" in data and unnamed:
                unnamed -= 1
                words = f"Drawn by the code above, of: {section}"
                yield "image", (data["image/png"].replace("\n", ""), words)
            elif "image/png" in data:
                if pictures:
                    yield "picture", pictures.pop(0)
            elif "text/html" in data:
                yield "html", _table(re.sub("<style.*?</style>", "", data["text/html"], flags=re.DOTALL))
            elif said := output.get("text") or data.get("text/plain"):
                yield "output", strip_ansi(said)
        for each in pictures:  # drawn, but not shown by the cell, or not by this run
            yield "picture", each


def saved_figures(cell: Any) -> list[str]:
    """The names of the figures that a cell saves, where it writes them out."""
    with suppress(SyntaxError):  # a cell with a magic of IPython draws nothing here
        calls = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
        saves = [call.args[1] for call in calls if getattr(call.func, "id", None) == "save_figure"]
        return [str(name.value) for name in saves if isinstance(name, ast.Constant)]
    return []


def markdown(follow: Callable[[str, Path], str], folder: Path) -> Callable[[str], str]:
    """A function from the Markdown of a text that lies in `folder` to HTML, mathematics included.

    `follow` says where a link of it leads.
    """
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
            if ELSEWHERE.match(url):
                return html.escape(text)
            return f'<img src="{html.escape(follow(url, folder))}" alt="{html.escape(text)}">'

        def link(self, text: str, url: str, title: str | None = None) -> str:
            return super().link(text, follow(url, folder), title)

        def block_code(self, code: str, info: str | None = None) -> str:
            return super().block_code(code, info).replace("<pre>", '<pre tabindex="0">', 1)

    def as_html(text: str) -> str:
        return _table(MarkdownWithMath(renderer=Renderer(escape=False)).render(text))

    return as_html


def _table(text: str) -> str:
    """HTML whose tables move within a frame of their own, by a keyboard too, and have no empty headings."""
    text = re.sub(r"<table[^>]*>", '<div class="scroll" tabindex="0"><table>', text)
    return re.sub(r"<th[^>]*></th>", "<td></td>", text).replace("</table>", "</table></div>")


def mathematics(formula: str, display: str = "inline") -> str:
    """A formula in LaTeX as MathML, which browsers draw by themselves; as code if it cannot be converted."""
    from latex2mathml.converter import convert

    # What latex2mathml does not know: sizes of delimiters, and an operator that it takes for a symbol.
    known = re.sub(r"\\[bB]igg?[lrm]?(?![a-zA-Z])", "", formula).replace(r"\|", r"\Vert ")
    known = re.sub(r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}", known)
    with suppress(Exception):  # its errors have no common class
        drawn = convert(known.strip(), display=display)
        if "\\" not in drawn:  # a command that it did not know
            return drawn
    return f"<code>{html.escape(formula)}</code>"


def code_styles() -> str:
    """The colours of code, on light and on dark ground."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs("pre") for style in ("default", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _anchor(heading: str) -> str:
    """The name by which a link finds a heading, as GitHub makes it."""
    words = html.unescape(re.sub(r"<[^>]+>", "", heading)).lower()
    return re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
