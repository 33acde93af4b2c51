"""Sets of several methods against one real set: the card's own numbers, for each seed."""

from dataclasses import replace

import numpy as np
import pytest
from test_card import Colours, draw

from diffinv.evaluation.card import evaluation_card
from diffinv.evaluation.comparison import BETTER, fidelity_notes, fidelity_rows


@pytest.fixture(scope="module")
def real():
    return draw(240, seed=0, prefix="train")


def test_each_seed_has_the_numbers_of_its_own_card(real):
    sets = {"a": {0: draw(60, seed=3), 1: draw(60, seed=4)}, "b": {0: draw(60, seed=5, spread=5)}}
    rows = fidelity_rows(real, sets, clip=Colours())
    assert len(rows) == 3 * len(BETTER)
    values = rows.set_index(["condition", "seed", "metric"])["value"]
    for name, of_seed in sets.items():
        for seed, images in of_seed.items():
            card = evaluation_card(real, images, clip=Colours(), progress=False)
            assert values[name, seed].to_dict() == pytest.approx({metric: card[metric] for metric in BETTER})
    assert values["b", 0, "recall"] < values["a", 0, "recall"], "less spread reaches fewer real images"


def test_real_images_score_better_than_others(real):
    grey = draw(60, seed=6)
    grey = replace(grey, images=np.full_like(grey.images, 20) + grey.images // 8)
    rows = fidelity_rows(real, {"real": {0: draw(60, seed=7)}, "grey": {0: grey}}, clip=Colours())
    values = rows.set_index(["condition", "metric"])["value"]
    assert values["real", "Fréchet distance"] < values["grey", "Fréchet distance"]
    assert values["real", "coverage"] > values["grey", "coverage"] == 0


def test_unequal_sets_are_refused_and_small_ones_have_no_frechet_distance(real):
    with pytest.raises(ValueError, match=r"same number of images, not a \[60\], b \[48, 60\]"):
        sets = {"a": {0: draw(60, seed=3)}, "b": {0: draw(60, seed=3), 1: draw(48, seed=3)}}
        fidelity_rows(real, sets, clip=Colours())
    rows = fidelity_rows(real, {"a": {0: draw(12, seed=3)}}, clip=Colours())
    assert rows.set_index("metric")["value"].isna().to_dict() == {
        metric: metric == "Fréchet distance" for metric in BETTER
    }
    assert any("12 numbers need 13 images" in note for note in fidelity_notes(240, 12, 12))
    assert len(fidelity_notes(240, 13, 12)) == 1
