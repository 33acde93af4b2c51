"""The corpus in colour and `emoji6`, made in miniature of emoji that the test draws; and what has shipped."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffinv.datasets import load_dataset
from diffinv.lessons.profiles import prompt_for
from diffinv.tinysd.corpus import concepts, corpus
from diffinv.tinysd.corpus.captions import COLOURS, luminance
from diffinv.tinysd.corpus.emoji import (
    HELD_OUT_SETS,
    TRAIN_SETS,
    EmojiCorpus,
    brightness,
    build_emoji,
    lay_on,
    reduce_to,
)
from diffinv.tinysd.corpus.emoji_names import KINDS, EmojiNames
from diffinv.tinysd.embedded import emoji6

SHIPPED = Path(__file__).parents[2] / "diffinv" / "assets" / "datasets" / "emoji6"
SPLITS = ("train", "validation", "test")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
CATEGORIES = {
    "Animals & Nature": ["cat-face", "cat", "rose", "beetle", *(f"beast-{number}" for number in NUMBERS)],
    "Food & Drink": [f"fruit-{number}" for number in NUMBERS],
    "Smileys & Emotion": ["angry-face", "red-heart", *(f"face-of-{number}" for number in NUMBERS)],
    "Travel & Places": ["nine-thirty", "sun", "alarm-clock", *(f"ride-{number}" for number in NUMBERS)],
    "Objects": ["crown", *(f"thing-{number}" for number in NUMBERS)],
    "Flags": ["white-flag", *(f"flag-{number}" for number in NUMBERS)],
    "People & Body": ["waving-hand", "waving-hand-dark-skin-tone"],
    "Symbols": ["letter-h"],
}  # fmt: skip
LICENCE_OF = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "fxemoji": "MIT", "openmoji": "CC-BY-SA-4.0"}


def body(*keys: str) -> str:
    """A disc in the middle and three bars in colours, which only these keys have; the corners stay empty."""
    random = np.random.default_rng([ord(letter) for letter in "/".join(keys)])
    bars = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="rgb({r},{g},{b})"/>'
        for (x, y), (w, h), (r, g, b) in zip(
            random.uniform(4, 12, (3, 2)),
            random.uniform(2, 8, (3, 2)),
            random.integers(0, 256, (3, 3)),
            strict=True,
        )
    ]
    return f'<circle cx="12" cy="12" r="{random.uniform(3, 8):.1f}" fill="#fc4"/>' + "".join(bars)


def write_vendors(folder: Path) -> Path:
    """An `@iconify/json` of one vendor to train on, two held out, and one whose licence forbids its use."""
    names = [name for members in CATEGORIES.values() for name in members]
    icons = {vendor: {name: {"body": body(vendor, name)} for name in names} for vendor in LICENCE_OF}
    icons["fxemoji"] = {
        name: {"body": body("fxemoji", name)}
        for name in ("catface", "angry", "fruitone", "thingtwo", "chineseflag", "regionalindicatorb")
    }
    # Drawings that are not their vendor's own, or not to be seen.
    icons["twemoji"]["thing-three"] = icons["noto"]["thing-three"]
    icons["twemoji"]["ride-two"] = icons["twemoji"]["ride-one"]
    icons["noto"]["sun"] = {"body": ""}
    icons["noto"]["thing-four"]["hidden"] = True
    collections = {
        vendor: {
            "name": vendor.title(), "author": {"name": "A. Vendor"}, "license": {"spdx": licence},
            "palette": True, "category": "Emoji",
        }
        for vendor, licence in LICENCE_OF.items()
    }  # fmt: skip
    (folder / "json").mkdir(parents=True)
    (folder / "collections.json").write_text(json.dumps(collections))
    for vendor, drawn in icons.items():
        data = {"icons": drawn, "width": 24, "height": 24, "categories": CATEGORIES}
        if vendor == "fxemoji":
            data["categories"] = {"Flags": ["chineseflag", "regionalindicatorb"]}
        if vendor == "noto":
            data["aliases"] = {"feline": {"parent": "cat"}}
        (folder / "json" / f"{vendor}.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return write_vendors(tmp_path_factory.mktemp("iconify") / "package")


@pytest.fixture(scope="module")
def built(package, tmp_path_factory) -> Path:
    pytest.importorskip("resvg_py", reason="resvg-py, which draws the emoji, is in the pretrain extra")
    return build_emoji(tmp_path_factory.mktemp("corpus"), package=package)


@pytest.fixture(scope="module")
def emoji(built) -> pd.DataFrame:
    return pd.read_parquet(built / "emoji.parquet")


# Names


@pytest.mark.parametrize(
    ("name", "category", "understood"),
    [
        ("cat-face", "", ("cat face", "animal")),
        ("catface", "People", ("cat face", "animal")),
        ("cat-2", "Nature", ("cat", "animal")),
        ("feline", "", ("cat", "animal")),
        ("rose", "Animals & Nature", ("rose", "plant")),
        ("angry", "People", ("angry face", "face")),
        ("sun", "Nature", ("sun", "sky")),
        ("alarm-clock", "Travel & Places", ("alarm clock", "object")),
        ("flag-for-st-lucia", "Flags", ("st lucia flag", "flag")),
        ("flag-for-flag-japan", "Flags", ("japan flag", "flag")),
        ("flag-for-rainbow-flag", "Flags", ("rainbow flag", "flag")),
        ("south-korea", "Flags", ("south korea flag", "flag")),
        ("chineseflag", "Flags", None),
        ("regionalindicatorb", "Flags", None),
        ("nine-thirty", "Travel & Places", None),
        ("red-heart", "Smileys & Emotion", None),
        ("waving-hand", "People & Body", None),
        ("letter-h", "Symbols", None),
        ("beast-one-dark-skin-tone", "Animals & Nature", None),
    ],
)
def test_a_name_is_read_as_words_and_a_kind(package, name, category, understood):
    assert EmojiNames.read(package).parse(name, category) == understood


# The corpus


def test_vendors_are_trained_on_or_held_out_as_a_whole(emoji):
    assert set(TRAIN_SETS).isdisjoint(HELD_OUT_SETS)
    parts = emoji.groupby("icon_set")["part"].unique().map(list).to_dict()
    assert parts == {"noto": ["train"], "twemoji": ["held_out"], "fxemoji": ["held_out"]}
    assert set(emoji["kind"]) == {*KINDS} - {"activity"}


def test_no_trained_emoji_has_a_word_for_novel10(emoji):
    trained, held_out = (emoji[emoji["part"] == part] for part in ("train", "held_out"))
    assert [words for words in trained["words"] if concepts.UNSPOKEN_WORDS & {*words.split()}] == []
    assert {"crown", "beetle"} <= set(held_out["words"])


def test_empty_hidden_and_copied_drawings_are_left_out(emoji):
    has = set(zip(emoji["icon_set"], emoji["name"], strict=True))
    assert ("noto", "sun") not in has and ("twemoji", "sun") in has
    assert ("noto", "thing-four") not in has and ("twemoji", "thing-four") in has
    assert ("twemoji", "thing-three") not in has and ("noto", "thing-three") in has


def test_the_emoji_are_the_same_when_made_again(built, package, tmp_path):
    again = build_emoji(tmp_path, package=package, workers=1)
    assert (again / "emoji.json").read_text() == (built / "emoji.json").read_text()
    facts = json.loads((built / "emoji.json").read_text())
    assert {entry["licence"] for entry in facts["sets"].values()} <= corpus.LICENCES
    assert {name: entry["held_out"] for name, entry in facts["sets"].items()} == {
        "noto": False, "twemoji": True, "fxemoji": True,
    }  # fmt: skip
    pictures = np.load(built / "emoji.npy")
    table = pd.read_parquet(built / "emoji.parquet")
    assert pictures.shape == (len(table), 64, 64, 4) and pictures.dtype == np.uint8


def test_a_package_without_emoji_is_named(package, tmp_path):
    with pytest.raises(ValueError, match=r"noto.json is missing: unpack the whole @iconify/json"):
        build_emoji(tmp_path, package=_without(package, tmp_path / "none", "noto"))
    with pytest.raises(ValueError, match=r"lacks the emoji to train on: unpack the whole"):
        build_emoji(tmp_path, package=_without(package, tmp_path / "few", "twemoji", "fxemoji"))


def _without(package: Path, folder: Path, *vendors: str) -> Path:
    (folder / "json").mkdir(parents=True)
    entries = json.loads((package / "collections.json").read_text())
    for vendor in entries.keys() - {*vendors}:
        (folder / "json" / f"{vendor}.json").symlink_to(package / "json" / f"{vendor}.json")
    kept = {name: entry for name, entry in entries.items() if name not in vendors}
    (folder / "collections.json").write_text(json.dumps(kept))
    return folder


def test_reducing_before_laying_on_a_colour_is_reducing_afterwards():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (6, 64, 64, 4), np.uint8)
    pictures[:, :20, :, 3] = 0  # colours that nobody sees, and that must not leak in
    backgrounds = random.random((6, 3))
    ours = lay_on(reduce_to(pictures, 32), backgrounds)
    for image, picture, colour in zip(ours, pictures, backgrounds, strict=True):
        ground = Image.new("RGBA", (64, 64), tuple(round(255 * value) for value in colour))
        laid = Image.alpha_composite(ground, Image.fromarray(picture)).convert("RGB")
        theirs = np.asarray(laid.resize((32, 32), Image.Resampling.BOX), np.float64) / 255
        assert np.abs(image - theirs).max() < 2.5 / 255


def test_captions_say_what_is_drawn_on_which_colour(built):
    drawn = EmojiCorpus.load(built, "train", 32)
    images, captions, rows = drawn.draw(np.random.default_rng(0), 600)
    assert images.shape == (600, 32, 32, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    alone = 0
    for caption, row, image in zip(captions, rows, images, strict=True):
        words, kind = drawn.icons.loc[row, ["words", "kind"]]
        noun, colour = re.fullmatch(r"(?:an? )?(.+?)(?: emoji)?(?: on (.+))?", caption).groups()
        assert noun in {words, kind}, caption
        assert not re.match(r"a [aeiou]|an [^aeiou]", caption), caption
        alone += noun == kind
        if colour:
            assert is_shade_of(image[0, 0], colour), caption
    assert 240 < alone < 360
    grounds = np.array([luminance(image[0, 0]) for image in images])
    assert np.abs(grounds - brightness(drawn.pictures[rows])).min() > 0.14
    again = drawn.draw(np.random.default_rng(0), 600)
    assert (again[0] == images).all() and again[1] == captions


def is_shade_of(colour: np.ndarray, name: str) -> bool:
    hue, saturation, value = COLOURS[name]
    low, high = float(colour.min()), float(colour.max())
    saturated = (high - low) / high if high > 0.07 else 0.0
    return value[0] - 0.01 <= high <= value[1] + 0.01 and (
        hue is None or saturation[0] - 0.02 <= saturated <= saturation[1] + 0.02
    )


def test_both_parts_have_facts(built):
    for part in ("train", "held_out"):
        loaded = EmojiCorpus.load(built, part, 64)
        assert loaded.facts["icons"][part] == len(loaded.icons) == len(loaded.pictures)
        assert loaded.pictures.shape[1:] == (64, 64, 4)
        assert (loaded.pictures[..., :3] <= loaded.pictures[..., 3:]).all(), "colours are not premultiplied"


# emoji6, as made here and as shipped


@pytest.fixture(scope="module")
def made(built, tmp_path_factory) -> Path:
    return emoji6.build(built, tmp_path_factory.mktemp("assets") / "emoji6")


def shipped_or_made(request, which: str) -> Path:
    return SHIPPED if which == "shipped" else request.getfixturevalue("made")


def ids_of(folder: Path) -> dict[str, list[str]]:
    return {split: pd.read_parquet(folder / f"{split}.parquet")["id"].tolist() for split in SPLITS}


def emoji_of(image_id: str) -> str:
    """The emoji that an id, `split/label/vendor-name`, stands for, however its vendor spells the name."""
    name = image_id.split("/")[2].split("-", 1)[1]
    return name.replace("-", "").removesuffix("face")


@pytest.mark.parametrize("which", ["made", "shipped"])
def test_no_emoji_crosses_splits_whoever_drew_it(request, which):
    ids = ids_of(shipped_or_made(request, which))
    names = {split: {emoji_of(image_id) for image_id in members} for split, members in ids.items()}
    assert not any(names[a] & names[b] for a in SPLITS for b in SPLITS if a != b)
    every = [image_id for members in ids.values() for image_id in members]
    assert len({image_id.split("/", 1)[1] for image_id in every}) == len(every)


@pytest.mark.parametrize("which", ["made", "shipped"])
def test_classes_have_equal_numbers_of_the_vendors_that_are_credited(request, which):
    folder = shipped_or_made(request, which)
    record = json.loads((folder / "dataset.json").read_text())
    assert record["class_names"] == ["animals", "faces", "flags", "food", "objects", "travel"]
    for split, members in ids_of(folder).items():
        labels = pd.read_parquet(folder / f"{split}.parquet")["label"]
        assert labels.value_counts().to_dict() == dict.fromkeys(range(6), record["images_per_class"][split])
        assert [image_id.split("/")[1] for image_id in members] == [
            record["class_names"][label] for label in labels
        ]
    credited = re.findall(r"\(([a-z]+)\), .+?, ([A-Z][\w.-]+), \d+ icons", (folder / "NOTICE").read_text())
    used = {
        image_id.split("/")[2].split("-")[0] for members in ids_of(folder).values() for image_id in members
    }
    assert {name for name, _ in credited} == used == set(HELD_OUT_SETS)
    assert {licence for _, licence in credited} <= corpus.LICENCES


def test_the_same_drawing_under_two_names_is_used_once(made):
    names = [image_id.split("/")[2] for members in ids_of(made).values() for image_id in members]
    assert not {"twemoji-ride-one", "twemoji-ride-two"} <= set(names)


def test_too_few_emoji_are_refused(built, tmp_path):
    table = pd.read_parquet(built / "emoji.parquet")
    keep = (table["kind"] != "food").to_numpy()
    np.save(tmp_path / "emoji.npy", np.load(built / "emoji.npy")[keep])
    table[keep].to_parquet(tmp_path / "emoji.parquet")
    (tmp_path / "emoji.json").write_text((built / "emoji.json").read_text())
    with pytest.raises(ValueError, match="too few emoji for emoji6: a class is missing in a split"):
        emoji6.build(tmp_path, tmp_path / "emoji6")


def test_the_shipped_emoji_are_large_enough_in_colour_and_small_on_disk():
    parts = {split: load_dataset("emoji6", split=split) for split in SPLITS}
    assert min(parts["train"].class_counts().values()) >= 60
    assert min(parts["test"].class_counts().values()) >= 30
    assert prompt_for("emoji6", "food") == "food emoji"
    for part in parts.values():
        assert part.resolution == 32 and part.provenance["licence"]
        values = part.images.astype(int)
        colourful = (np.ptp(values, axis=3) > 60).mean((1, 2))
        assert np.median(colourful) > 0.3
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 1_500_000


def test_the_backgrounds_do_not_give_the_classes_away():
    from sklearn.neighbors import KNeighborsClassifier

    train, test = (load_dataset("emoji6", split=split) for split in ("train", "test"))
    corners = [part.images[:, 0, 0].astype(float) for part in (train, test)]
    accuracy = KNeighborsClassifier(15).fit(corners[0], train.labels).score(corners[1], test.labels)
    assert accuracy < 0.35, "one pixel of the background should say little about six classes"


def test_a_prompt_names_one_emoji_of_a_class():
    assert [prompt_for("emoji6", name) for name in ("animals", "food", "flags")] == [
        "animal emoji",
        "food emoji",
        "flag emoji",
    ]
