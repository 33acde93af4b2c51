"""What synthetic images add to real ones: accuracies by training set and by class, for JSON and to read."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from diffinv.datasets import LabelledImages
from diffinv.foundation.text import percent, text_table
from diffinv.studies.statistics import describe_gain, paired_difference, summarise

MEASURES = ("accuracy", "balanced_accuracy")
CLASSES_SHOWN = 20  # in a report; the record has all


def gain_record(
    rows: pd.DataFrame, *, train: LabelledImages, test: LabelledImages, real: str = "real"
) -> dict[str, Any]:
    """Accuracies and what each condition gains on `real`, as plain values for JSON.

    `rows` are those of `run_study(by_class=True)`. A class without a test image has None for its accuracy.
    """
    sizes = rows.groupby("condition", sort=False)["num_training_images"].first()
    found = {value: summarise(rows, ["condition"], value=value).set_index("condition") for value in MEASURES}
    results = [
        {
            "trained_on": name,
            "training_images": int(sizes[name]),
            **_ends(found["accuracy"].loc[name]),
            "balanced_accuracy": _ends(found["balanced_accuracy"].loc[name]),
            "by_class": _known(pd.DataFrame(rows.loc[rows["condition"] == name, "by_class"].tolist()).mean()),
        }
        for name in sizes.index
    ]
    gains = [
        {"trained_on": name, "measure": value, **paired_difference(rows, name, real, value=value).iloc[0]}
        for value in MEASURES
        for name in sizes.index
        if name != real
    ]
    return {
        "resolution": train.resolution,
        "images": {"train": train.class_counts(), "test": test.class_counts()},
        "results": results,
        "gains": gains,
        "rows": [{**row, "by_class": _known(row["by_class"])} for row in rows.to_dict("records")],
    }


def gain_report(record: Mapping[str, Any], *, real: str = "real") -> Iterator[str]:
    """The lines of a report in 80 columns; balanced accuracy and classes where these are unequal."""
    train, test = (record["images"][split] for split in ("train", "test"))
    results, gains = record["results"], record["gains"]
    # Where all classes have as many test images, both accuracies are the same.
    measures = MEASURES if len(set(test.values())) > 1 else MEASURES[:1]
    words = {value: value.replace("_", " ") for value in measures}
    yield f"{sum(train.values())} training and {sum(test.values())} test images, the same steps for all"
    yield from _guessing(train, test)
    yield ""
    lines = []
    for row in results:
        ends = (row.get(value, row) for value in measures)
        accuracies = (percent(each["mean"], each["low"], each["high"]) for each in ends)
        lines.append([row["trained_on"], row["training_images"], *accuracies])
    yield from text_table(["trained on", "images", *words.values()], lines)
    yield f"in brackets: 95 % intervals over {gains[0]['n']:.0f} seeds"
    if len(measures) > 1:
        yield ""
        smallest = sorted(test, key=lambda name: test[name])[:CLASSES_SHOWN]
        shares = {name: [row["by_class"][name] for row in results] for name in smallest}
        of_class = {name: ["-" if s is None else f"{s:.0%}" for s in own] for name, own in shares.items()}
        columns = ["class", "test images", *(row["trained_on"] for row in results)]
        yield from text_table(columns, [[name, test[name], *own] for name, own in of_class.items()])
        if len(test) > CLASSES_SHOWN:
            yield f"these are the {CLASSES_SHOWN} smallest of {len(test)} classes"
    for value, word in words.items():
        yield ""
        yield f"{word} against {real}:"
        for gain in gains:
            if gain["measure"] == value:
                yield f"  {gain['trained_on']}: {describe_gain(pd.DataFrame([gain]))}"


def _guessing(train: Mapping[str, int], test: Mapping[str, int]) -> Iterator[str]:
    """What an accuracy has to be compared with, and which class it says least of."""
    largest, smallest = (choose(test, key=lambda name: test[name]) for choose in (max, min))
    share = test[largest] / sum(test.values())
    yield f"always answering {largest!r}, the majority class, would score {share:.1%}"
    if test[largest] > test[smallest]:
        few = f"{test[smallest]} test and {train[smallest]} training images"
        yield f"of {smallest!r}, the smallest class, there are {few}"


def _ends(row: Any) -> dict[str, float]:
    return {end: float(row[end]) for end in ("mean", "low", "high")}


def _known(by_class: Any) -> dict[str, float | None]:
    return {name: None if math.isnan(share) else float(share) for name, share in by_class.items()}
