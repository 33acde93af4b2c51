"""Numbers are rounded as their intervals allow, and tables fit a terminal."""

import pytest

from diffinv.foundation.text import percent, rounded, text_table


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((54.321, 53.1, 55.5), ("54.3", "53.1 to 55.5")),
        ((54.321, 40.0, 70.0), ("54", "40 to 70")),
        ((54.321, 54.2, 54.4), ("54.321", "54.200 to 54.400")),
        ((54.321, 54.3209, 54.3211), ("54.321", "54.321 to 54.321")),
        ((100.0, 100.0, 100.0), ("100.0", "100.0 to 100.0")),
    ],
)
def test_two_digits_of_the_half_width_are_kept(numbers, words):
    assert rounded(*numbers) == words


def test_signs_and_shares():
    assert rounded(1.26, -0.5, 3.02, sign="+") == ("+1.3", "-0.5 to +3.0")
    assert percent(0.5, 0.35, 0.65) == "50% (35 to 65)"


def test_a_table_lines_up_and_is_cut_to_80_columns():
    rows = [["a name " * 20, "1", "50 % (35 to 65)"], ["b", "1000", "-"]]
    lines = text_table(["set", "images", "accuracy"], rows)
    assert [len(line) for line in lines] == [80, 80, 80]
    assert "..." in lines[1] and lines[1].endswith("     1  50 % (35 to 65)")
    assert text_table(["set", "n"], [["a", 1]]) == ["set       n", "a         1"]
