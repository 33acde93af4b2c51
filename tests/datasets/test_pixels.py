"""Pixels mean what they meant: odd files come out as every viewer shows them, or are called what they are."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from diffinv.datasets import DatasetError, load_dataset
from diffinv.datasets.decoding import decode_image, to_square

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))
RAMP = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)


def stored(image: Image.Image = PICTURE, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(decode_image(encoded, "it")).astype(int)


def fill(folder: Path, suffix: str, *files: bytes) -> Path:
    (folder / "cat").mkdir(parents=True)
    for index, content in enumerate(files):
        (folder / "cat" / f"{index}.{suffix}").write_bytes(content)
    return folder


def refused(folder: Path, **how) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset(folder, resolution=8, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "white"), [(RAMP, 4095), (RAMP // 16, 255), (RAMP.astype(np.int32) // 16, 255)]
)
def test_the_white_of_grey_follows_from_all_images_of_a_folder(tmp_path, caplog, values, white):
    dark = (values // 2).astype(values.dtype)
    files = [stored(Image.fromarray(each), "TIFF") for each in (values, dark)]
    images = load_dataset(fill(tmp_path, "tif", *files), resolution=8).images.astype(int)
    for image, each in zip(images, (values, dark), strict=True):
        assert np.abs(image[..., 0] - each * 255.0 / white).max() <= 0.5
    assert ("4095, which is taken for white" in caplog.text) == (white == 4095)


def test_white_may_be_zero_and_grey_may_have_a_transparent_value():
    values = RAMP * 16
    inverted = pixels(stored(Image.fromarray(values), "TIFF", tiffinfo={262: 0}))
    assert np.abs(inverted[..., 0] + values / 257 - 255).max() <= 0.5
    clear = pixels(stored(Image.fromarray(values), transparency=int(values[0, 3])))
    assert (clear[0, 3] == 255).all() and np.abs(clear[0, 4] - values[0, 4] / 257).max() <= 1


def test_colour_profiles_become_srgb():
    plain = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red = Image.new("RGB", (8, 8), "red")
    assert (pixels(stored(PICTURE, icc_profile=bytes(plain))) == np.asarray(PICTURE)).all()
    first, second = plain.find(b"rXYZ"), plain.find(b"gXYZ")
    plain[first : first + 4], plain[second : second + 4] = b"gXYZ", b"rXYZ"
    assert np.abs(pixels(stored(red, icc_profile=bytes(plain))) - [0, 255, 0]).max() <= 3
    clear = red.copy()
    clear.putalpha(Image.new("L", (8, 8), 0))
    assert (pixels(stored(clear, icc_profile=bytes(plain))) == 255).all()
    assert (pixels(stored(red, icc_profile=b"no profile")) == [255, 0, 0]).all()


BIG = zlib.compress(bytes(2 << 20))


@pytest.mark.parametrize(
    ("kind", "content", "flaw"),
    [
        (b"zTXt", b"workflow\0\0" + BIG, 0),
        (b"iTXt", b"workflow\0\1\0\0\0" + BIG, 0),
        (b"iCCP", b"x\0\0" + BIG, 0),
        (b"iCCP", b"x\0\0junk", 0),
        (b"tEXt", b"a\0b", 1),
        (b"eXIf", b"junk", 0),
    ],
)
@pytest.mark.parametrize("place", [33, -12])
def test_comments_of_any_kind_refuse_no_png(kind, content, flaw, place):
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content) ^ flaw)
    png = stored()
    assert (pixels(png[:place] + chunk + png[place:]) == np.asarray(PICTURE)).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_odd_exif_and_xmp_do_not_keep_an_image_from_being_turned(kind, turn):
    exif = Image.Exif()
    exif[0x0112], exif[282] = turn, TiffImagePlugin.IFDRational(0, 0)
    exif[0x829A], exif[0x9286] = TiffImagePlugin.IFDRational(1, 0), b"\xff\xfe"
    how = {"xmp": b"<x tiff:Orientation='\xff'"} if kind in ("JPEG", "WEBP") else {}
    how |= {"lossless": True} if kind == "WEBP" else {}
    upright = {
        **{1: PICTURE, 2: PICTURE.transpose(0), 3: PICTURE.transpose(3), 4: PICTURE.transpose(1)},
        **{
            5: PICTURE.transpose(5),
            6: PICTURE.transpose(4),
            7: PICTURE.transpose(6),
            8: PICTURE.transpose(2),
        },
    }[turn]
    image = pixels(stored(PICTURE, kind, exif=exif, **how))
    assert image.shape == np.asarray(upright).shape
    assert kind == "JPEG" or (image == np.asarray(upright)).all()


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *[("jfif", "JPEG"), ("jpe", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000"), ("tga", "TGA")],
        *[("pnm", "PPM"), ("", "PNG"), ("image", "WEBP")],
    ],
)
def test_what_pillow_reads_is_read_whatever_it_is_called(tmp_path, suffix, kind):
    folder = fill(tmp_path, suffix, stored(PICTURE, kind))
    assert len(load_dataset(folder, resolution=8)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><title>403</title>", "a web page"),
        (b"PK\3\4rest", "a zip archive"),
        (b"https://host/cat.png\n", "the address of an image"),
        (b"\0\0\0\x18ftypheic", "a HEIC photo"),
        (b"<svg xmlns=''/>", "an SVG drawing"),
    ],
)
def test_strangers_under_an_images_name_are_called_what_they_are(tmp_path, content, words):
    text = refused(fill(tmp_path, "png", stored(), content))
    assert words in text and str(tmp_path / "cat" / "1.png") in text


def test_all_damaged_images_are_named_at_once_and_can_be_skipped(tmp_path, caplog):
    strip = stored(Image.new("RGB", (5, 300)))
    files = [stored(), b"", stored()[:-100], b"<html>", strip, *[stored()] * 5]
    fill(tmp_path / "train", "png", *files)
    fill(tmp_path / "test", "png", stored(), b"none")
    text = refused(tmp_path)
    culprits = [f"train/cat/{index}.png" for index in range(1, 5)] + ["test/cat/1.png"]
    assert text.startswith("5 images") and "skip_damaged=True" in text and all(map(text.count, culprits))
    data = load_dataset(tmp_path, resolution=8, skip_damaged=True)
    assert len(data) == 6 and f"train/cat/{1}.png is empty" in caplog.text
    assert len(load_dataset(tmp_path, split="test", resolution=8, skip_damaged=True)) == 1
    assert "cannot be read" in refused(fill(tmp_path / "bad", "png", b"", b""), skip_damaged=True)


def test_a_crop_that_cuts_much_off_is_said_and_there_are_other_ways(tmp_path, caplog):
    tall = Image.new("RGB", (64, 128), "white")
    tall.paste("red", (0, 0, 64, 30))
    folder = fill(tmp_path, "png", stored(tall))
    seen = {fit: load_dataset(folder, fit=fit).images[0] for fit in ("crop", "pad", "squash")}
    assert {fit: bool((image[..., 1] < 100).any()) for fit, image in seen.items()} == {
        **{"crop": False, "pad": True, "squash": True},
    }
    assert 'cropped to their middle, 0.png by 50%: choose fit="pad"' in caplog.text
    assert "squashed" in caplog.text and seen["pad"].shape == (64, 64, 3)
    assert to_square(Image.new("RGB", (5, 300)), 8, "strip", "pad").shape == (8, 8, 3)


def plain_parquet(path: Path, images: list[bytes], labels: list, names: list[str] | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    declared = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    pq.write_table(pa.table({"image": images, "label": labels}).replace_schema_metadata(declared), path)


def test_parquet_files_that_declare_nothing_are_read(tmp_path):
    images = [stored(Image.fromarray(RAMP))] * 4
    plain_parquet(tmp_path / "words" / "train.parquet", images, ["dog", "cat", "dog", "cat"])
    plain_parquet(tmp_path / "words" / "test.parquet", images[:1], ["dog"])
    words = load_dataset(tmp_path / "words", resolution=8)
    assert words.class_counts() == {"cat": 2, "dog": 2} and words.images.max() == 255
    assert load_dataset(tmp_path / "words", split="test").class_counts() == {"cat": 0, "dog": 1}
    plain_parquet(tmp_path / "numbers" / "train.parquet", images, [0, 2, 0, 2])
    assert load_dataset(tmp_path / "numbers").class_counts() == {"0": 2, "1": 0, "2": 2}


def test_a_parquet_set_says_what_a_folder_says_and_skips_what_is_damaged(tmp_path, caplog):
    tall = stored(Image.new("RGB", (64, 128), "white"))
    images = [
        tall,
        b"",
        stored(Image.fromarray(RAMP)),
        b"<html>",
        *(stored(Image.new("RGB", (16, 16), (n, 0, 0))) for n in range(21)),
    ]
    plain_parquet(tmp_path / "train.parquet", images[:-1], [0, 0, 1, 1, *[1] * 20], ["cat", "dog"])
    plain_parquet(tmp_path / "validation.parquet", images[-1:], [0], ["cat", "dog"])
    plain_parquet(tmp_path / "test.parquet", [images[2], images[2]], [0, 1], ["cat", "dog"])
    text = refused(tmp_path)
    assert text.startswith("2 images cannot be read (image 1 in ") and "image 3 in" in text
    assert "skip_damaged=True" in text
    data = load_dataset(tmp_path, skip_damaged=True)
    assert data.class_counts() == {"cat": 1, "dog": 21} and "train/00001" not in data.ids
    for words in (
        "left out: 2 (image 1 in",
        "imbalanced (22 training images of dog, 2 of cat)",
        "test images that are identical to training images: 2 (test/00000, test/00001)",
        "identical images in two classes: 1",
        "1 of 22 train images in",
        "with 3 training images or fewer: cat (2)",
    ):
        assert words in caplog.text
    caplog.clear()
    load_dataset(tmp_path, split="test")
    assert "identical" not in caplog.text  # said once


def test_parquet_files_that_contradict_each_other_or_the_folder_are_refused(tmp_path):
    images = [stored()] * 4
    plain_parquet(tmp_path / "a" / "train.parquet", images, [0, 1, 0, 1], ["cat", "dog"])
    plain_parquet(tmp_path / "a" / "test.parquet", images, [0, 1, 0, 1], ["dog", "cat"])
    with pytest.raises(DatasetError, match=r'test.parquet calls class 0 "dog", the training files "cat"'):
        load_dataset(tmp_path / "a", split="test")
    assert "and images, such as" in refused(fill(tmp_path / "a" / "mine", "png", stored()).parent)
    (tmp_path / "a" / "train.parquet").rename(tmp_path / "mine.parquet")
    assert "is a Parquet file" in refused(tmp_path / "mine.parquet")
