"""The evaluation card finds what was planted in a set and says what it cannot; its page stands alone."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from diffinv.artefacts.writing import write_json
from diffinv.classifiers.training import Training, train_classifier
from diffinv.datasets import LabelledImages
from diffinv.evaluation.card import card_record, card_text, evaluation_card
from diffinv.evaluation.page import evaluation_page, write_page
from diffinv.foundation.text import percent
from diffinv.metrics.distances import diversity, frechet_distance, gaussian_distance, kernel_distance
from diffinv.metrics.manifolds import manifolds
from diffinv.studies.grid import accuracy_scores

SHARES = ["precision", "recall", "density", "coverage"]
TRAINING = Training(architecture="resnet8_narrow", optimiser_steps=3, batch_size=8, warmup_steps=1)


class Colours:
    """Stands in for CLIP: the mean colour of each quarter of an image, 12 numbers."""

    name = "colours"

    def image_features(self, images):
        halves = images.shape[1] // 2
        quarters = images.reshape(len(images), 2, halves, 2, halves, 3).mean(axis=(2, 4))
        return torch.from_numpy(quarters.reshape(len(images), -1) / 255).float()


def draw(count, seed, *, names=("red", "green", "blue"), spread=40, prefix="image", sources=None):
    """Images of 8 px in the colour of their class, with noise of their own in each quarter."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(names)
    quarters = 90 + 60 * np.eye(3)[labels][:, None, None] + random.normal(0, spread, (count, 2, 2, 3))
    pixels = quarters.repeat(4, axis=1).repeat(4, axis=2)
    return LabelledImages(
        images=pixels.clip(0, 255).astype(np.uint8),
        labels=labels,
        class_names=names,
        ids=tuple(f"{prefix}/{index}" for index in range(count)),
        sources=sources,
    )


@pytest.fixture(scope="module")
def real():
    return draw(240, seed=0, prefix="train")


@pytest.fixture(scope="module")
def test_set():
    return draw(120, seed=1, prefix="test")


@pytest.fixture(scope="module")
def synthetic(real, test_set):
    """150 samples of 75 originals; the first 12 repeat training images, the next 6 test images."""
    sources = tuple(real.ids[index % 75] for index in range(150))
    made = draw(150, seed=2, prefix="sample", sources=sources)
    images = made.images.copy()
    images[:12], images[12:18] = real.images[:12], test_set.images[12:18]
    return replace(made, images=images)


@pytest.fixture(scope="module")
def card(real, synthetic, test_set):
    return evaluation_card(real, synthetic, test=test_set, clip=Colours())


def test_the_metrics_are_those_of_the_metrics_room(card, real, synthetic, test_set):
    ours, fakes, tests = (Colours().image_features(part.images) for part in (real, synthetic, test_set))
    table = card.metrics.set_index("metric")
    assert table.loc[SHARES, "synthetic"].to_dict() == pytest.approx(manifolds(ours, fakes).values())
    assert table.loc[SHARES, "real"].to_dict() == pytest.approx(manifolds(ours, tests).values())
    assert card["Fréchet distance"] == pytest.approx(frechet_distance(ours, fakes))
    assert table.at["Fréchet distance", "real"] == pytest.approx(frechet_distance(ours, tests))
    assert card["diversity within originals"] == pytest.approx(diversity(fakes, synthetic.sources))
    assert math.isnan(card["accuracy"]) and "No classifier was trained" in " ".join(card.notes)


def test_the_frechet_distance_is_that_of_torchmetrics(card, real, synthetic):
    fid = pytest.importorskip("torchmetrics.image.fid")
    features = [Colours().image_features(part.images).double() for part in (real, synthetic)]
    moments = [moment for part in features for moment in (part.mean(0), part.T.cov())]
    assert card["Fréchet distance"] == pytest.approx(fid._compute_fid(*moments).item(), rel=1e-5)


def test_few_images_have_kernel_distances_and_copies_are_not_authentic(card, real, synthetic, test_set):
    ours, fakes, tests = (Colours().image_features(part.images) for part in (real, synthetic, test_set))
    table = card.metrics.set_index("metric")
    assert card["KID"] == pytest.approx(1000 * kernel_distance(ours, fakes))
    assert table.at["CMMD", "real"] == pytest.approx(gaussian_distance(ours, tests))
    few = evaluation_card(real, draw(6, seed=4), test=test_set, clip=Colours())
    assert math.isnan(few["Fréchet distance"]) and all(math.isfinite(few[name]) for name in ("KID", "CMMD"))
    copied = evaluation_card(
        real, replace(real, ids=tuple(f"copy/{name}" for name in real.ids)), clip=Colours()
    )
    assert copied["authenticity"] == 0 < 0.3 < table.at["authenticity", "real"] < 0.9
    rows = card.by_class
    whole = np.average(rows["authenticity"], weights=rows["synthetic images"])
    assert whole == pytest.approx(card["authenticity"])


def test_planted_copies_and_leaks_are_found(card):
    assert card.copies.is_close[:12].all() and card.leaks.is_close[12:18].all()
    assert card["copies"] == pytest.approx(12 / 150, abs=0.03)
    assert card["leaks"] == pytest.approx(6 / 150, abs=0.03)
    table = card.metrics.set_index("metric")["real"]
    assert table["copies"] < 0.04 and table["leaks"] < 0.04  # honest images stay near the quantile
    record = card_record(card)
    assert {pair["image"] for pair in record["copies"]["closest"][:12]} == {
        f"sample/{index}" for index in range(12)
    }
    first = record["copies"]["closest"][0]
    assert first["nearest"] == first["image"].replace("sample", "train") and first["ratio"] == 0


def test_rows_of_classes_add_up_to_the_whole(card):
    rows = card.by_class
    assert list(rows["class"]) == ["red", "green", "blue"]
    for metric, count in (
        ("precision", "synthetic images"),
        ("density", "synthetic images"),
        ("copies", "synthetic images"),
        ("leaks", "synthetic images"),
        ("recall", "real images"),
        ("coverage", "real images"),
    ):
        assert np.average(rows[metric], weights=rows[count]) == pytest.approx(card[metric])
    assert rows["diversity between originals"].mean() == pytest.approx(card["diversity between originals"])


def test_a_set_that_collapsed_has_no_recall_and_no_variety(real, test_set):
    collapsed = draw(150, seed=3, spread=0.5)
    found = evaluation_card(real, collapsed, test=test_set, clip=Colours())
    honest = found.metrics.set_index("metric")["real"]
    assert found["recall"] < 0.1 < honest["recall"] and found["coverage"] < 0.8 * honest["coverage"]
    assert found["diversity between originals"] < 0.1 * honest["diversity between originals"]


def test_too_few_images_for_a_frechet_distance_are_said_with_the_number_needed(real, test_set):
    few = evaluation_card(real, draw(12, seed=4), test=test_set, clip=Colours())
    assert math.isnan(few["Fréchet distance"])
    assert "need at least 13 images on each side, and there are 240 real and 12 synthetic" in few.notes[0]
    enough = evaluation_card(real, draw(13, seed=4), test=draw(9, seed=5), clip=Colours())
    assert enough["Fréchet distance"] > 0
    assert "no Fréchet distance of the test images" in enough.notes[0]
    assert any("of 9 test images is less than one" in note for note in enough.notes)


def test_what_is_missing_is_said(real):
    red_and_green = draw(60, seed=4).subset([index for index in range(60) if index % 3 < 2])
    found = evaluation_card(real, red_and_green, clip=Colours())
    assert found.leaks is None and math.isnan(found["leaks"])
    words = " ".join(found.notes)
    assert "no synthetic image of blue" in words and "leaks were not looked for" in words
    assert math.isnan(found.by_class.set_index("class").at["blue", "precision"])
    assert math.isnan(found["diversity within originals"]) and "no diversity within originals" in words


def test_accuracy_is_that_of_classifiers_trained_on_the_set(real, synthetic, test_set, tmp_path):
    options = {"test": test_set, "clip": Colours(), "training": TRAINING, "cache_dir": tmp_path}
    found = evaluation_card(real, synthetic, against_real=True, **options)
    by_hand = {
        name: [train_classifier(part, TRAINING, seed=seed).accuracy(test_set) for seed in (0, 1, 2)]
        for name, part in (("synthetic", synthetic), ("real", real))
    }
    plain = found.accuracies[found.accuracies["measure"] == "accuracy"]
    for row in plain.itertuples():
        assert row.mean == pytest.approx(np.mean(by_hand[row.condition]))
        assert row.n == 3 and row.low <= row.mean <= row.high
    difference = np.mean(by_hand["synthetic"]) - np.mean(by_hand["real"])
    assert found.gain.iloc[0]["difference"] == pytest.approx(difference)
    assert found["accuracy"] == pytest.approx(np.mean(by_hand["synthetic"]))
    counts = list(test_set.class_counts().values())
    assert np.average(found.by_class["accuracy"], weights=counts) == pytest.approx(found["accuracy"])
    assert found["balanced accuracy"] == pytest.approx(found.by_class["accuracy"].mean())
    assert f"{found['accuracy']:.1%}" in card_text(found) and "points" in card_text(found)
    assert max(map(len, card_text(found).splitlines())) <= 80
    assert f"would be right for {max(counts) / sum(counts):.1%}" in card_text(found)
    page = Page(evaluation_page(found, title="any")).words
    for row in found.accuracies.itertuples():
        assert percent(row.mean, row.low, row.high) in page and percent(
            row.mean, row.low, row.high
        ) in card_text(found)


def test_a_training_is_done_once_and_again_if_its_record_is_damaged(
    synthetic, test_set, tmp_path, monkeypatch
):
    options = {"test": test_set, "training": TRAINING, "cache_dir": tmp_path, "progress": False}
    first = accuracy_scores({"a": synthetic}, **options)
    trained = []

    def counted(*arguments, **more):
        trained.append(more["seed"])
        return train_classifier(*arguments, **more)

    monkeypatch.setattr("diffinv.studies.grid.train_classifier", counted)
    pd.testing.assert_frame_equal(accuracy_scores({"a": synthetic}, **options), first)
    assert trained == []
    next((tmp_path / "accuracy_scores").glob("*.json")).write_text("{")
    pd.testing.assert_frame_equal(accuracy_scores({"a": synthetic}, **options), first)
    assert len(trained) == 1


def test_the_record_is_plain_json(card, tmp_path):
    write_json(tmp_path / "card.json", card_record(card))
    # Python writes NaN, which other readers of JSON refuse.
    record = json.loads((tmp_path / "card.json").read_text(), parse_constant=pytest.fail)
    by_name = {row["metric"]: row for row in record["metrics"]}
    assert by_name["accuracy"]["synthetic"] is None
    assert by_name["recall"]["synthetic"] == card["recall"]
    assert record["images"]["test"]["count"] == 120 and record["settings"]["clip"] == "colours"
    assert record["notes"] == list(card.notes)


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.open, self.words = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[name] for name in ("src", "srcset", "href") if name in attributes]
        if tag not in ("img", "source", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_page_stands_alone_and_says_what_the_card_says(card, tmp_path):
    write_page(card, tmp_path / "card.html", title="samples <of> colours")
    text = (tmp_path / "card.html").read_text()
    page = Page(text)
    assert page.open == []  # every element is closed
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"@import|url\(|<script|https?:", text)
    assert page.images and all(image["alt"] for image in page.images)
    assert "prefers-color-scheme: dark" in text and "samples <of> colours" in page.words
    for row in card.metrics.itertuples():
        assert row.metric in page.words and row.meaning in page.words
    for note in card.notes:
        assert note in page.words
    assert f"{card['copies']:.1%} of the synthetic images are as near to a training image" in page.words
    assert text.count('class="pair close"') >= 8 + 6  # the copies that fit, and the leaks


def test_names_that_look_like_markup_are_shown_as_they_are(card):
    names = ('<script>alert("red")</script>', "green' onload='alert()", "blue & {{ 7 * 7 }}")

    def renamed(images):
        return replace(images, class_names=names, ids=tuple(f'"><b>{name}' for name in images.ids))

    hostile = replace(
        card,
        real=renamed(card.real),
        synthetic=renamed(card.synthetic),
        test=renamed(card.test),
        by_class=card.by_class.assign(**{"class": names}),
        notes=("a note </ul><script>",),
    )
    text = evaluation_page(hostile, title="</title><script>")
    page = Page(text)
    assert page.open == [] and not re.search("<script|<b>", text)
    assert all(set(image) == {"src", "alt"} for image in page.images)
    assert all(word in page.words for word in (*names, "</title><script>", "a note </ul><script>"))
    assert any(names[0] in image["alt"] for image in page.images)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.05, "are more accurate than those trained on the real ones"),
        (-0.05, -0.01, "are less accurate than those trained on the real ones"),
        (-0.01, 0.05, "cannot be told apart in accuracy from those trained on the real ones"),
        (0.0, 0.0, "cannot be told apart in accuracy from those trained on the real ones"),
    ],
)
def test_the_verdict_on_accuracy_goes_no_further_than_its_interval(card, low, high, words):
    gain = pd.DataFrame([{"difference": (low + high) / 2, "low": low, "high": high}])
    words_of_page = Page(evaluation_page(replace(card, gain=gain), title="any")).words
    assert words in words_of_page and f"from {100 * low:+.1f} to {100 * high:+.1f}" in words_of_page


def test_the_verdict_without_accuracies_compares_with_test_images(card):
    words = Page(evaluation_page(card, title="any")).words
    honest = card.metrics.set_index("metric")["real"]
    assert f"{card['precision']:.1%} of the synthetic images lie among training images, and " in words
    assert f"the shares are {honest['precision']:.1%} and {honest['recall']:.1%}." in words
    on_a_terminal = " ".join(card_text(card).split())
    assert on_a_terminal.startswith(
        f"{card['precision']:.1%} of the synthetic images lie among training images"
    )


def test_a_page_without_test_images_and_of_large_images(real):
    large = draw(30, seed=6).resize(256)
    found = evaluation_card(real.resize(256), large, clip=Colours())
    text = evaluation_page(found, title="large")
    assert "Leaks:" not in text and len(text) < 2_000_000
    assert "there are no test images to compare this with" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"synthetic": draw(9, seed=0, names=("red", "green", "grey"))},
            "synthetic images have different cl",
        ),
        ({"test": draw(9, seed=0).resize(16)}, "8 px and the test ones 16 px"),
        ({"synthetic": draw(5, seed=0)}, "only 5 synthetic images, and each needs 5 neighbours"),
        ({"test": draw(3, seed=0)}, "only 3 test images"),
        ({"quantile": 0.0}, "quantile is 0.0"),
        ({"k": 0}, "0 neighbours"),
        ({"test": None, "training": TRAINING, "against_real": True}, "give test images too"),
        ({"training": TRAINING, "seeds": (0, 1)}, "at least 3 different ones"),
        ({"training": TRAINING, "seeds": (0, 1, 1)}, "at least 3 different ones"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_sentence(real, change, words):
    arguments = {"synthetic": draw(30, seed=1), "test": draw(30, seed=2), "clip": Colours(), **change}
    with pytest.raises(ValueError, match=words) as error:
        evaluation_card(real, **arguments)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_the_benchmark_measures_a_whole_card(tmp_path, capsys):
    from benchmarks import evaluation_card as benchmark

    small = ["--images", "60", "--test-images", "30", "--width", "8", "--resolution", "8", "--skip-clip"]
    assert benchmark.main([*small, "--output", str(tmp_path / "card.json")]) == 0
    measured = json.loads((tmp_path / "card.json").read_text())["measurements"][0]
    assert (measured["num_real"], measured["num_test"], measured["width"]) == (60, 30, 8)
    assert measured["seconds"] > 0 and measured["peak_mib"] > 1
    assert f"{measured['seconds']:.1f}" in capsys.readouterr().out
