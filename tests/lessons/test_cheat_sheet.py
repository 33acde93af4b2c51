"""The cheat sheet: its lines are those of the package, and the sheet that ships says what it says now."""

import ast
from pathlib import Path

import pytest
from PIL import Image

from diffinv.lessons.cheat_sheet import SHEET, Row, cheat_sheet, main, sheet_text
from diffinv.method import sampling

DOCS = Path(__file__).parents[2] / "docs"
ROWS = [row for rows in SHEET.values() for row in rows]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.words)
def test_every_line_stands_in_the_file_that_the_sheet_names(row):
    source = (DOCS.parent / "diffinv" / row.place).read_text()
    assert row.code and all(line in source for line in row.code)
    for line in row.code:
        ast.parse(
            f"def f(): {line}" if line.startswith("return") else f"f({line})" if line[-1] == "," else line
        )


@pytest.mark.parametrize(("begin", "count"), [("nowhere", 0), ("without", 2)])
def test_a_line_that_has_moved_or_is_not_the_only_one_is_refused(begin, count):
    row = Row("words", "$x$", sampling.guided_prediction, (begin,))
    with pytest.raises(ValueError, match=f"{count} lines of guided_prediction begin with '{begin}'"):
        _ = row.code


def test_nothing_leaves_the_page_or_its_box():
    fig = cheat_sheet()
    page, (ax,) = fig.bbox, fig.axes
    boxes = [patch.get_window_extent() for patch in ax.patches]
    for text in ax.texts:
        extent = text.get_window_extent()
        assert page.x0 < extent.x0 and extent.x1 < page.x1 and page.y0 < extent.y0, text.get_text()
        holding = [box for box in boxes if box.x0 <= extent.x0 <= box.x1 and box.y0 <= extent.y0 <= box.y1]
        assert all(extent.x1 <= box.x1 for box in holding), text.get_text()


def test_the_sheet_that_ships_is_the_one_of_this_code(tmp_path):
    main(str(tmp_path))
    pages = {kind: (tmp_path / f"cheat_sheet.{kind}").read_bytes() for kind in ("png", "pdf")}
    main(str(tmp_path))
    assert pages == {kind: (tmp_path / f"cheat_sheet.{kind}").read_bytes() for kind in pages}
    with Image.open(DOCS / "cheat_sheet.png") as shipped:
        assert shipped.info["Description"] == sheet_text(), "run `make cheatsheet`"
    assert (DOCS / "cheat_sheet.pdf").read_bytes().startswith(b"%PDF")
