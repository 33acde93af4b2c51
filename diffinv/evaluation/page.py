"""The page of an evaluation card: one HTML file with its figures inside, on light or dark ground."""

from pathlib import Path
from typing import Any

from diffinv.artefacts.pages import render
from diffinv.artefacts.writing import write_whole
from diffinv.datasets import LabelledImages
from diffinv.evaluation.card import EvaluationCard, format_value, gain_text, majority_share, verdict
from diffinv.figures.evaluation import closeness_uri, manifold_uri, strip_uri
from diffinv.foundation.text import percent
from diffinv.metrics.copies import Closeness

SHARES = ["precision", "recall", "density", "coverage"]


def write_page(card: EvaluationCard, path: str | Path, *, title: str) -> None:
    """Write the card as one self-contained HTML file."""
    write_whole(path, evaluation_page(card, title=title))


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
        verdict=verdict(card),
        gain=None if card.gain is None else gain_text(card.gain),
        majority=majority_share(card),
        shares=shares,
        manifold=manifold_uri(shares),
        searches=searches,
        by_class=card.by_class.dropna(axis="columns", how="all").to_dict("records"),
        text_of=format_value,
        interval_of=percent,
        strip_uri=strip_uri,
    )


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
