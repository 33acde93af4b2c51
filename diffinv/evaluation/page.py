"""The page of an evaluation card: one HTML file with its figures inside, on light or dark ground."""

from pathlib import Path
from typing import Any

from diffinv.artefacts.pages import render
from diffinv.artefacts.writing import write_atomically
from diffinv.datasets import LabelledImages
from diffinv.evaluation.card import EvaluationCard, format_value, gain_text
from diffinv.figures.evaluation import closeness_uri, manifold_uri, strip_uri
from diffinv.foundation.text import percent
from diffinv.metrics.copies import Closeness

SHARES = ["precision", "recall", "density", "coverage"]


def write_page(card: EvaluationCard, path: str | Path, *, title: str) -> None:
    """Write the card as one self-contained HTML file."""
    with write_atomically(path, "w") as file:
        file.write(evaluation_page(card, title=title))


def evaluation_page(card: EvaluationCard, *, title: str) -> str:
    """The HTML of a card; it loads nothing from anywhere."""
    searches = [_search("Copies", card.copies, card.test_copies, card.real, "training", "test")]
    if card.leaks is not None and card.test is not None:
        searches.append(_search("Leaks", card.leaks, card.real_leaks, card.test, "test", "training"))
    shares = card.metrics.set_index("metric").loc[SHARES]
    return render(
        Path(__file__).with_suffix(".html"),
        title=title,
        card=card,
        verdict=_verdict(card),
        gain=None if card.gain is None else gain_text(card.gain),
        judges=card.real if card.test is None else card.test,
        shares=shares,
        manifold=manifold_uri(shares),
        searches=searches,
        by_class=card.by_class.dropna(axis="columns", how="all").to_dict("records"),
        text_of=format_value,
        interval_of=percent,
        strip_uri=strip_uri,
    )


def _verdict(card: EvaluationCard) -> str:
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


def _search(
    name: str, found: Closeness, control: Closeness | None, references: LabelledImages, role: str, other: str
) -> dict[str, Any]:
    """What the page says of the search for copies among `references`, whose images have a `role`."""
    curves = {
        f"among {role} images": found.own_ratios.numpy(),
        f"{other} images": None if control is None else control.ratios.numpy(),
        "synthetic images": found.ratios.numpy(),
    }
    plot = closeness_uri(curves, threshold=found.threshold, role=role)
    values = {"name": name, "found": found, "control": control, "references": references}
    return {**values, "role": role, "other": other, "plot": plot}
