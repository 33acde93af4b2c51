"""The evaluation card: any synthetic set judged against a real one, by the same measures for every method."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from diffinv.classifiers.training import Training
from diffinv.datasets import LabelledImages
from diffinv.datasets.labelled_images import check_alike
from diffinv.evaluation.evidence import REAL, SYNTHETIC, TEST, Evidence, gather
from diffinv.evaluation.gain import MEASURES
from diffinv.evaluation.tables import class_rows, metric_rows, notes
from diffinv.foundation.text import percent, text_table
from diffinv.metrics.copies import Closeness
from diffinv.studies.grid import accuracy_scores
from diffinv.studies.statistics import describe_gain, paired_difference, summarise

PAIRS_KEPT = 20  # of the closest, by their ids in the record


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationCard(Evidence):
    """What was measured of a synthetic set, in all and by class; what could not be is NaN and has a note."""

    metrics: pd.DataFrame  # metric, synthetic, real (what real images score), better, meaning
    by_class: pd.DataFrame  # one row per class: numbers of images, and the metrics of the class's own
    # A row for each training set and measure, "accuracy" or "balanced accuracy": mean, std, n, low and high.
    accuracies: pd.DataFrame | None
    gain: pd.DataFrame | None  # accuracy by synthetic images - by real ones, paired by seed, if asked for
    notes: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> float:
        """The synthetic set's value of a metric."""
        return float(self.metrics.set_index("metric").at[metric, SYNTHETIC])


def evaluation_card(
    real: LabelledImages,
    synthetic: LabelledImages,
    *,
    test: LabelledImages | None = None,
    clip: Any,
    training: Training | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    against_real: bool = False,
    k: int = 5,
    quantile: float = 0.01,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> EvaluationCard:
    """Judge `synthetic` by `real`, the training images that it was made from or is to stand for.

    `test` are real images that it was not made from; without them leaks are not looked for, and nothing says
    what real images would score. `clip` is a FrozenClip. Given `training`, classifiers are trained on the
    synthetic images with each of the seeds, at least 3, and with `against_real` on the real ones too. Copies
    and leaks lie at or below the `quantile` of the leave-one-out distances (`closeness`). ValueError for
    sets of different classes or resolutions, or of no more than `k` images.
    """
    check_alike(real=real, synthetic=synthetic)
    if test is not None:
        check_alike(real=real, test=test)
    elif against_real:
        raise ValueError("no classifier is judged on images that it was trained on: give test images too.")
    found = gather(real, synthetic, test, clip=clip, num_neighbours=k, quantile=quantile)
    scores = None
    if training is not None:
        sets = {SYNTHETIC: synthetic, REAL: real} if against_real else {SYNTHETIC: synthetic}
        judges = real if test is None else test
        options: dict[str, Any] = {"cache_dir": cache_dir, "progress": progress}
        scores = accuracy_scores(sets, test=judges, training=training, seeds=seeds, **options)
    return EvaluationCard(
        **vars(found),
        metrics=metric_rows(found, scores),
        by_class=class_rows(found, scores),
        accuracies=None if scores is None else _accuracies(scores),
        gain=paired_difference(scores, SYNTHETIC, REAL) if scores is not None and against_real else None,
        notes=tuple(notes(found, scores)),
        settings={
            "clip": getattr(clip, "name", type(clip).__name__),
            "k": k,
            "quantile": quantile,
            "training": None if training is None else asdict(training),
            "seeds": None if training is None else list(seeds),
        },
    )


def _accuracies(scores: pd.DataFrame) -> pd.DataFrame:
    measures = {value: summarise(scores, ["condition"], value=value) for value in MEASURES}
    tables = (table.assign(measure=value.replace("_", " ")) for value, table in measures.items())
    return pd.concat(tables, ignore_index=True)


def card_record(card: EvaluationCard) -> dict[str, Any]:
    """The card as plain values for JSON, with the ids of the closest pairs; what is not known is None."""
    return {
        "metrics": _plain_rows(card.metrics),
        "by_class": _plain_rows(card.by_class),
        "accuracies": None if card.accuracies is None else _plain_rows(card.accuracies),
        "gain": None if card.gain is None else _plain_rows(card.gain)[0],
        "copies": _closest(card.copies, card.synthetic, card.real),
        "leaks": _closest(card.leaks, card.synthetic, card.test),
        "images": {
            role: {"count": len(images), "fingerprint": images.fingerprint}
            for role, images in ((REAL, card.real), (SYNTHETIC, card.synthetic), (TEST, card.test))
            if images is not None
        },
        "notes": list(card.notes),
        "settings": card.settings,
    }


def card_text(card: EvaluationCard) -> str:
    """The card for a terminal: its verdict, the metrics beside those of real images, then the notes."""
    rows = [
        [row.metric, *(format_value(row.metric, value) for value in (row.synthetic, row.real)), row.better]
        for row in card.metrics.itertuples()
    ]
    lines = [*text_table(["metric", SYNTHETIC, REAL, "better"], rows), ""]
    if card.accuracies is not None:
        of_sets = [
            [f"trained on {row.condition} images", row.measure, percent(row.mean, row.low, row.high)]
            for row in card.accuracies.itertuples()
        ]
        lines += text_table(["classifiers", "measure", "mean (95 % interval)"], of_sets)
        lines.append(f"always naming the commonest class would be right for {majority_share(card):.1%}")
    sentences = [] if card.gain is None else [gain_text(card.gain)]
    sentences += [f"- {note}" for note in card.notes]
    wrapped = [
        textwrap.fill(said, 80, subsequent_indent="  " * said.startswith("-"), break_long_words=False)
        for said in (verdict(card), *sentences)
    ]
    return "\n".join([wrapped[0], "", *lines, "", *wrapped[1:], ""])


def verdict(card: EvaluationCard) -> str:
    """The card in a sentence; it tells accuracies apart only if the interval of their difference does."""
    if card.gain is not None:
        gain, low, high = (100 * card.gain.iloc[0][name] for name in ("difference", "low", "high"))
        order = "are more accurate than" if low > 0 else "are less accurate than"
        if low <= 0 <= high:
            order = "cannot be told apart in accuracy from"
        return (
            f"Classifiers trained on the synthetic images {order} those trained on the real ones: the "
            f"difference is {gain:+.1f} points, with a 95 % interval from {low:+.1f} to {high:+.1f}."
        )
    precision, recall = (card.metrics.set_index("metric").loc[name] for name in ("precision", "recall"))
    sentence = (
        f"{precision['synthetic']:.1%} of the synthetic images lie among training images, and "
        f"{recall['synthetic']:.1%} of the training images lie among synthetic ones"
    )
    if card.test is None:
        return f"{sentence}; there are no test images to compare this with."
    expected = f"{precision['real']:.1%} and {recall['real']:.1%}"
    return f"{sentence}; with test images in their place the shares are {expected}."


def majority_share(card: EvaluationCard) -> float:
    """What always naming the commonest class would score: an accuracy has to be compared with it."""
    judges = card.real if card.test is None else card.test
    return max(judges.class_counts().values()) / len(judges)


def gain_text(gain: pd.DataFrame) -> str:
    """The gain in a sentence, with whether its interval tells the two apart."""
    return f"Synthetic images against real ones: {describe_gain(gain)}."


def format_value(metric: str, value: float) -> str:
    """Shares and accuracies in per cent, distances with three digits, a dash for what is not known."""
    if math.isnan(value):
        return "-"
    if metric in ("Fréchet distance", "KID", "CMMD", "density") or metric.startswith("diversity"):
        return f"{value:.3f}"
    return f"{value:.1%}"


def _closest(
    found: Closeness | None, images: LabelledImages, references: LabelledImages | None
) -> dict[str, Any] | None:
    if found is None or references is None:
        return None
    pairs = [
        {"image": images.ids[index], "nearest": references.ids[nearest], "ratio": ratio}
        for index, nearest, ratio in found.closest(PAIRS_KEPT)
    ]
    shares = {"share": found.share, "threshold": found.threshold, "quantile": found.quantile}
    return {**shares, "closest": pairs}


def _plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")
