"""Folders as people have them: read as they meant it, with a word on what is not plain, or asked about."""

import json
import logging
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffinv.datasets import DatasetError, load_dataset, look_at
from diffinv.datasets.layout.names import split_of, splits_among

CAT_DOG = {"cat": 3, "dog": 3}


def tree(root: Path, **classes: int) -> Path:
    for name, count in (classes or CAT_DOG).items():
        for index in range(count):
            save(root / name / f"{index}.png")
    return root


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(os.fsencode(path))).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def found(folder: Path, **how) -> dict[str, dict[str, int]]:
    files = look_at(folder, **how).files
    return {split: {name: len(paths) for name, paths in classes.items()} for split, classes in files.items()}


def asked(pattern: str, folder: Path, **how) -> str:
    with pytest.raises(DatasetError, match=pattern) as caught:
        load_dataset(folder, resolution=8, **how)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ": " in text, text
    return text


# Splits.


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[
            ("training_set", "test_set"),
            ("train_images", "test_images"),
            ("Train", "TEST"),
            ("trn", "holdout"),
        ],
        *[("seg_train", "seg_test"), ("Training Data", "Testing Data"), ("trainset", "hold-out")],
        *[("flowers_train", "flowers_test"), ("train2017", "test2017"), ("TrainImages", "TestImages")],
    ],
)
def test_splits_are_known_by_any_common_spelling(tmp_path, train, test):
    for folder in (train, test):
        tree(tmp_path / folder)
    assert found(tmp_path) == {"train": CAT_DOG, "test": CAT_DOG}


@pytest.mark.parametrize("name", ["dev", "valid", "val", "Validation", "eval", "val_images"])
def test_validation_has_many_names_too(tmp_path, name):
    assert split_of(name) == "validation"
    tree(tmp_path / "train")
    tree(tmp_path / name)
    assert load_dataset(tmp_path, split="validation", resolution=8).class_counts() == CAT_DOG


def test_names_that_only_contain_a_split_are_none():
    for name in ("trainer", "steam_train", "extra_train", "contest", "interval", "valley", "device"):
        assert split_of(name) is None
    assert splits_among(["steam_train", "toy_car"]) == {}


def test_folders_beside_the_splits_are_named_and_two_of_one_split_are_asked_about(tmp_path):
    for name in ("train", "test", "extra_train"):
        tree(tmp_path / name)
    save(tmp_path / "holdout" / "loose.png")
    notes = " ".join(look_at(tmp_path).notes)
    assert "extra_train (6 images)" in notes and "holdout (1 images)" in notes
    for name in ("val", "validation"):
        tree(tmp_path / name)
    assert "val and validation" in asked("both spell the validation split", tmp_path)


def test_splits_without_class_folders_are_never_classes(tmp_path):
    for name in ("train", "test"):
        save(tmp_path / name / "0.png")
    assert "only test, train" in asked("no class folder", tmp_path)
    assert found(tmp_path, class_level="top") == {"all": {"test": 1, "train": 1}}


def test_a_class_called_train_may_hold_folders(tmp_path):
    tree(tmp_path, bus=2, car=2)
    tree(tmp_path / "train", steam=2, electric=2)
    text = asked('class_level="top" for the classes bus, car, train', tmp_path)
    assert '"leaf" for bus, car, electric, steam' in text and str(tmp_path / "train") in text
    assert found(tmp_path, class_level="top")["all"]["train"] == 4


def test_splits_may_lie_inside_each_class(tmp_path):
    for name in CAT_DOG:
        tree(tmp_path / name, train=3, test=3)
    assert found(tmp_path) == {"train": CAT_DOG, "test": CAT_DOG}
    assert all("/test/" in name for name in load_dataset(tmp_path, split="test", resolution=8).ids)


# Classes.


@pytest.mark.parametrize("inside", ["PetImages", "archive/data", "seg_train/seg_train"])
def test_wrappers_are_opened(tmp_path, inside):
    tree(tmp_path / inside)
    tree(tmp_path / inside.replace("train", "test"))
    expected = {"train": CAT_DOG, "test": CAT_DOG} if "train" in inside else {"all": CAT_DOG}
    assert found(tmp_path) == expected and "wrapper" in str(look_at(tmp_path))


def test_nested_classes_are_asked_about(tmp_path):
    tree(tmp_path / "animals")
    tree(tmp_path / "vehicles", car=2, cat=1)
    asked('class_level="top" for the classes animals, vehicles, or class_level="leaf" for car, cat', tmp_path)
    assert found(tmp_path, class_level="top") == {"all": {"animals": 6, "vehicles": 3}}
    assert found(tmp_path, class_level="leaf") == {"all": {"car": 2, "cat": 4, "dog": 3}}
    assert "one class" in str(look_at(tmp_path, "leaf"))


def test_images_and_masks_are_no_classes(tmp_path):
    tree(tmp_path, images=2, masks=2)
    asked("only images, masks", tmp_path)


def test_boxes_and_pages_beside_images_are_no_class(tmp_path):
    save(tmp_path / "JPEGImages" / "0.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "0.xml").write_text("<annotation/>")
    asked("only JPEGImages", tmp_path)


def test_images_outside_the_classes_are_counted(tmp_path, caplog):
    tree(tmp_path)
    save(tmp_path / "loose.png")
    assert len(load_dataset(tmp_path, resolution=8)) == 2
    assert "lie outside every class folder, and are not read: loose.png" in caplog.text


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "@eaDir/0.png", "__MACOSX", ".git", "thumbnails"])
def test_folders_of_tools_are_passed_over(tmp_path, folder):
    tree(tmp_path)
    save(tmp_path / "cat" / folder / "0.png")
    save(tmp_path / folder / "0.png")
    assert found(tmp_path) == {"all": CAT_DOG}


def test_links_are_followed_once_and_dangling_ones_are_named(tmp_path):
    tree(tmp_path / "elsewhere", cat=3)
    tree(tmp_path / "set", dog=3)
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "set" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "set" / "dog" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "itself").symlink_to(tmp_path / "set" / "itself")
    os.mkfifo(tmp_path / "set" / "dog" / "pipe.png")  # to read it would never end
    layout = look_at(tmp_path / "set")
    assert found(tmp_path / "set") == {"all": CAT_DOG}
    assert "dog/gone.png" in str(layout) and "dog/loop" in str(layout) and "itself" in str(layout)
    assert "1 pipes" in str(layout) and "yours to read" not in str(layout)


def test_names_are_compared_as_they_look(tmp_path):
    tree(tmp_path / "train", **{"caf\u00e9": 3, "Dog": 3})
    tree(tmp_path / "test", **{"cafe\u0301": 3})
    assert load_dataset(tmp_path, split="test", resolution=8).class_counts() == {"caf\u00e9": 3, "Dog": 0}
    tree(tmp_path / "test", dog=1)
    assert '"Dog"' in asked("differs in case", tmp_path, split="test")
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "D og")
    assert '"Dog"' in asked("differs in blanks", tmp_path, split="test")


def test_names_that_are_no_text_can_be_saved(tmp_path):
    tree(tmp_path / "set")
    for name in (b"caf\xe9.png", b"a\nb.png", b"e\xcc\x81.png", b"\xc3\xa9.png"):
        os.rename(
            save(tmp_path / "set" / "cat" / "new.png"), os.path.join(os.fsencode(tmp_path), b"set/cat", name)
        )
    parts = [
        load_dataset(tmp_path / "set", split=split, resolution=8) for split in ("train", "validation", "test")
    ]
    ids = {name for part in parts for name in part.ids}
    assert len(ids) == 10 and {r"cat/caf\xe9.png", r"cat/a\x0ab.png"} <= ids
    parts[0].save(tmp_path / "saved")


# Tables.


@pytest.mark.parametrize("home", ["", "train", "images"])
@pytest.mark.parametrize("name", ["labels.csv", "metadata.csv", "metadata.jsonl", "labels.parquet"])
def test_a_table_says_the_classes(tmp_path, home, name):
    import pandas as pd

    files = [save(tmp_path / home / f"{index}.png") for index in range(4)]
    place = tmp_path / ("train" if home == "train" else "") / name
    rows = pd.DataFrame(
        {"file_name": [str(path.relative_to(place.parent)) for path in files], "label": ["dog", "cat"] * 2}
    )
    match place.suffix:
        case ".csv":
            rows.to_csv(place, index=False)
        case ".jsonl":
            place.write_text("\n".join(json.dumps(row) for row in rows.to_dict("records")))
        case ".parquet":
            rows.to_parquet(place)
    assert found(tmp_path) == {"train" if home == "train" else "all": {"cat": 2, "dog": 2}}


def test_a_table_may_say_the_split_and_leave_out_suffixes(tmp_path, caplog):
    for index in range(4):
        save(tmp_path / "photos" / f"{index}.png")
    table = tmp_path / "labels.csv"
    table.write_text("id;breed;split\n0;10;train\n1;9;train\n2;9;dev\n")
    assert found(tmp_path) == {"train": {"9": 1, "10": 1}, "validation": {"9": 1}}
    assert "no row for 1 images, which are not read: 3.png" in str(look_at(tmp_path))
    table.write_text("path,label,split\n" + "".join(f"photos/{index}.png,cat,test\n" for index in range(4)))
    asked("no train folder beside test", tmp_path, split="test")
    table.write_text("path,label\nphotos/0.png,cat\ngone.png,cat\nlost.png,dog\n")
    assert "gone.png, lost.png" in asked("names 2 images that are not there", tmp_path)
    table.write_text("path,label\nphotos/0.png,cat\nphotos/0.png,dog\n")
    asked("two classes", tmp_path)


def test_a_table_beside_class_folders_agrees_or_is_asked_about(tmp_path):
    tree(tmp_path)
    rows = [(f"{name}/{index}.png", name) for name in CAT_DOG for index in range(3)]
    for flip in (False, True):
        lines = [f"{path},{'dog' if flip and path == 'cat/0.png' else name}" for path, name in rows]
        (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
        if flip:
            assert "cat/0.png" in asked("metadata.csv contradicts the folders", tmp_path)
        else:
            assert found(tmp_path) == {"all": CAT_DOG}


TABLES = {
    "pipes": ("labels.csv", "filename|label", "{0:02}.png|{1}", "utf-8"),
    "a spreadsheet's UTF-16": ("labels.csv", "file\tclass", "{0:02}.png\t{1}", "utf-16"),
    "Latin 1": ("labels.csv", "file,class,remark", "{0:02}.png,{1},caf\xe9", "cp1252"),
    "no heading": ("labels.csv", "", "{0:02}.png,{1}", "utf-8"),
    "blanks": ("labels.txt", "", "imgs/{0:02}.png {1}", "utf-8"),
    "other words": ("annotations.csv", "Image Name,Class Label", "{0:02}.png,{1}", "utf-8"),
    "other columns": ("Train.csv", "Width,ClassId,Path", "32,{1},imgs/{0:02}.png", "utf-8"),
    "another suffix": ("labels.csv", "file,label", "{0:02}.JPEG,{1}", "utf-8"),
    "a path from elsewhere": ("labels.csv", "path,label", "C:\\me\\imgs\\{0:02}.png,{1}", "utf-8"),
    "a column for each class": ("labels.csv", "image,cat,dog", "{0:02},{2},{3}", "utf-8"),
}


@pytest.mark.parametrize(("name", "heading", "row", "encoding"), TABLES.values(), ids=TABLES)
def test_tables_are_read_as_people_write_them(tmp_path, name, heading, row, encoding):
    lines = [heading] if heading else []
    for index in range(6):
        save(tmp_path / "imgs" / f"{index:02}.png")
        lines.append(row.format(index, ["cat", "dog"][index % 2], 1 - index % 2, index % 2))
    (tmp_path / name).write_bytes("\r\n".join(lines).encode(encoding))
    assert found(tmp_path) == {"train" if name == "Train.csv" else "all": CAT_DOG}


@pytest.mark.parametrize("value", [{"0.png": "cat", "1.png": "dog"}, [{"file": "0", "label": "cat"}]])
def test_json_may_say_the_classes(tmp_path, value):
    for index in range(2):
        save(tmp_path / f"{index}.png")
    (tmp_path / "labels.json").write_text(json.dumps(value))
    assert sum(found(tmp_path)["all"].values()) == len(value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,label\n0.png,cat\n1.png,Cat", "differ only in case"),
        ("file,label\n0.png,cat\n1.png,dog\n2.png,cat dog", 'several classes \\("cat dog"'),
        ("", "labels.csv is empty"),
        ('file,label\n0.png,cat\n"1.png,dog', "labels.csv unexpected end"),
    ],
)
def test_what_a_table_gets_wrong_is_said(tmp_path, table, said):
    for index in range(3):
        save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text(table)
    asked(said, tmp_path)


@pytest.mark.parametrize("home", ["", "meta"])
def test_lists_of_files_say_the_splits(tmp_path, home):
    tree(tmp_path / "images", cat=6, dog=6)
    (tmp_path / home).mkdir(exist_ok=True)
    for split, rows in (("train", range(4)), ("val", range(4, 5)), ("test", range(5, 6))):
        names = [f"{name}/{index}" for name in CAT_DOG for index in rows]
        (tmp_path / home / f"{split}.txt").write_text("\n".join(names))
    of_each = {"cat": 1, "dog": 1}
    assert found(tmp_path) == {"train": {"cat": 4, "dog": 4}, "validation": of_each, "test": of_each}


def test_a_column_of_splits_counts_where_the_folders_say_the_classes(tmp_path):
    tree(tmp_path)
    rows = [f"{name}/{index}.png,{name},{index == 2}" for name in CAT_DOG for index in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label,is_valid", *rows]))
    assert found(tmp_path)["validation"] == {"cat": 1, "dog": 1}
    text = (tmp_path / "labels.csv").read_text().replace("True", "0").replace("False", "1")
    (tmp_path / "labels.csv").write_text(text.replace("is_valid", "fold"))
    assert found(tmp_path) == {"all": CAT_DOG} and "spells no split" in str(look_at(tmp_path))


def test_a_competition_s_list_of_answers_is_no_table_of_classes(tmp_path):
    tree(tmp_path / "train")
    rows = [save(tmp_path / "test" / f"{index}0.png").stem for index in range(3)]
    (tmp_path / "sample_submission.csv").write_text("\n".join(["id,label", *(f"{row},0" for row in rows)]))
    assert found(tmp_path) == {"train": CAT_DOG} and 'class "0"' in str(look_at(tmp_path))
    (tmp_path / "sample_submission.csv").write_text("\n".join(["id,label", *(f"{row},dog" for row in rows)]))
    assert found(tmp_path) == {"train": CAT_DOG, "test": {"dog": 3}}


# What is said.


def test_what_is_odd_is_said_once_a_line_each(tmp_path, caplog):
    tree(tmp_path / "train", big=40, small=2)
    tree(tmp_path / "test", big=3)
    for name in ("a.heic", "b.heic", "c.dcm", "notes.txt"):
        (tmp_path / "train" / "big" / name).write_bytes(b"\0")
    same = (tmp_path / "train" / "big" / "0.png").read_bytes()
    for twin in ("test/big/0.png", "train/small/0.png"):
        (tmp_path / twin).write_bytes(same)
    with caplog.at_level(logging.INFO, "diffinv"):
        for split in ("train", "test"):
            load_dataset(tmp_path, split=split, resolution=8)
    lines = [record.getMessage() for record in caplog.records]
    assert len(set(lines)) == len(lines)
    for words in (
        "splits train, test; train with 40 big, 2 small",
        "skipped: 1 .dcm, 2 .heic",
        "no image of small",
        "small (2)",
        "imbalanced (40 training images of big, 2 of small)",
        "test images that are identical to training images: 1",
        "identical images in two classes: 1",
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)


def test_a_folder_called_like_a_dataset_is_mentioned(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "icons10")
    assert load_dataset("icons10").num_classes == 10
    assert 'give "./icons10" for it' in caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        (" ", "empty"),
        (None, "empty"),
        ("https://host/a.zip", "^https://host/a.zip is an address"),
    ],
)
def test_what_is_no_folder_is_called_what_it_is(tmp_path, name, words):
    asked(words, name)
    (tmp_path / "a.zip").write_bytes(b"PK\3\4")
    asked("a zip archive: unpack it", tmp_path / "a.zip")
    for option in ("fit", "class_level"):
        asked(f"no {option}", tree(tmp_path / "set"), **{option: "other"})
