"""Figures are drawn from what they are given, whole, and the same on every run."""

import hashlib

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffinv.figures.diagrams import method_diagram
from diffinv.figures.image_grids import gallery, image_grid, interpolation_row
from diffinv.figures.plots import (
    accuracy_curve,
    bars,
    claims_forest,
    forest,
    heat_map,
    loss_curves,
    shared_legend,
)
from diffinv.figures.style import COLOURS, save_figure, style

matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield
    plt.close("all")


@pytest.fixture
def summary() -> pd.DataFrame:
    means = [("DI", k, 0.5 + 0.05 * i) for i, k in enumerate((1, 2, 5, 10))]
    means += [("real + DI", k, mean + 0.2) for _, k, mean in means]
    rows = [
        {"condition": name, "images_per_real": k, "mean": m, "low": m - 0.03, "high": m + 0.03}
        for name, k, m in means
    ]
    return pd.DataFrame(rows)


def icons(*shape: int) -> np.ndarray:
    """Images of one colour each, all different, so that a swapped cell is seen."""
    count = int(np.prod(shape))
    flat = np.zeros((count, 8, 8, 3), np.uint8)
    flat[:] = (np.arange(count)[:, None] * np.array([7, 13, 29]) % 256).astype(np.uint8)[:, None, None]
    return flat.reshape(*shape, 8, 8, 3)


def draw_curve(summary: pd.DataFrame):
    fig, ax = plt.subplots()
    accuracy_curve(
        ax, summary, "images_per_real", xlabel="samples per real image", reference={"real": (0.6, 0.5, 0.7)}
    )
    shared_legend(fig, [ax])
    return fig


def digests(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_a_figure_is_saved_in_three_files_with_the_same_bytes_each_time(tmp_path, summary):
    for run in ("first", "second"):
        path = save_figure(draw_curve(summary), "accuracy", summary, tmp_path / run)
        assert path == tmp_path / run / "accuracy.png"
    assert set(digests(tmp_path / "first")) == {"accuracy.png", "accuracy.svg", "accuracy.csv"}
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_the_csv_holds_the_rows_that_were_drawn(tmp_path, summary):
    save_figure(draw_curve(summary), "accuracy", summary, tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "accuracy.csv"), summary)


def test_a_figure_without_data_has_no_csv(tmp_path, summary):
    save_figure(draw_curve(summary), "accuracy", None, tmp_path)
    assert set(digests(tmp_path)) == {"accuracy.png", "accuracy.svg"}


def test_both_images_carry_the_caption_and_the_alt_text(tmp_path, summary):
    words = {"caption": "Accuracy rises \u2013 mean", "alt": "A curve from 20 to 60 %."}
    path = save_figure(draw_curve(summary), "accuracy", None, tmp_path, **words)
    with Image.open(path) as image:
        assert (image.info["Title"], image.info["Description"]) == tuple(words.values())
    assert all(text in path.with_suffix(".svg").read_text(encoding="utf-8") for text in words.values())


@pytest.mark.parametrize("name", ["", "a/b", "../b"])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path, summary, name):
    with pytest.raises(ValueError, match="plain file name"):
        save_figure(draw_curve(summary), name, None, tmp_path)


def test_a_grid_shows_every_image_at_its_row_and_column():
    images = icons(3, 4)
    _, ax = plt.subplots()
    image_grid(ax, images, ["a", "b", "c"], ["1", "2", "3", "4"], split_after=1)
    mosaic = np.asarray(ax.images[0].get_array())
    rows, columns = ax.get_yticks(), ax.get_xticks()
    for row, y in enumerate(rows):
        for column, x in enumerate(columns):
            np.testing.assert_array_equal(mosaic[round(y), round(x)], images[row, column, 0, 0])
    gaps = np.diff(columns)
    assert gaps[0] > gaps[1] == gaps[2], "only the originals are set apart"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]


def test_a_blank_cell_is_white():
    _, ax = plt.subplots()
    image_grid(ax, [[icons(1)[0], None]])
    assert (np.asarray(ax.images[0].get_array())[:, -8:] == 255).all()


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ([], []),
        ([[icons(1)[0]], []], []),
        ([[np.zeros((8, 8, 3)), np.zeros((4, 4, 3))]], []),
        (icons(2, 2), ["one"]),
    ],
    ids=["nothing", "ragged", "two sizes", "a label short"],
)
def test_a_grid_that_does_not_fit_is_refused(rows, labels):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="image_grid"):
        image_grid(ax, rows, labels)


def test_curves_carry_the_means_and_the_intervals_beside_each_other(summary):
    fig = draw_curve(summary)
    ax = fig.axes[0]
    drawn = {container.get_label(): container for container in ax.containers}
    assert set(drawn) == {"DI", "real + DI"} and ax.lines[0].get_label() == "real"
    for name, rows in summary.groupby("condition"):
        line, _, (bars_of,) = drawn[name].lines
        np.testing.assert_allclose(line.get_ydata().astype(float), 100 * rows["mean"])
        np.testing.assert_allclose(line.get_xdata().astype(float), rows["images_per_real"], rtol=0.05)
        ends = np.array([np.asarray(segment)[:, 1] for segment in bars_of.get_segments()], float)
        np.testing.assert_allclose(ends, 100 * rows[["low", "high"]])
        assert line.get_color() == COLOURS[name]
    assert (drawn["DI"].lines[0].get_xdata() != drawn["real + DI"].lines[0].get_xdata()).all()
    assert list(ax.get_xticks()) == [1, 2, 5, 10]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["real", "DI", "real + DI"]


def test_each_seed_is_a_dot_beside_its_mean(summary):
    rows = pd.concat([summary.assign(seed=seed, accuracy=summary["mean"] + 0.01 * seed) for seed in (0, 1)])
    _, ax = plt.subplots()
    accuracy_curve(ax, summary, "images_per_real", xlabel="", rows=rows)
    own = rows[rows["condition"] == "DI"]
    dots = [c.get_offsets() for c in ax.collections if len(c.get_offsets()) == len(own)]
    assert any(np.allclose(found[:, 1], 100 * own["accuracy"]) for found in dots)


def test_claims_stand_one_over_the_other_with_their_verdicts():
    effects = pd.DataFrame({"claim": ["(a) up", "(a) up", "(b) down"], "dataset": ["x", "y", "x"]})
    effects = effects.assign(difference=[0.2, 0.0, -0.2], verdict=["supported", "undecided", "contradicted"])
    effects = effects.assign(low=effects["difference"] - 0.1, high=effects["difference"] + 0.1)
    fig = claims_forest(effects)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes] == ["(a) up", "(b) down"]
    said = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert said == ["supported", "undecided", "contradicted"]


def test_a_heat_map_writes_every_value_that_there_is_and_names_its_groups():
    _, ax = plt.subplots()
    columns = pd.MultiIndex.from_product([["icons", "digits"], ["real", "both"]])
    table = pd.DataFrame([[0, 50, 100, np.nan]], index=["crop"], columns=columns)
    heat_map(ax, table, table.map("{:.0f} %".format), colours="cividis", limits=(0, 100))
    texts = {text.get_text(): text for text in ax.texts}
    assert list(texts) == ["0 %", "50 %", "100 %", "icons", "digits"]
    assert texts["0 %"].get_color() == "white" and texts["100 %"].get_color() == "black"
    assert texts["digits"].get_position()[0] == 2.5
    assert [label.get_text() for label in ax.get_xticklabels()] == ["real", "both"] * 2


def test_a_heat_map_without_groups_names_its_columns_alone():
    _, ax = plt.subplots()
    table = pd.DataFrame([[90.0, 10.0], [np.nan, 100.0]], index=["a", "b"], columns=["c", "d"])
    heat_map(ax, table, table.map("{:.0f}".format), colours="Blues", limits=(0, 100))
    assert [text.get_text() for text in ax.texts] == ["90", "10", "100"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["c", "d"]


def test_intervals_of_a_share_stay_within_what_a_share_can_be(summary):
    _, ax = plt.subplots()
    wide = summary.assign(low=-0.5, high=1.5)
    accuracy_curve(ax, wide, "images_per_real", xlabel="", bounds=(0, 1), reference={"real": (0.6, -1, 2)})
    ends = [segment[:, 1] for c in ax.containers for segment in c.lines[2][0].get_segments()]
    assert {tuple(end) for end in ends} == {(0, 100)}
    assert (ax.patches[0].get_y(), ax.patches[0].get_height()) == (0, 100)


def test_bars_show_means_and_intervals(summary):
    rows = summary.groupby("condition", sort=False).first().reset_index()
    _, ax = plt.subplots()
    bars(ax, rows, reference="real + DI")
    np.testing.assert_allclose([patch.get_width() for patch in ax.patches], 100 * rows["mean"])
    assert [text.get_text() for text in ax.texts] == [f"{100 * mean:.0f}" for mean in rows["mean"]]
    line = ax.lines[-1].get_xdata()
    assert line[0] == line[1] == 100 * rows.set_index("condition").loc["real + DI", "mean"]


def test_effects_clear_of_zero_stand_out():
    effects = pd.DataFrame({"claim": ["up", "open", "down"], "difference": [0.2, 0.0, -0.2]})
    effects = effects.assign(low=effects["difference"] - 0.1, high=effects["difference"] + 0.1)
    effects["verdict"] = ["supported", "undecided", "contradicted"]
    _, ax = plt.subplots()
    forest(ax, effects, "claim", xlabel="effect (points)")
    spans = [line for line in ax.lines if line.get_marker() == "None" and len(set(line.get_xdata())) == 2]
    np.testing.assert_allclose([line.get_xdata() for line in spans], [[10, 30], [-10, 10], [-30, -10]])
    assert len({line.get_color() for line in spans}) == 3


@pytest.mark.parametrize("draw", [bars, lambda ax, rows: forest(ax, rows, "condition", xlabel="points")])
def test_rows_are_named_and_read_from_the_top(summary, draw):
    rows = summary.groupby("condition", sort=False).first().reset_index()
    _, ax = plt.subplots()
    draw(ax, rows.assign(difference=rows["mean"], verdict="undecided"))
    assert dict(zip(ax.get_yticks(), (tick.get_text() for tick in ax.get_yticklabels()), strict=True)) == {
        0: "DI",
        1: "real + DI",
    }
    bottom, top = ax.get_ylim()
    assert bottom > 1 and top < 0


def test_loss_curves_draw_each_image_their_mean_and_the_levels():
    losses = np.array([[3.0, 1.0], [2.0, 0.0]])
    _, ax = plt.subplots()
    loss_curves(ax, losses, {"empty prompt": 2.5, "class prompt": 2.49}, updates=[10, 20])
    assert [list(line.get_ydata()) for line in ax.lines] == [[3, 2], [1, 0], [2, 1], [2.5] * 2, [2.49] * 2]
    names = {text.get_text(): text.xy[1] for text in ax.texts}
    assert set(names) == {"mean of the images", "empty prompt", "class prompt"}
    assert names["empty prompt"] > names["class prompt"] + 0.1, "names do not lie on each other"


def test_a_heading_stands_over_its_columns():
    cell = np.zeros((8, 8, 3), np.uint8)
    _, ax = plt.subplots()
    image_grid(ax, [[cell, cell, cell, None, cell, cell]], column_labels=["real", "a", "", "", "b", ""])
    first, second, third = ax.get_xticks()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["real", "a", "b"]
    assert (first, second, third) == (3.5, (9 + 18 + 7) / 2, (36 + 45 + 7) / 2)


def drawings() -> dict:
    fig, ax = plt.subplots(figsize=(7.2, 2.6))
    interpolation_row(
        ax, icons(2, 9), [0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1], icons(2, 2), ["umbrella", "star"]
    )
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3, 5, 32))
    latents = random.normal(size=(2, 4, 8, 8))
    diagram = method_diagram(
        image=icons(1)[0],
        latents=latents[0],
        noisy_latents=latents[1],
        vectors=vectors[0],
        partner=vectors[1],
        perturbed=vectors[2],
        trajectory=icons(5),
        samples=icons(3),
        label="umbrella",
    )
    names = ("icons10", "novel10", "mnist5k", "mine")
    shown = gallery(
        {n: (icons(4), icons(4, 6)) for n in names}, {n: ["umbrella", "key", "star", "bell"] for n in names}
    )
    return {"interpolation": fig, "diagram": diagram, "gallery": shown}


@pytest.mark.parametrize("name", ["interpolation", "diagram", "gallery"])
def test_no_text_is_clipped(name):
    fig = drawings()[name]
    fig.canvas.draw()
    page = fig.bbox
    texts = [text for text in fig.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    assert texts
    for text in texts:
        box = text.get_window_extent()
        inside = (
            box.x0 >= page.x0 - 1
            and box.x1 <= page.x1 + 1
            and box.y0 >= page.y0 - 1
            and box.y1 <= page.y1 + 1
        )
        assert inside, f"{text.get_text()!r} leaves the page"
