"""Icons as another set might have drawn them."""

import numpy as np
import pytest

from diffinv.tinysd.training.shape_variation import BOLDER, HOLLOW, THINNER, vary_shapes

MANY, SIDE = 2000, 32


@pytest.fixture(scope="module")
def squares() -> np.ndarray:
    """A filled square of 16 px in the middle of each mask."""
    masks = np.zeros((MANY, SIDE, SIDE), np.uint8)
    masks[:, 8:24, 8:24] = 255
    return masks


@pytest.fixture(scope="module")
def varied(squares) -> np.ndarray:
    return vary_shapes(squares, np.random.default_rng(0))


def test_the_generator_alone_decides(squares, varied):
    assert varied.dtype == np.uint8 and varied.shape == squares.shape
    np.testing.assert_array_equal(varied, vary_shapes(squares, np.random.default_rng(0)))
    assert (varied != vary_shapes(squares, np.random.default_rng(1))).any()
    assert not squares[:, 0].any(), "the corpus's own masks are left as they were"


def test_some_icons_are_hollow_and_few_stay_as_they_were(squares, varied):
    hollow = (varied[:, SIDE // 2, SIDE // 2] < 64).mean()
    assert hollow == pytest.approx(HOLLOW, abs=0.03)
    untouched = (np.abs(varied.astype(int) - squares).max((1, 2)) <= 2).mean()
    assert untouched == pytest.approx(0.2 * (1 - BOLDER - THINNER - HOLLOW), abs=0.04)


def test_icons_stay_near_the_middle_and_near_their_size(squares, varied):
    area = varied.reshape(MANY, -1).sum(1) / squares[0].sum()
    filled = varied[:, SIDE // 2, SIDE // 2] > 200
    assert area[filled].min() > 0.4 and area[filled].max() < 2.0
    assert area[filled].min() < 0.7 and area[filled].max() > 1.4
    weights = varied[filled].astype(float)
    places = np.arange(SIDE) - (SIDE - 1) / 2
    for axis in (1, 2):
        centre = (weights.sum(axis) * places).sum(1) / weights.sum((1, 2))
        assert np.abs(centre).max() < 4 and centre.std() > 0.5
    assert not vary_shapes(np.zeros_like(squares[:4]), np.random.default_rng(0)).any()
