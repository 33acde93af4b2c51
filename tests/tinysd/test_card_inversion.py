"""The card's inversion test, on the shipped generator and a few images: what it measures, writes and says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffinv.datasets import load_dataset
from diffinv.method.cached import invert
from diffinv.method.held_out_loss import held_out_loss
from diffinv.method.inversion import initial_embeddings
from diffinv.models.checkpoint import EMBEDDED
from diffinv.models.clip import load_clip
from diffinv.models.diffusion import load_diffusion
from diffinv.tinysd.card.inversion import (
    QUICK,
    InversionTest,
    choose_unseen,
    first_of_each_class,
    judge_likeness,
    ship_inversion,
)
from diffinv.tinysd.card.inversion_report import AUTOENCODER, EMPTY_PROMPT, LEARNED, section, summary


@pytest.fixture(scope="module")
def diffusion():
    return load_diffusion(device="cpu")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> tuple[Path, str]:
    """A folder of the shipped weights to which the quick test has written, and its section."""
    folder = tmp_path_factory.mktemp("tinysd")
    for part in EMBEDDED.iterdir():
        if part.is_dir() or part.name == "model_index.json":
            (folder / part.name).symlink_to(part)
    return folder, ship_inversion(folder, QUICK)


@pytest.fixture(scope="module")
def rows(shipped) -> pd.DataFrame:
    return pd.read_csv(shipped[0] / "inversion.csv")


def test_it_looks_at_the_first_image_of_each_class_of_the_training_split():
    data = load_dataset("icons10", split="train")
    chosen = first_of_each_class(data, 12)
    assert chosen.labels.tolist() == [*range(10), 0, 1]
    for image_id, label in zip(chosen.ids[:10], chosen.labels[:10], strict=True):
        assert image_id == data.ids[data.labels.tolist().index(label)]
    unseen = choose_unseen(QUICK)
    assert unseen.datasets == ["icons10"] * 2 + ["mnist5k"] * 2
    assert all(image_id.split("/")[1] == "train" for image_id in unseen.real.ids)
    for name, candidates in unseen.candidates.items():
        np.testing.assert_array_equal(unseen.real.images[unseen.rows_of(name)], candidates.images[:2])


def test_every_image_is_measured_in_every_condition(rows):
    settings = QUICK
    images = settings.images_per_dataset * len(settings.datasets)
    learned = rows[rows["condition"] == LEARNED]
    counts = learned.groupby(["num_tokens", "updates"]).size()
    assert counts.index.tolist() == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert (counts == images).all()
    assert len(rows) == len(learned) + 2 * images
    assert rows.loc[rows["condition"] != AUTOENCODER, "loss"].notna().all()
    assert rows.loc[rows["condition"] != EMPTY_PROMPT, "clip_to_own"].between(-1, 1 + 1e-6).all()


def test_losses_are_those_of_the_same_noise_before_during_and_after(rows, diffusion):
    unseen, draws = choose_unseen(QUICK), QUICK.held_out_draws

    def measured(**wanted) -> np.ndarray:
        return rows[(rows[list(wanted)] == list(wanted.values())).all(axis=1)]["loss"].to_numpy()

    empty = held_out_loss(diffusion, unseen.real, diffusion.encode_prompt([""]), draws=draws)
    np.testing.assert_allclose(measured(condition=EMPTY_PROMPT), empty, rtol=1e-4)
    # One run that passes through the numbers of updates equals runs that end there.
    shorter = replace(QUICK.inversion, num_tokens=2, steps_per_image=1)
    vectors = {
        0: initial_embeddings(diffusion, unseen.real, shorter),
        1: invert(diffusion, unseen.real, shorter, progress=False).embeddings,
    }
    for updates, then in vectors.items():
        expected = held_out_loss(diffusion, unseen.real, then, draws=draws)
        np.testing.assert_allclose(measured(num_tokens=2, updates=updates), expected, rtol=1e-4)


def test_an_original_is_its_own_nearest_and_another_one_is_not():
    unseen, clip = choose_unseen(QUICK), load_clip(device="cpu")
    own = judge_likeness(clip, unseen)(unseen.real.images)
    np.testing.assert_allclose(own["clip_to_own"], 1, atol=1e-5)
    assert (own["clip_to_others"] < 1 - 1e-3).all()
    assert (own["nearest_by_clip_is_own"] == 1).all() and (own["nearest_by_pixels_is_own"] == 1).all()
    swapped = judge_likeness(clip, unseen)(unseen.real.images[[1, 0, 3, 2]])
    assert not swapped["nearest_by_clip_is_own"].any() and not swapped["nearest_by_pixels_is_own"].any()


def test_it_ships_figures_with_their_rows_and_a_section_of_whole_tables(shipped):
    folder, text = shipped
    for name in ("inversion", "inversion_samples"):
        for suffix in ("png", "svg", "csv"):
            assert (folder / f"{name}.{suffix}").stat().st_size > 500
        assert f"({name}.png)" in text
    assert [entry["dataset"] for entry in json.loads((folder / "inversion.json").read_text())] == [
        *QUICK.datasets
    ]
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [2 + len(QUICK.datasets), 2 + len(QUICK.tokens_grid)]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    assert "nan" not in text


def made_up(to_own: float, to_others: float) -> pd.DataFrame:
    """Five images of one dataset, whose samples are as near as said, give or take a little."""
    at = {"dataset": "icons10", "image": [f"{number}" for number in range(5)], "nearest_by_clip_is_own": 1.0}
    at |= {"nearest_by_pixels_is_own": 0.5, "clip_to_others": to_others}
    wobble = to_own + np.linspace(-0.05, 0.05, 5)
    parts = [
        pd.DataFrame({**at, "condition": EMPTY_PROMPT, "loss": 0.2}),
        pd.DataFrame({**at, "condition": AUTOENCODER, "clip_to_own": 0.99}),
        *(
            pd.DataFrame(
                {**at, "condition": LEARNED, "num_tokens": 4, "updates": updates, "loss": 0.3 - updates / 100}
                | {"clip_to_own": wobble}
            )
            for updates in (0, 20)
        ),
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("to_own", "to_others", "word", "said"),
    [
        (0.9, 0.5, "supported", "Samples resemble their originals on icons10."),
        (0.52, 0.5, "undecided", "That they do is not shown on icons10 (undecided)."),
        (0.3, 0.5, "contradicted", "That they do is not shown on icons10 (contradicted)."),
    ],
)
def test_the_section_says_what_the_rows_say(to_own, to_others, word, said):
    rows = made_up(to_own, to_others)
    table = summary(rows, 4)
    (entry,) = table.to_dict("records")
    assert entry["verdict"] == word and entry["images"] == 5
    assert entry["resemblance"] == pytest.approx(to_own - to_others)
    assert (entry["loss_empty_prompt"], entry["loss_after_0"]) == pytest.approx((0.2, 0.3))
    text = section(rows, table, {"icons10": 50}, 4, 0.1)
    assert said in text and "| 0.2000 | 0.3000 | 0.1000 |" in text and "| 2% |" in text


def test_samples_of_a_number_of_vectors_that_is_not_tried_cannot_be_shown():
    with pytest.raises(ValueError, match=r"shown_tokens is 3: choose one of tokens_grid, \(1, 2\)"):
        InversionTest(tokens_grid=(1, 2), shown_tokens=3)
