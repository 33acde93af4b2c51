"""The command line: instant help, one sentence per user error, and the practitioner's three verbs."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffinv.commands import doctor
from diffinv.commands.main import main
from diffinv.commands.options import in_terms_of
from diffinv.foundation.text import percent

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def folder(tmp_path, toy_images):
    """The toy images twice over, as plain class folders."""
    for index, label in enumerate([*toy_images.labels, *toy_images.labels]):
        path = tmp_path / "toys" / toy_images.class_names[label] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(toy_images.images[index % len(toy_images)], index, axis=1)).save(path)
    return tmp_path / "toys"


def test_help_is_instant():
    code = (
        "import sys\nfrom diffinv.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    loaded = "print({'torch', 'numpy', 'papermill', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + loaded], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    for verb in ("reproduce", "invert", "sample", "evaluate", "doctor", "pretrain"):
        assert f"\n    {verb}" in done.stdout
    for code in ("0 done", "1 a part", "2 bad input", "130 interrupted"):
        assert code in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reproduce", "--profile", "huge"], "there is no profile 'huge'"),
        (["reproduce", "--profile", "smoke", "--only", "42"], "no notebook '42'"),
        (["reproduce", "--profile", "smoke", "--notebooks", "nowhere"], "no numbered notebook"),
        (["reproduce", "--profile", "smoke", "-p", "seed"], "NAME=VALUE, not 'seed'"),
        (["invert", "nowhere", "--out", "store"], "no dataset or folder"),
        (["invert", "icons10", "--out", "store", "--learning-rate", "0"], "--learning-rate is 0"),
        (["invert", "icons10", "--out", "store", "--resolution", "36"], "choose --resolution 48"),
        (["invert", "icons10", "--out", "store", "--device", "tpu"], "device 'tpu' cannot be used"),
        (["invert", "icons10", "--out", "store", "--device", "meta"], "choose cpu"),
        (["evaluate", "icons10", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["invert", "icons10", "--out", "store", "--model", "nowhere"], "'nowhere' does not exist"),
        (["sample", "nowhere", "--out", "images"], "nowhere holds no embedding store"),
        (["evaluate", "nowhere"], "no dataset or folder"),
        (["evaluate", "icons10", "--real-per-class", "100000"], "100000"),
        (["evaluate", "icons10", "some", "--out", "card.html"], "name the file of numbers, card.json"),
        (["evaluate", "icons10", "nowhere"], "there is no folder nowhere"),
        (["evaluate", "icons10", "some", "--images-per-real", "5"], "--images-per-real is for REAL alone"),
        (["evaluate", "icons10", "some", "--model", "tinysd"], "--model is for REAL alone"),
        (["evaluate", "icons10", "--clip", "tinysd"], "--features needs SYNTHETIC"),
        (["evaluate", "icons10", "--against-real"], "--against-real needs SYNTHETIC"),
    ],
)
def test_a_users_error_is_one_sentence(arguments, sentence, capsys, tmp_path, monkeypatch):
    if "--notebooks" not in arguments and arguments[0] == "reproduce":
        arguments = [*arguments, "--notebooks", str(NOTEBOOKS)]
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.err.endswith(".\n")
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["invert", "folder"],
        ["reproduce", "--jobs", "many"],
        ["invert", "icons10", "--out", "store", "--num-tokens", "0"],
        ["invert", "icons10", "--out", "store", "--resolution", "0"],
        ["sample", "store", "--out", "images", "--images-per-real", "-3"],
        ["evaluate", "icons10", "--images-per-real", "-3"],
        ["evaluate", "icons10", "--seeds", "2"],
        ["evaluate", "icons10", "made", "--no-accuracy", "--seeds", "-1"],
        ["evaluate", "icons10", "made", "--neighbours", "0"],
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        (
            'choose fit="pad", or go on with skip_damaged=True.',
            "choose --fit pad, or go on with --skip-damaged.",
        ),
        ('class_level="leaf" for a train folder.', "--class-level leaf for a train folder."),
        (
            "num_tokens is 0: set interpolation_weight=0.5.",
            "--num-tokens is 0: set --interpolation-weight 0.5.",
        ),
        (
            "/num_tokens/fit=1/skip_damaged.png fit the seed.",
            "/num_tokens/fit=1/skip_damaged.png fit the seed.",
        ),
        ("images_per_real=3 and dtype='x'", "images_per_real=3 and dtype='x'"),  # no options of this verb
    ],
)
def test_a_sentence_on_arguments_speaks_of_the_options_of_the_verb(sentence, said):
    options = ("fit", "skip_damaged", "class_level", "num_tokens", "interpolation_weight", "seed", "folder")
    assert in_terms_of(argparse.Namespace(**dict.fromkeys(options)), sentence) == said


@pytest.mark.parametrize("verb", ["invert", "evaluate"])
def test_remedies_and_warnings_of_reading_are_options_on_the_command_line(verb, folder, tmp_path):
    (folder / "disc" / "bad.png").write_bytes(b"")
    Image.new("RGB", (32, 64)).save(folder / "disc" / "tall.png")

    def run(*more):
        command = [sys.executable, "-m", "diffinv", verb, str(folder), "--out", "out", "--profile", "smoke"]
        command += ["--model", "nowhere", *more]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert "go on without it with --skip-damaged." in run().stderr
    said = run("--skip-damaged").stderr
    assert "choose --fit pad or --fit squash for another way." in said and "'nowhere' does not exist" in said
    (folder / "disc" / "inner" / "deep").mkdir(parents=True)
    for name in ("inner", "inner/deep"):
        Image.new("RGB", (32, 32)).save(folder / "disc" / name / "0.png")
    (folder / "outer" / "leaf").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "outer" / "leaf" / "0.png")
    assert "choose --class-level top for the classes" in run("--skip-damaged").stderr


def test_a_class_of_one_image_is_refused_before_the_work_with_a_remedy_that_works(
    folder, tiny_checkpoint, tmp_path, capsys, monkeypatch
):
    for path in sorted((folder / "disc").iterdir())[1:]:
        path.unlink()
    arguments = ["evaluate", str(folder), "--profile", "smoke", "--model", str(tiny_checkpoint)]
    arguments += ["--images-per-real", "1", "--out", str(tmp_path / "e.json")]
    with monkeypatch.context() as patch:
        patch.setattr("diffinv.studies.grid.train_classifier", None)  # would fail
        assert main(arguments) == 2
    assert "'disc' has a single image" in (said := capsys.readouterr().err)
    assert "set --interpolation-weight 0 or" in said
    assert main([*arguments, "--interpolation-weight", "0"]) == 0
    table = capsys.readouterr().out
    assert "balanced accuracy" in table and "\ndisc" in table  # which has no test image


@pytest.mark.parametrize("place", ["mine", "file/below", "/proc/x"])
@pytest.mark.parametrize("verb", ["invert", "sample", "evaluate", "judge"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    verb, place, tmp_path, capsys, monkeypatch
):
    """Nothing is loaded: what is to be worked on is not even there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("in the way")
    out = place if verb in ("invert", "sample") or place == "mine" else f"{place}/e.json"
    arguments = {"judge": ["evaluate", "nowhere", "made"]}.get(verb, [verb, "nowhere"])
    assert main([*arguments, "--out", out]) == 2
    assert (
        Path(place).name in (said := capsys.readouterr().err) and "choose" in said and "nowhere" not in said
    )


def test_the_sides_of_images_that_the_model_does_not_take_are_said(
    folder, tiny_checkpoint, tmp_path, capsys, caplog
):
    """Photographs are larger than a small model draws, and of a side that it does not take."""
    arguments = ["--profile", "smoke", "--resolution", "36", "--model", str(tiny_checkpoint)]
    arguments += ["--images-per-real", "1", "--out", str(tmp_path / "e.json")]
    assert main(["evaluate", str(folder), *arguments]) == 0
    said = " ".join(caplog.messages)
    assert "images of 36 px are drawn at 40 px" in said
    assert "'tiny' draws images of 32 px, and worse ones of 40 px" in said and "--resolution 32" in said
    assert " s or more" in said
    assert "the majority class, would score 33.3%" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["stdout", "another pipe"])
def test_only_a_broken_standard_output_means_that_the_reader_had_enough(broken):
    code = (
        "import os, sys\nfrom diffinv.commands import doctor\nfrom diffinv.commands.main import main\n"
        "def run(options):\n"
        f"    if {broken == 'stdout'}: return sys.stdout.write('much' * 100000) and 0\n"
        "    read, write = os.pipe(); os.close(read); os.write(write, b'x')\n"
        "doctor.run = run\nsys.exit(main(['doctor']))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    if broken == "stdout":
        process.stdout.close()
    said = process.stderr.read().decode()
    assert (process.wait(), said == "") == ((0, True) if broken == "stdout" else (1, False)), said


def test_a_report_reaches_an_ascii_terminal_whatever_draws_figures():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "MPLBACKEND": "nonsense"}
    code = (
        "import sys\nfrom diffinv.commands import doctor\nfrom diffinv.commands.main import main\n"
        "def run(options):\n    import matplotlib.pyplot\n    return sys.stdout.write('grün') and 0\n"
        "doctor.run = run\nsys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "gr\\xfcn"), done.stderr


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("DIFFINV_DEBUG", "1")
    with pytest.raises(ValueError, match="huge"):
        main(["reproduce", "--profile", "huge"])


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (FileNotFoundError(2, "No such file or directory", "there.txt"), 2, "there.txt: no such file"),
        (MemoryError(), 2, "memory ran out"),
        (ModuleNotFoundError("No module named 'papermill'", name="papermill"), 2, "diffinv[notebooks]"),
    ],
)
def test_what_goes_wrong_outside_is_a_sentence_too(error, code, sentence, capsys, monkeypatch):
    def fail(options):
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == code
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("a shape is wrong"), KeyError("x"), ModuleNotFoundError("torch")]
)
def test_a_defect_is_not_dressed_up_as_a_users_error(error, monkeypatch):
    def fail(options):
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(type(error)):
        main(["doctor"])


def test_invert_then_sample_is_what_the_library_does(folder, tiny_checkpoint, tmp_path, capsys):
    from diffinv import DiffusionInversion, LabelledImages, load_dataset, load_diffusion, load_profile

    model = ["--profile", "smoke", "--model", str(tiny_checkpoint)]
    store, images = tmp_path / "store", tmp_path / "images"
    assert main(["invert", str(folder), "--out", str(store), "--resolution", "32", *model]) == 0
    more = ["--images-per-real", "2", "--seed", "3", "--out", str(images)]
    assert main(["sample", str(store), *more, *model]) == 0
    assert "holds" in capsys.readouterr().out

    profile = load_profile("smoke")
    real = load_dataset(folder, split="train", resolution=32)
    synthesizer = DiffusionInversion(
        load_diffusion(str(tiny_checkpoint), device="cpu"),
        profile.inversion,
        profile.perturbation,
        profile.sampling,
    )
    expected = synthesizer(real, images_per_real=2, seed=3)
    drawn = LabelledImages.load(images)
    assert drawn.ids == expected.ids and drawn.sources == expected.sources
    np.testing.assert_array_equal(drawn.labels, expected.labels)
    np.testing.assert_array_equal(drawn.images, expected.images)


def test_a_store_of_another_checkpoint_is_refused(folder, tiny_checkpoint, tmp_path, capsys):
    from checkpoints import write_checkpoint

    other = write_checkpoint(tmp_path / "other", seed=1)
    model = ["--profile", "smoke", "--model"]
    store = str(tmp_path / "store")
    assert main(["invert", str(folder), "--out", store, *model, str(tiny_checkpoint)]) == 0
    assert main(["sample", store, "--out", str(tmp_path / "images"), *model, str(other)]) == 2
    assert "invert the images again" in capsys.readouterr().err
    assert not (tmp_path / "images").exists()


def test_evaluate_compares_three_training_sets(folder, tiny_checkpoint, tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = ["--profile", "smoke", "--model", str(tiny_checkpoint), "--images-per-real", "2"]
    arguments += ["--real-per-class", "2"]
    assert main(["evaluate", str(folder), *arguments, "--out", str(report)]) == 0
    table = capsys.readouterr().out
    record = json.loads(report.read_text())
    assert sum(record["images"]["train"].values()) == record["results"][0]["training_images"]
    real, synthetic, both = record["results"]
    assert [row["trained_on"] for row in record["results"]] == ["real", "synthetic", "real + synthetic"]
    assert synthetic["training_images"] == 2 * real["training_images"]
    assert both["training_images"] == 3 * real["training_images"]
    assert len(record["rows"]) == 3 * 3  # three training sets, three seeds
    assert len({row["optimiser_steps"] for row in record["rows"]}) == 1
    for row in record["results"]:
        accuracies = [r["accuracy"] for r in record["rows"] if r["condition"] == row["trained_on"]]
        assert row["mean"] == pytest.approx(np.mean(accuracies)) and row["low"] <= row["mean"] <= row["high"]
        assert percent(row["mean"], row["low"], row["high"]) in table
    assert "accuracy against real:\n  synthetic: " in table and max(map(len, table.splitlines()[:-1])) <= 80
    assert main(["evaluate", str(folder), *arguments, "--out", str(report), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed == json.loads(report.read_text()) and printed["results"] == record["results"]


def test_evaluate_judges_a_saved_synthetic_set(folder, tmp_path, capsys):
    from diffinv import load_dataset

    train = load_dataset(folder, split="train")
    copied = replace(
        train,
        images=np.concatenate([train.images, train.images[:, ::-1]]),
        labels=np.concatenate([train.labels, train.labels]),
        ids=tuple(f"{name}#{copy}" for copy in (0, 1) for name in train.ids),
        sources=train.ids * 2,
    )
    copied.save(tmp_path / "made")
    out = tmp_path / "reports" / "made.json"
    arguments = ["--profile", "smoke", "--against-real", "--neighbours", "2", "--out", str(out)]
    assert main(["evaluate", str(folder), str(tmp_path / "made"), *arguments]) == 0
    text, record, page = capsys.readouterr().out, json.loads(out.read_text()), out.with_suffix(".html")
    assert "<h1>made against toys</h1>" in page.read_text() and str(page) in text
    assert record["images"]["real"]["fingerprint"] == train.fingerprint
    assert record["images"]["test"]["count"] == len(load_dataset(folder, split="test"))
    assert record["copies"]["share"] >= 0.5 and record["copies"]["closest"][0]["ratio"] == 0
    assert record["gain"]["n"] == 3 and record["settings"]["k"] == 2
    for row in record["metrics"]:
        assert f"\n{row['metric']}" in text
    assert {row["measure"] for row in record["accuracies"]} == {"accuracy", "balanced accuracy"}
    for row in record["accuracies"]:
        assert f"trained on {row['condition']} images" in text
        assert percent(row["mean"], row["low"], row["high"]) in text


def test_evaluate_judges_plain_class_folders_by_the_names_of_the_classes(
    folder, tmp_path, monkeypatch, capsys
):
    from diffinv import load_dataset

    monkeypatch.chdir(tmp_path)
    real = load_dataset(folder, split="train")
    test = load_dataset(folder, split="test", resolution=real.resolution)
    real.save(tmp_path / "real")  # one set without splits
    test.save(tmp_path / "held_out")
    for name in ("disc", "cross"):  # no square
        for index in range(4):
            path = tmp_path / "made" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).integers(0, 256, (50, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    arguments = ["evaluate", "real", "made", "--no-accuracy", "--neighbours", "2", "--profile", "smoke"]
    assert main(arguments) == 0
    record = json.loads(Path("made-evaluation.json").read_text())
    by_class = {row["class"]: row["synthetic images"] for row in record["by_class"]}
    assert by_class == {"disc": 4, "square": 0, "cross": 4}
    assert record["leaks"] is None and record["accuracies"] is None
    assert "leaks were not looked for" in capsys.readouterr().out
    assert main([*arguments, "--test", "held_out"]) == 0
    record = json.loads(Path("made-evaluation.json").read_text())
    assert record["images"]["test"] == {"count": len(test), "fingerprint": test.fingerprint}
    (tmp_path / "made" / "circle").mkdir()
    assert main(arguments) == 2
    assert 'has the class "circle", which the real images have not' in capsys.readouterr().err


def test_doctor_says_what_is_here_and_what_is_damaged(tmp_path, monkeypatch, capsys):
    (tmp_path / "datasets" / "few").mkdir(parents=True)
    (tmp_path / "datasets" / "few" / "train.parquet").write_bytes(b"whole")
    monkeypatch.setattr(doctor, "ASSETS", tmp_path)

    def line(value, file):
        return f"{value}  {file}\n"

    whole = hashlib.sha256(b"whole").hexdigest()
    (tmp_path / "SHA256SUMS").write_text(line(whole, "datasets/few/train.parquet"))
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for word in ("torch", "device", "memory", "cores", "cache", "network", "checksums match"):
        assert word in report
    (tmp_path / "SHA256SUMS").write_text(line("0" * 64, "datasets/few/train.parquet"))
    assert main(["doctor"]) == 1
    assert "not the file that was shipped" in capsys.readouterr().out
    (tmp_path / "SHA256SUMS").write_text(line(whole, "tinysd/unet/model.safetensors"))
    assert main(["doctor"]) == 1
    assert "tinysd/unet/model.safetensors is missing" in capsys.readouterr().out


def test_pretrain_hands_its_arguments_on(monkeypatch):
    given = []
    stand_in = types.ModuleType("diffinv.tinysd.pretrain")
    stand_in.main = given.append
    monkeypatch.setitem(sys.modules, "diffinv.tinysd.pretrain", stand_in)
    assert main(["pretrain", "--stage", "vae", "--resume"]) == 0
    assert given == [["--stage", "vae", "--resume"]]


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{} findings nowhere >&-", 2, "nowhere"),
        ("{} findings {}/figures > /dev/full", 2, "no space left"),
        ("mkdir gone; cd gone; rmdir ../gone; {} --version", 2, "is gone"),
    ],
)
def test_an_output_or_a_folder_that_is_gone_is_said(tmp_path, shell, code, said):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = shell.format(f"{sys.executable} -m diffinv", root)
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr, done
