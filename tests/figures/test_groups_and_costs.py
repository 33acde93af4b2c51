"""Points by group, and what something costs against what it loses: every number stands where it belongs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from diffinv.figures.plots import cost_against_loss, grouped_points
from diffinv.figures.style import style


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield
    plt.close("all")


def test_points_stand_side_by_side_in_the_place_of_their_group():
    names = [(net, kind) for net in ("vgg", "vit") for kind in ("real", "DI", "real + DI")]
    summary = pd.DataFrame(names, columns=["architecture", "condition"])
    summary["mean"] = [0.3, 0.4, 0.5, 0.15, 0.2, 0.85]
    summary["low"], summary["high"] = summary["mean"] - 0.12, summary["mean"] + 0.12
    _, ax = plt.subplots()
    grouped_points(ax, summary, "architecture", ["vgg", "vit", "resnet"])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["vgg", "vit", "resnet"]
    places = np.array([bars[0].get_xdata()[:2] for bars in ax.containers]).T
    means = np.array([bars[0].get_ydata()[:2] for bars in ax.containers]).T
    assert means.tolist() == [[30, 40, 50], [15, 20, 85]]
    assert (np.diff(places, axis=1) > 0.1).all() and (np.round(places[:, 1]) == [0, 1]).all()
    drawn = np.concatenate([part for bars in ax.containers for part in bars[2][0].get_segments()[:2]])
    assert (drawn[:, 1].min(), drawn[:, 1].max()) == pytest.approx((3, 97)), "in per cent"


def test_the_reference_is_open_and_the_goal_and_the_margin_are_marked():
    table = pd.DataFrame(
        {
            "condition": ["float32", "int8"],
            "bytes_per_image": [8192, 2080],
            "difference": [0, -0.004],
            "low": [0, -0.02],
            "high": [0, 0.012],
            "verdict": ["reference", "undecided"],
        }
    )
    _, ax = plt.subplots()
    cost_against_loss(ax, table, "bytes_per_image", xlabel="bytes", margin=0.01, goal=819.2)
    assert ax.get_legend_handles_labels()[1] == ["float32 (reference)", "int8 (undecided)"]
    reference, other = (bars[0] for bars in ax.containers)
    assert reference.get_markerfacecolor() == "white" != other.get_markerfacecolor()
    assert (other.get_xdata()[0], other.get_ydata()[0]) == (2080, pytest.approx(-0.4))
    np.testing.assert_allclose(ax.containers[1][2][0].get_segments()[0][:, 1], [-2, 1.2])
    assert 819.2 in [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    (band,) = (p for p in ax.patches)
    assert (band.get_y(), band.get_height()) == (-1, 2)
