"""The record and the report of a comparison, on rows that are written by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_card import draw

from diffinv.evaluation.gain import gain_record, gain_report


def rows(classes, gain=0.02):
    """Three seeds each; the synthetic images help `gain` in the first class alone."""
    return pd.DataFrame(
        [
            {
                "condition": condition,
                "seed": seed,
                "num_training_images": 60,
                "accuracy": 0.9 + seed / 100 + more,
                "balanced_accuracy": 0.6 + seed / 100 + more,
                "by_class": {**classes, "red": classes["red"] + more},
            }
            for condition, more in (("real", 0.0), ("real + synthetic", gain))
            for seed in range(3)
        ]
    )


CLASSES = {"red": 0.9, "green": 0.3, "blue": float("nan")}


@pytest.fixture
def unequal():
    """Six test images of red, one of green, none of blue."""
    return draw(18, seed=0).subset([0, 3, 6, 9, 12, 15, 1])


def test_unequal_classes_have_a_balanced_accuracy_and_one_each(unequal):
    record = gain_record(rows(CLASSES), train=draw(60, seed=1), test=unequal)
    lines = list(gain_report(record))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "always answering 'red', the majority class, would score 85.7%" in text
    assert "of 'blue', the smallest class, there are 0 test and 20 training images" in text
    real, both = record["results"]
    assert real["mean"] == pytest.approx(0.91) and real["balanced_accuracy"]["mean"] == pytest.approx(0.61)
    assert both["by_class"] == {"red": pytest.approx(0.92), "green": pytest.approx(0.3), "blue": None}
    assert "91.0% (88.2 to 93.2)  61.0% (58.5 to 63.5)" in text
    table = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("red", "green", "blue"))}
    assert table == {"red": ["6", "90%", "92%"], "green": ["1", "30%", "30%"], "blue": ["0", "-", "-"]}
    assert text.count("real + synthetic: +2.0 points") == 2 and "balanced accuracy against real:" in text
    json.loads(json.dumps(record, default=float), parse_constant=pytest.fail)


def test_equal_classes_have_one_accuracy():
    text = "\n".join(gain_report(gain_record(rows(CLASSES), train=draw(60, seed=1), test=draw(30, seed=2))))
    assert "balanced" not in text and "test images, the same steps" in text and "smallest" not in text


def test_of_many_classes_the_smallest_are_shown():
    names = tuple(["red", *(f"class {number}" for number in range(29))])
    test = replace(draw(61, seed=0), class_names=names, labels=np.arange(61) % 30)
    text = "\n".join(gain_report(gain_record(rows(dict.fromkeys(names, 0.5)), train=test, test=test)))
    assert "these are the 20 smallest of 30 classes" in text
