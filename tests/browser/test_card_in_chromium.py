"""The page of an evaluation card on a phone."""

import pytest

from diffinv.datasets import load_dataset
from diffinv.evaluation.card import evaluation_card, verdict
from diffinv.evaluation.page import write_page
from diffinv.models.dinov2 import load_features

CUT_OFF = """() => [...document.querySelectorAll('main *')].filter(each => !each.closest('.scroll')
    && each.getBoundingClientRect().right > innerWidth).map(each => each.outerHTML.slice(0, 80))"""
SIDEWAYS = "() => [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"


@pytest.fixture(scope="module")
def card():
    real, other, test = (
        load_dataset("icons10", split=split).per_class(4, seed=seed)
        for split, seed in (("train", 0), ("train", 1), ("test", 0))
    )
    return evaluation_card(real, other, test=test, clip=load_features("tinysd", device="cpu"), k=3)


def test_nothing_of_the_card_is_cut_off_at_390_pixels(chromium, card, tmp_path):
    write_page(card, tmp_path / "card.html", title="these against those")
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto((tmp_path / "card.html").as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(SIDEWAYS) <= 1, (
        "the classes alone are read by scrolling: they have a column a metric"
    )
    assert page.locator(".verdict").inner_text() == verdict(card)
    page.close()
