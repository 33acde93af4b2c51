"""Tables for cards, the README and terminals."""

from collections.abc import Sequence


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown: one line of cells for each of `lines`, under the names of the columns."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
