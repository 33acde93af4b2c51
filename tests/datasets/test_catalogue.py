"""Datasets by name and as copies of the hub: whole, split without overlap, read offline, or refused."""

import dataclasses
import hashlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from published_datasets import fill_hub_cache, medmnist_arrays, pictures, png, write_parquet

from diffinv.artefacts.writing import ArtefactError
from diffinv.datasets import CATALOGUE, DatasetError, dataset_card, load_dataset, medmnist
from diffinv.datasets.catalogue import HubSource, NpzSource
from diffinv.datasets.embedded import FOLDER
from diffinv.datasets.selection import choose_per_class, share_of_classes

SPLITS = ("train", "validation", "test")
HUB = [name for name, card in CATALOGUE.items() if isinstance(card.source, HubSource)]
NPZ = [name for name, card in CATALOGUE.items() if isinstance(card.source, NpzSource)]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch) -> Path:
    """Caches of this test alone, and no network; the hub's cache is returned."""
    hub = tmp_path / "hub_cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return hub


def assert_same(a, b) -> None:
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert (a.ids, a.class_names) == (b.ids, b.class_names)


def refused(pattern: str, *args, **kwargs) -> str:
    """The one sentence with which load_dataset refuses."""
    with pytest.raises(DatasetError, match=pattern) as caught:
        load_dataset(*args, **kwargs)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and ": " in text, text
    return text


# The table.


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_card_is_complete(name):
    card = dataset_card(name)
    assert len(set(card.class_names)) == len(card.class_names) > 1
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z -]+", words) for words in card.class_names)
    assert card.prompt_template.count("{}") == 1 and card.licence and card.flips_keep_label
    if isinstance(card.source, NpzSource):
        assert re.fullmatch("[0-9a-f]{32}", card.source.md5) and f"{name}.npz" in card.source.url
    else:
        assert re.fullmatch("[0-9a-f]{40}", card.source.revision) and set(card.source.parts) == set(SPLITS)


def test_the_catalogue_is_that_of_the_paper():
    counts = {name: len(card.class_names) for name, card in CATALOGUE.items()}
    assert counts == {
        **{"cifar10": 10, "cifar100": 100, "stl10": 10, "imagenette": 10, "eurosat": 10},
        **{"pathmnist": 9, "bloodmnist": 8, "dermamnist": 7},
    }
    with pytest.raises(DatasetError, match=r"no dataset \"cifar11\": choose one of cifar10, .*dermamnist\."):
        dataset_card("cifar11")
    assert "cifar10" in refused("no dataset or folder", "cifar11")
    assert CATALOGUE["cifar100"].class_names[26] == "crab" and CATALOGUE["cifar100"].class_names[99] == "worm"


# By name, from the cache of the hub's client.


@pytest.mark.parametrize("name", HUB)
def test_a_dataset_of_the_hub_is_whole_and_its_splits_share_nothing(name, offline):
    files = fill_hub_cache(offline, name, per_class=10)
    card = CATALOGUE[name]
    parts = {split: load_dataset(name, split=split, resolution=8) for split in SPLITS}
    ids = [each for part in parts.values() for each in part.ids]
    assert len(set(ids)) == len(ids) == 10 * len(card.class_names) * len(files)
    assert {image.tobytes() for part in parts.values() for image in part.images} == {
        np.asarray(row[card.source.image_column]).tobytes()
        for path in files.values()
        for row in datasets.Dataset.from_parquet(str(path), cache_dir=str(offline))
    }
    shares = (
        {"train": 15, "validation": 6, "test": 9}
        if name == "eurosat"
        else dict(zip(SPLITS, (9, 1, 10), strict=True))
    )
    for split, part in parts.items():
        assert part.class_names == card.class_names and part.sources is None
        assert set(part.class_counts().values()) == {shares[split]}
        assert part.provenance["revision"] == card.source.revision
        assert (part.provenance["dataset"], part.provenance["split"]) == (name, split)


def test_rows_are_those_that_the_datasets_library_reads(offline):
    (train, _) = fill_hub_cache(offline, "cifar10", per_class=10).values()
    oracle = datasets.Dataset.from_parquet(str(train), cache_dir=str(offline))
    for split in ("train", "validation"):
        data = load_dataset("cifar10", split=split, resolution=8)
        for index, each in enumerate(data.ids):
            row = oracle[int(each.removeprefix("train/"))]
            assert (np.asarray(row["img"]) == data.images[index]).all()
            assert row["label"] == data.labels[index]


def test_splits_stay_the_same_whatever_the_seed(offline):
    fill_hub_cache(offline, "stl10", per_class=20)
    first = load_dataset("stl10", split="validation", resolution=8)
    assert_same(first, load_dataset("stl10", split="validation", resolution=8, seed=7))
    small, large = (load_dataset("stl10", images_per_class=n, resolution=8, seed=3).ids for n in (2, 5))
    assert set(small) < set(large) and not set(large) & set(first.ids)
    assert large != load_dataset("stl10", images_per_class=5, resolution=8, seed=4).ids


def test_images_come_at_the_papers_resolution_or_the_one_asked_for(offline):
    fill_hub_cache(offline, "imagenette", per_class=1, size=(320, 400))
    data = load_dataset("imagenette", split="test")
    assert data.resolution == 256
    original = pictures(1, (320, 400), seed=1)[0]
    expected = original.crop((40, 0, 360, 320)).resize((256, 256), Image.Resampling.BICUBIC)
    # Pillow's crop within a resize sees the pixels beyond the crop, so that the border differs.
    difference = np.abs(data.images[0].astype(int) - np.asarray(expected))
    assert difference[2:-2, 2:-2].max() <= 1
    assert load_dataset("imagenette", split="test", resolution=24).resolution == 24


@pytest.mark.parametrize("name", [*HUB, *NPZ])
def test_a_dataset_that_is_not_there_is_named_with_the_remedy(name, monkeypatch):
    card = CATALOGUE[name]
    if isinstance(card.source, NpzSource):
        nowhere = dataclasses.replace(card.source, url=f"http://127.0.0.1:1/{name}.npz")
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(card, source=nowhere))
        assert f"{name}.npz" in refused("not in the cache and could not be fetched", name)
    else:
        assert card.source.repository in refused("not in the Hugging Face cache and could not", name)
    assert f'"{name}"' in refused("connect to the network once", name, split="test")
    refused("no split", name, split="val")


def test_a_fresh_process_needs_neither_network_nor_the_datasets_library(offline, tmp_path):
    fill_hub_cache(offline, "cifar10", per_class=10)
    code = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"blocked: {event}")
sys.addaudithook(refuse)
import diffinv
from diffinv.datasets import load_dataset
print(len(load_dataset("cifar10")), "datasets" in sys.modules, "torch" in sys.modules)
"""
    environment = {**os.environ, "HF_HUB_CACHE": str(offline), "HF_HUB_OFFLINE": "1"}
    outcome = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert outcome.stdout.split() == ["90", "False", "False"], outcome.stderr


# Folders in the hub's layout.


def test_a_copy_of_a_repository_is_read_with_its_own_class_names(tmp_path):
    for split, count in (("train", 20), ("test", 4)):
        write_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet", pictures(count), np.arange(count) % 2
        )
    parts = {split: load_dataset(tmp_path, split=split, resolution=8) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 18, "validation": 2, "test": 4}
    assert parts["validation"].class_counts() == {"cat": 1, "dog": 1}
    assert set(parts["train"].ids) | set(parts["validation"].ids) == {f"train/{row:05d}" for row in range(20)}
    assert_same(load_dataset(str(tmp_path), split="validation", resolution=8, seed=9), parts["validation"])
    assert load_dataset(tmp_path).resolution == 32


def test_rows_count_on_through_the_shards(tmp_path):
    images, labels = pictures(9), [0, 1, 0, 1, 0, 1, 0, 1, 0]
    for shard, rows in enumerate((slice(0, 4), slice(4, 9))):
        write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", images[rows], labels[rows])
    write_parquet(tmp_path / "val.parquet", pictures(2, seed=1), [0, 1])
    data = load_dataset(tmp_path, resolution=8)
    assert data.ids == tuple(f"train/{row:05d}" for row in range(9)) and data.labels.tolist() == labels
    assert (data.images == np.stack([np.asarray(image) for image in images])).all()
    assert load_dataset(tmp_path, split="validation", resolution=8).ids == (
        "validation/00000",
        "validation/00001",
    )


def test_several_configurations_are_told_apart(tmp_path):
    for size in ("160px", "320px"):
        for split in ("train", "validation"):
            write_parquet(tmp_path / size / split / "0000.parquet", pictures(3, (40, 60)), [0, 1, 0])
    assert "160px, 320px" in refused("several datasets", tmp_path)
    assert load_dataset(tmp_path / "320px", split="validation").images.shape == (3, 40, 40, 3)
    refused("no test files beside", tmp_path / "320px", split="test")
    (tmp_path / "160px" / "train" / "0000.parquet").unlink()
    refused("no train files beside validation", tmp_path / "160px")


def test_the_embedded_datasets_are_in_this_layout_too():
    by_name = load_dataset("mnist5k", split="test")
    from_files = load_dataset(FOLDER / "mnist5k", split="test")
    assert (from_files.images == by_name.images).all() and (from_files.labels == by_name.labels).all()
    assert from_files.class_names == by_name.class_names


def test_only_the_chosen_images_are_decoded(tmp_path):
    labels = np.arange(60) % 2
    ids = [f"train/{row:05d}" for row in range(60)]
    train = share_of_classes(ids, labels, 0.1, 1.0)
    chosen = choose_per_class([ids[row] for row in train], labels[train], ("cat", "dog"), 3, seed=5)
    images = [png(image) for image in pictures(60)]
    junk = [data if row in train[chosen] else b"junk" for row, data in enumerate(images)]
    write_parquet(tmp_path / "sound" / "train.parquet", images, labels)
    write_parquet(tmp_path / "junk" / "train.parquet", junk, labels)
    whole = load_dataset(tmp_path / "sound", resolution=8)
    few = load_dataset(tmp_path / "junk", resolution=8, images_per_class=3, seed=5)
    assert_same(few, whole.per_class(3, seed=5))
    refused("damaged or not an image", tmp_path / "junk", resolution=8)
    refused('class "cat" has 27 images, not 28', tmp_path / "sound", images_per_class=28)


def test_every_source_takes_images_per_class(tmp_path):
    (tmp_path / "cat").mkdir()
    for number, image in enumerate(pictures(4)):
        image.save(tmp_path / "cat" / f"{number}.png")
    for source, split in (("mnist5k", "test"), (tmp_path, "train")):
        few = load_dataset(source, split=split, images_per_class=1, seed=1)
        assert_same(few, load_dataset(source, split=split).per_class(1, seed=1))
        refused("images, not 101: ask for at most", source, split=split, images_per_class=101)


def test_images_of_other_kinds_are_read_as_from_a_folder(tmp_path):
    grey = pictures(1)[0].convert("L")
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    write_parquet(tmp_path / "train.parquet", [grey, clear], [0, 1])
    write_parquet(tmp_path / "test.parquet", [grey], [0])
    write_parquet(tmp_path / "validation.parquet", [grey], [0])
    data = load_dataset(tmp_path, resolution=8)
    assert (data.images[0] == np.asarray(grey)[..., None]).all() and (data.images[1] == 255).all()


def test_what_is_wrong_with_a_file_is_said(tmp_path, offline):
    train = tmp_path / "set" / "train.parquet"
    write_parquet(train, [*map(png, pictures(3)), b"junk"], [0, 1, 1, 1])
    assert f"image 3 in {train}" in refused("damaged", train.parent, resolution=8)
    write_parquet(train, [*map(png, pictures(3)), b""], [0, 1, 1, 1])
    refused(r"image 3 .* is empty", train.parent, resolution=8)

    write_parquet(train, [], [])
    refused("holds no image", train.parent)

    stored = pq.read_table(write_parquet(train, pictures(4), [0, 1, 1, 1]))
    without = pa.array([{"bytes": None, "path": "elsewhere.png"}] * 4, stored.schema.field("image").type)
    pq.write_table(stored.set_column(0, stored.schema.field("image"), without), train)
    refused("not stored in the file", train.parent)
    for labels, words in (
        (pa.array([0, 1, None, 1]), "without a class"),
        (pa.array([0, 1, 2, 1]), "outside 0 to 1"),
    ):
        pq.write_table(stored.set_column(1, stored.schema.field("label"), labels), train)
        assert str(train) in refused(words, train.parent, resolution=8)
    pq.write_table(stored.drop_columns("image"), train)
    refused("none of which has images inside", train.parent)
    pq.write_table(stored.drop_columns("label"), train)
    refused('no ClassLabel feature|no column "label"', train.parent)
    train.write_bytes(train.read_bytes()[:-9])
    refused("damaged or no Parquet file", train.parent)

    path = fill_hub_cache(offline, "cifar10", per_class=1)["plain_text/train-00000-of-00001.parquet"]
    write_parquet(path, pictures(2), [0, 1], image="img")
    assert str(path) in refused("2 classes, not 10", "cifar10")
    write_parquet(path, pictures(2), [0, 1])
    refused('no column "img"', "cifar10")


# MedMNIST files.


def publish(name: str, path: Path, monkeypatch, url: str = "file:///nowhere", **arrays) -> Path:
    """Write a file and let the catalogue say that it is the published one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    card = CATALOGUE[name]
    source = NpzSource(url, hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(card, source=source))
    return path


@pytest.mark.parametrize("name", NPZ)
@pytest.mark.parametrize("home", ["cache/datasets", "home/.medmnist"])
def test_a_medmnist_file_gives_its_three_splits(name, home, tmp_path, monkeypatch):
    arrays = medmnist_arrays(name)
    publish(name, tmp_path / home / f"{name}.npz", monkeypatch, **arrays)
    ids = []
    for split, key in (("train", "train"), ("validation", "val"), ("test", "test")):
        data = load_dataset(name, split=split)
        assert (data.images == arrays[f"{key}_images"]).all() and data.resolution == 28
        assert (data.labels == arrays[f"{key}_labels"][:, 0]).all()
        assert data.class_names == CATALOGUE[name].class_names and data.provenance["licence"]
        ids += data.ids
    assert len(set(ids)) == len(ids)
    few = load_dataset(name, images_per_class=2, resolution=32, seed=1)
    assert_same(few, load_dataset(name).per_class(2, seed=1).resize(32))


@pytest.fixture
def website(tmp_path) -> Iterator[tuple[str, Path]]:
    """The address of a server on this machine, which cuts short what is called "short", and its folder."""
    folder = tmp_path / "website"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def copyfile(self, source, outputfile):
            outputfile.write(source.read()[: -1 if "short" in self.path else None])

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


def test_a_medmnist_file_is_fetched_once_and_kept(tmp_path, monkeypatch, website, capfd):
    address, folder = website
    remote = folder / "remote.npz"
    url = f"{address}/remote.npz?download=1"
    publish("bloodmnist", remote, monkeypatch, url=url, **medmnist_arrays("bloodmnist"))
    first = load_dataset("bloodmnist")
    kept = tmp_path / "cache" / "datasets" / "bloodmnist.npz"
    assert kept.read_bytes() == remote.read_bytes() and list(kept.parent.iterdir()) == [kept]
    usual = tmp_path / "usual"
    usual.touch()
    assert kept.stat().st_mode == usual.stat().st_mode
    assert capfd.readouterr() == ("", "")  # nobody is watching, and it took less than 10 s
    remote.unlink()
    assert_same(load_dataset("bloodmnist"), first)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert str(kept) in refused("MD5 checksum differs", "bloodmnist")
    assert kept.is_file()


def test_a_long_download_leaves_lines_in_a_log(monkeypatch, website, capsys):
    address, folder = website
    publish("bloodmnist", folder / "a.npz", monkeypatch, f"{address}/a.npz", **medmnist_arrays("bloodmnist"))

    class LongAgo(medmnist._LinesInALog):
        def __init__(self, **how):
            super().__init__(**{**how, "delay": 1e-9})

    monkeypatch.setattr(medmnist, "_LinesInALog", LongAgo)
    load_dataset("bloodmnist")
    lines = capsys.readouterr().out.replace("\r", "\n").split("\n")
    assert "bloodmnist: 100%" in lines[-2] and "0%" not in lines[0], lines


@pytest.mark.parametrize("file", ["long.npz", "short.npz", "absent.npz"])
def test_a_download_that_goes_wrong_leaves_nothing(tmp_path, monkeypatch, website, file):
    address, folder = website
    remote = folder / file
    publish("dermamnist", remote, monkeypatch, url=f"{address}/{file}", **medmnist_arrays("dermamnist"))
    if file == "long.npz":
        remote.write_bytes(remote.read_bytes() + b"x")
    if file == "absent.npz":
        remote.unlink()
    words = "not the published dermamnist" if file == "long.npz" else "could not be fetched: connect to the"
    assert f"{address}/{file}" in refused(words, "dermamnist")
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_a_full_disk_is_not_taken_for_a_missing_network(tmp_path, monkeypatch, website):
    address, folder = website
    publish("dermamnist", folder / "a.npz", monkeypatch, f"{address}/a.npz", **medmnist_arrays("dermamnist"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(ArtefactError, match=r"no space left to write .*dermamnist\.npz"):
            load_dataset("dermamnist")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_an_npz_file_by_path_may_be_grey_and_of_any_size(tmp_path):
    arrays = medmnist_arrays("bloodmnist", size=12, grey=True)
    np.savez(tmp_path / "bloodmnist_12.npz", **arrays)
    data = load_dataset(tmp_path / "bloodmnist_12.npz", split="validation")
    assert (data.images == arrays["val_images"][..., None]).all() and data.images.shape[3] == 3
    assert data.class_names == CATALOGUE["bloodmnist"].class_names
    (tmp_path / "bloodmnist_12.npz").rename(tmp_path / "mine.npz")
    assert "pathmnist, bloodmnist, dermamnist" in refused("classes of .* not known", tmp_path / "mine.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_labels": np.array([{"a": 1}], dtype=object)}, "damaged or not in MedMNIST's format"),
        ({"train_labels": np.zeros(32, np.uint8)}, "one whole number per image"),
        ({"train_labels": np.zeros((32, 2), np.uint8)}, "one whole number per image"),
        ({"train_labels": np.full((32, 1), 8, np.uint8)}, "outside 0 to 7"),
        ({"train_images": np.zeros((32, 28, 20, 3), np.uint8)}, "not 8-bit squares"),
        ({"train_images": np.zeros((32, 28, 28, 3))}, "not 8-bit squares"),
        ({"train_images": None}, "damaged or not in MedMNIST's format"),
    ],
)
def test_npz_files_of_another_kind_are_refused(tmp_path, change, words):
    arrays = {**medmnist_arrays("bloodmnist"), **change}
    np.savez(
        tmp_path / "bloodmnist.npz", **{key: value for key, value in arrays.items() if value is not None}
    )
    refused(words, tmp_path / "bloodmnist.npz")
    (tmp_path / "bloodmnist.npz").write_bytes(b"PK")
    refused("damaged or not in MedMNIST's format", tmp_path / "bloodmnist.npz")


# Which images make up a part.


@given(
    labels=st.lists(st.integers(0, 3), max_size=60),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=50)
def test_shares_divide_every_class_without_overlap(labels, cuts, seed):
    labels = np.asarray(labels, dtype=np.int64)
    ids = [f"{seed}/{row}" for row in range(len(labels))]
    edges = [0.0, *sorted(cuts), 1.0]
    parts = [share_of_classes(ids, labels, *edge) for edge in pairwise(edges)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part, (start, end) in zip(parts, pairwise(edges), strict=True):
        assert part.tolist() == sorted(part.tolist())
        for label in range(4):
            expected = (end - start) * (labels == label).sum()
            assert abs((labels[part] == label).sum() - expected) <= 1
    order = np.random.default_rng(seed).permutation(len(labels))
    again = share_of_classes([ids[row] for row in order], labels[order], edges[0], edges[1])
    assert {ids[order[row]] for row in again} == {ids[row] for row in parts[0]}
