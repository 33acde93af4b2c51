"""Own images in one call: what is said before the work, what is refused, what is written, and a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffinv import LabelledImages, augment, load_dataset
from diffinv.commands.main import main
from diffinv.metrics.duplicates import duplicate_groups, near_duplicates
from diffinv.models.clip import load_clip
from diffinv.own_data.augment import prepare
from diffinv.own_data.look import WIDTH, drawn_share, read_own
from diffinv.own_data.mixed import MixedImages
from diffinv.own_data.trial import nearness_to_original, try_model

ROOT = Path(__file__).parents[2]
SMALL = ["--profile", "smoke"]
# Seconds of work, but a machine that is busy with something else takes its time.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def icons():
    return load_dataset("icons10", split="train")


def write(root: Path, images: LabelledImages, counts: dict[str, int], skip: int = 0) -> Path:
    for name, count in counts.items():
        rows = np.flatnonzero(images.labels == images.class_names.index(name))[skip : skip + count]
        (root / name).mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows):
            Image.fromarray(images.images[row]).save(root / name / f"{number:03d}.png")
    return root


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_check_says_what_a_stranger_s_folder_holds(tmp_path, icons, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path cannot be wrapped
    root = Path("downloaded")
    write(root / "Training_Set", icons, {"bell": 8, "heart": 7, "car": 4})
    write(root / "holdout", icons, {"bell": 2, "heart": 2, "car": 2}, skip=20)
    twin = Image.open(root / "Training_Set/bell/000.png").convert("RGBA")
    twin.resize((48, 48)).save(root / "holdout/bell/again.png")
    wide = Image.open(root / "Training_Set/car/000.png").resize((48, 40))
    wide.save(root / "Training_Set/car/000.png")
    (root / "Training_Set/heart/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    (root / "Training_Set/heart/list.xcf").write_bytes(b"gimp")
    assert main(["augment", str(root), "--check", *SMALL]) == 2
    table, said = capsys.readouterr()
    assert "broken.png is damaged" in said and "--skip-damaged" in said and said.count("\n") == 1
    assert max(map(len, table.splitlines())) <= WIDTH
    assert main(["augment", str(root), "--check", "--skip-damaged", *SMALL]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= WIDTH
    table = " ".join(table.split())
    # One in seven or so of each class of train goes to validation, which the folder lacks.
    assert "images of train validation test" in table and "bell 7 1 3" in table and "all 16 3 7" in table
    assert "32x32 to 48x48 px, 1 not square and cropped by up to 17%" in table and "1 PNG RGBA" in table
    assert "across 1, in two classes 0" in table and "holdout/bell/again.png" in table
    assert "1 file in" in table and ".xcf" in table
    assert "set aside for validation" in table and "estimate, by measured steps" in table


def test_all_that_stands_in_the_way_is_named_at_once_and_before_the_model_is_loaded(
    tmp_path, icons, capsys, monkeypatch
):
    monkeypatch.setattr("diffinv.own_data.augment.load_diffusion", lambda *_, **__: pytest.fail("loaded"))
    root = write(tmp_path / "few", icons, {"bell": 12, "heart": 4})
    (root / "heart/bad.jpg").write_bytes(b"<html>")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").write_text("years")
    arguments = ["augment", str(root), "--out", str(tmp_path / "taken"), "--folds", "5", *SMALL]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "bad.jpg is a web page" in said and "--skip-damaged" in said
    assert "fewer than 5 distinct images" in said and "heart (3 distinct of 3)" in said
    assert "--folds 3" in said and "thesis" not in said and "holds files that diffinv did not write" in said
    assert "bell (" not in said and said.count("\n") == 1

    one = write(tmp_path / "one", icons, {"bell": 12})
    assert main(["augment", str(one), "--out", str(tmp_path / "out"), *SMALL]) == 2
    assert "has one class, bell" in capsys.readouterr().err
    assert main(["augment", str(one), *SMALL]) == 2
    assert "--out is missing" in capsys.readouterr().err


def test_copies_count_once_where_folds_are_to_be_filled(tmp_path, icons):
    root = write(tmp_path / "copies", icons, {"bell": 8, "heart": 8})
    for path in sorted((root / "heart").iterdir())[1:]:
        path.write_bytes((root / "heart/000.png").read_bytes())
    own = read_own(root, resolution=None, seed=0, skip_damaged=False)
    (problem,) = own.problems(3)
    assert "heart (1 distinct of" in problem and "bell" not in problem and "num_folds" not in problem


def test_near_duplicates_are_found_through_recoding_and_in_no_other_image(tmp_path, icons):
    images = icons.images[::40]
    again = []
    for image in images:
        Image.fromarray(image).resize((96, 96)).save(tmp_path / "it.jpg", quality=90)
        again.append(np.asarray(Image.open(tmp_path / "it.jpg").resize((32, 32))))
    pairs = near_duplicates(np.concatenate([images, np.stack(again)]))
    matched = pairs[:, 1] - pairs[:, 0] == len(images)
    assert matched.all() and matched.sum() >= 0.7 * len(images)
    recoloured = np.stack([images, 255 - images], axis=1).reshape(-1, *images.shape[1:])
    assert len(near_duplicates(recoloured)) == 0
    assert near_duplicates(images[:1]).shape == (0, 2)
    assert duplicate_groups(np.array([[0, 3], [3, 1]]), 5).tolist() == [0, 0, 1, 0, 2]


class Run:
    """`diffinv augment` of a folder of two classes of six icons, with a cache and a set of its own."""

    def __init__(self, place: Path, name: str) -> None:
        self.folder, self.cache, self.out = place / "mine", place / name, place / f"{name}_set"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "DIFFINV_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        arguments = ["augment", self.folder, "--out", self.out, "--profile", "smoke", *more]
        command = [sys.executable, "-m", "diffinv", *map(str, arguments)]
        environment["PYTHONPATH"] = str(ROOT)
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self, *more: str) -> None:
        process = self.start(*more)
        assert process.communicate()[1] is not None and process.returncode == 0

    def cells(self) -> int:
        return len(list(self.cache.glob("studies/*.json")))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, icons) -> Run:
    place = tmp_path_factory.mktemp("runs")
    write(place / "mine", icons, {"bell": 6, "heart": 6})
    run = Run(place, "unbroken")
    run.finish()
    return run


def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_an_unbroken_one(unbroken):
    broken = Run(unbroken.out.parent, "broken")
    process = broken.start()
    # In the middle of the cross-validation: vectors, the search and a fold are done, others are not.
    while broken.cells() < unbroken.cells() // 2 + 1:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert broken.cells() < unbroken.cells() and not broken.out.exists()
    vectors = digests(broken.cache / "inversion")

    broken.finish()
    assert digests(broken.out) == digests(unbroken.out)
    assert vectors.items() <= digests(broken.cache / "inversion").items()


def test_parts_of_each_stage_make_the_same_set(unbroken):
    parts = Run(unbroken.out.parent, "parts")
    for part in ("2/2", "1/1"):  # the rest of the first stage and, as there is no other part, all others
        parts.finish("--shard", part)
        assert not parts.out.exists()
    cells, done = parts.cells(), digests(parts.cache)
    assert cells == unbroken.cells()
    parts.finish()
    assert digests(parts.out) == digests(unbroken.out)
    assert parts.cells() == cells and digests(parts.cache / "studies") == {
        name.removeprefix("studies/"): digest for name, digest in done.items() if name.startswith("studies/")
    }


@pytest.fixture(scope="module")
def made(unbroken):
    """The object that the same call returns in Python, out of the same cache, its set, and what it says."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFINV_CACHE", str(unbroken.cache))
        result = augment(unbroken.folder, profile="smoke", device="cpu", report=said.append)
    return result, unbroken.out, "\n".join(said)


def test_each_synthetic_image_is_listed_with_its_original(made):
    result, out, _ = made
    table = pd.read_csv(out / "train.csv")
    assert list(table) == ["path", "label", "synthetic", "source"]
    assert len(table) == len(result.real) + len(result.images) == 3 * len(result.real)
    labels = dict(zip(table["path"], table["label"], strict=True))
    for row in table.itertuples():
        assert (out / row.path).is_file() and not Path(row.path).is_absolute()
        assert row.path.startswith("synthetic/" if row.synthetic else "real/")
        assert row.source.startswith("real/") and labels[row.source] == row.label
        assert row.synthetic or row.source == row.path
    loaded = LabelledImages.load(out / "synthetic")
    assert loaded.ids == result.images.ids and np.array_equal(loaded.images, result.images.images)


def test_the_card_says_what_the_set_is_and_what_it_gains(made):
    result, out, said = made
    card = (out / "README.md").read_text()
    assert card == result.card and result.comparison.verdict in " ".join(card.split())
    counts = [f"| {name} | {count} | {2 * count} |" for name, count in result.real.class_counts().items()]
    for part in ("## Licence", "## Counts", "`tinysd`", *counts, "train.csv", "steps_per_image"):
        assert part in card
    record = json.loads((out / "provenance.json").read_text())
    assert record["chosen"] == result.settings and "created" not in record
    policy = result.settings["training.policy"]
    assert policy in ("none", "randaugment") and policy == record["training"]["policy"]
    parts = ("images of", "estimate, by", "trial:", "chosen on", "% with RandAugment", "real + augmentation")
    for part in parts:
        assert part in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= WIDTH


def test_every_fold_trains_as_long_and_on_its_own_samples(made):
    rows = made[0].comparison.rows
    assert rows.groupby("condition")["seed"].apply(tuple).nunique() == 1
    assert rows["optimiser_steps"].nunique() == 1
    both = rows[rows["condition"] == "real + synthetic"]
    assert (both["num_training_images"] == 3 * both["num_real"]).all(), "2 samples of each training image"
    assert (both["num_real"] < len(made[0].real)).all()


def test_balanced_accuracy_stands_beside_accuracy_where_classes_are_unequal(made):
    equal = made[0].comparison
    assert "balanced" not in str(equal) and "balanced_accuracy" in equal.rows
    unequal = replace(equal, measures=("accuracy", "balanced_accuracy"))
    assert str(unequal).count("balanced accuracy") == 2
    assert max(map(len, str(unequal).splitlines())) <= WIDTH
    assert unequal.record()["means"]["balanced_accuracy"][0]["condition"] == "real"
    json.dumps([made[0].record, made[0].report], default=str, allow_nan=False)


def test_the_set_is_a_dataset_of_torch_with_the_share_asked_for(made):
    result = made[0]
    mixed = result.dataset(synthetic_share=0.75)
    assert mixed.synthetic.mean() == 0.75
    assert {image.tobytes() for image in mixed.images} >= {i.tobytes() for i in result.images.images}
    assert {image.tobytes() for image in mixed.images} >= {i.tobytes() for i in result.real.images}
    batch, labels = next(iter(torch.utils.data.DataLoader(mixed, batch_size=4, shuffle=True)))
    assert batch.shape == (4, 3, 32, 32) and 0 <= batch.min() <= batch.max() <= 1 and len(labels) == 4
    assert len(MixedImages(result.real, result.images, synthetic_share=0)) == len(result.real)
    assert result.dataset(synthetic_share=1, transform=torch.mean)[0][0].ndim == 0
    with pytest.raises(ValueError, match="from 0 to 1"):
        result.dataset(synthetic_share=2)


def test_hugging_face_reads_the_object_and_the_folder(made, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    result, out, _ = made
    own = result.hugging_face()
    assert own.features["label"].names == list(result.real.class_names)
    assert sum(own["synthetic"]) == len(result.images)
    assert np.array_equal(np.asarray(own[0]["image"]), result.real.images[0])
    read = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "hf"))
    assert read["id"] == [*result.real.ids, *result.images.ids]
    folders = datasets.load_dataset("imagefolder", data_dir=str(out / "synthetic"), split="train",
                                    cache_dir=str(tmp_path / "hf"), drop_labels=False)  # fmt: skip
    assert len(folders) == len(result.images) and folders.features["label"].names == ["bell", "heart"]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        result.hugging_face()


def test_a_model_that_sees_nothing_in_the_images_is_found_out(icons, tinysd, tmp_path):
    """Shuffled pixels are no more to it than shuffled again; icons are."""
    plan = prepare(write(tmp_path / "it", icons, {"bell": 6, "heart": 6}), profile="smoke", report=str)
    clip, real = load_clip(), plan.own.real
    assert not list(try_model(tinysd, clip, real, plan.settings, seed=0).faults())
    random = np.random.default_rng(0)
    noise = replace(real, images=random.integers(0, 256, real.images.shape, dtype=np.uint8))
    found = try_model(tinysd, clip, noise, plan.settings, seed=0)
    assert any("shuffled pixels" in fault for fault in found.faults())
    strangers = replace(real, sources=real.ids[::-1], ids=tuple(f"{name}#0" for name in real.ids))
    assert not nearness_to_original(real, strangers, clip)["low"] > 0
    assert nearness_to_original(real, replace(strangers, sources=real.ids), clip)["low"] > 0


def test_photographs_are_sent_to_another_model_before_the_work(tmp_path, icons, capsys, monkeypatch):
    monkeypatch.setattr("diffinv.own_data.augment.try_model", lambda *_, **__: pytest.fail("worked"))
    random = np.random.default_rng(0)
    for name in ("lake", "wood"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            corners = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            corners.resize((144, 96), Image.Resampling.BICUBIC).save(tmp_path / f"photos/{name}/{number}.jpg")
    arguments = ["augment", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *SMALL]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "look like photographs" in said.err and "--profile colab" in said.err and "--anyway" in said.err
    assert "images become 64 px" in said.out
    assert drawn_share(icons.images) > 0.5


def test_machines_get_one_record_and_no_set_goes_among_the_images(tmp_path, icons, capsys):
    root = write(tmp_path / "mine", icons, {"bell": 6, "heart": 8})
    assert main(["augment", str(root), "--check", "--json", *SMALL]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["data"]["images"]["train"] == {"bell": 5, "heart": 7} and not record["warnings"]
    assert [row["stage"] for row in record["estimate"]][-1] == "all"
    assert main(["augment", str(root), "--out", str(root / "set"), "--json", *SMALL]) == 2
    said = capsys.readouterr()
    assert "lies among the images" in said.err and not said.out and not (root / "set").exists()
