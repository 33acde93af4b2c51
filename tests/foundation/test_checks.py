"""Settings out of range: refused in one sentence that names the field, the value and the remedy."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest

from diffinv.foundation.checks import check_fields


@dataclass(frozen=True)
class Settings:
    count: int | None = 3
    rate: float = 0.5
    decay: float = 0.0
    share: float = 1.0
    kind: Literal["plain", "fancy"] = "plain"

    def __post_init__(self) -> None:
        check_fields(
            self, at_least={"count": 2}, above_zero=("rate",), below_one=("decay",), between={"share": (0, 1)}
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"count": 1}, "count is 1: choose at least 2."),
        ({"count": math.inf}, "count is inf: choose at least 2."),
        ({"rate": 0}, "rate is 0: choose a number above 0, such as 0.5."),
        ({"rate": math.nan}, "rate is nan: choose a number above 0, such as 0.5."),
        ({"decay": 1}, "decay is 1: choose a number from 0 to below 1."),
        ({"share": 1.5}, "share is 1.5: choose a number from 0 to 1."),
        ({"share": math.nan}, "share is nan: choose a number from 0 to 1."),
        ({"kind": "odd"}, "kind is 'odd': choose one of plain, fancy."),
        ({"rate": None}, "rate is None: choose a number."),
    ],
)
def test_the_culprit_and_the_remedy_stand_in_one_sentence(change, sentence):
    with pytest.raises(ValueError) as error:
        Settings(**change)
    assert str(error.value) == sentence


def test_the_bounds_that_a_range_includes_are_taken_and_none_where_it_may_be():
    Settings(count=2, decay=0, share=0)
    Settings(count=None, share=1, kind="fancy")
