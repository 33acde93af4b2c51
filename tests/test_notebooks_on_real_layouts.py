"""Lessons 01 to 03 from end to end on checkpoints and datasets as they are published, in small."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkpoints import build_stable_diffusion, downloaded, write_as_published
from original_layout import write_single_file
from published_datasets import fill_hub_cache, medmnist_arrays
from safetensors import safe_open

from diffinv.datasets import CATALOGUE
from diffinv.models.checkpoint import PINNED_REVISIONS
from diffinv.models.single_file import SD1_CONFIG
from diffinv.reproduce.runner import reproduce

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
pytestmark = pytest.mark.timeout(900)  # half a minute each on a core of its own

WIDTHS = {1: 24, 2: 32}  # of the vectors of a small SD 1.x and SD 2.x


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """What a researcher without a network has: the hub's cache, other checkpoints, and a MedMNIST file."""
    library = tmp_path_factory.mktemp("library")
    sd1, sd2 = build_stable_diffusion(1), build_stable_diffusion(2)
    hub = library / "hub"
    write_as_published(sd1, downloaded(hub, SD1_CONFIG, PINNED_REVISIONS[SD1_CONFIG]))
    fill_hub_cache(hub, "cifar10", per_class=5, size=(32, 32))
    write_as_published(sd2, library / "sd2-sharded", max_shard_size="300KB")
    assert len(list((library / "sd2-sharded" / "unet").glob("*-of-*.safetensors"))) > 1
    write_as_published(sd1, library / "sd1-fp16", variant="fp16")
    assert not list((library / "sd1-fp16" / "unet").glob("*model.safetensors"))
    write_single_file(sd1, library / "merge.safetensors")
    write_as_published(build_stable_diffusion(1, distilled=True), library / "distilled")
    np.savez_compressed(library / "bloodmnist.npz", **medmnist_arrays("bloodmnist"))
    return library


@pytest.fixture
def run(library, tmp_path, monkeypatch):
    """Runs a lesson as `diffinv reproduce` does, and returns the folder with its figures."""
    monkeypatch.setenv("HF_HUB_CACHE", str(library / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # No copy that the user happens to have.
    monkeypatch.setenv("HOME", str(shutil.copytree(library, tmp_path / "home", ignore=lambda *_: ["hub"])))

    def run(number: str, model: str, dataset: str) -> Path:
        parameters = {"model": model, "dataset": dataset, "resolution": "64"}
        (outcome,) = reproduce(
            "smoke", only=[number], output=tmp_path / "figures", notebooks=NOTEBOOKS, parameters=parameters
        )
        assert outcome.error is None
        assert outcome.figures
        return tmp_path / "figures"

    return run


def learned_widths() -> set[int]:
    """How wide the vectors are that the lesson has learned and kept."""
    widths = set()
    for path in Path(os.environ["DIFFINV_CACHE"], "inversion").rglob("*.safetensors"):
        with safe_open(path, framework="pt") as shard:
            widths.add(shard.get_slice("embeddings").get_shape()[-1])
    return widths


def classifier_rows(figures: Path) -> pd.DataFrame:
    return pd.read_csv(figures / "classifier_by_number_generated.csv")


def test_inversion_of_the_hubs_dataset_by_the_hubs_checkpoint(run):
    figures = run("01", SD1_CONFIG, "cifar10")
    assert learned_widths() == {WIDTHS[1]}
    columns = pd.read_csv(figures / "inversion_loss.csv").columns
    assert set(columns[1:5]) <= set(CATALOGUE["cifar10"].class_names)


def test_sampling_with_a_sharded_checkpoint_that_predicts_the_velocity(run, library):
    figures = run("02", str(library / "sd2-sharded"), "cifar10")
    assert learned_widths() == {WIDTHS[2]}
    scores = pd.read_csv(figures / "sampling_sweeps.csv")
    assert {"guidance_scale", "noise_std", "interpolation_weight"} == set(scores.setting)
    assert np.isfinite(scores["mean"]).all()


def test_classifiers_of_a_medmnist_file_with_half_precision_weights(run):
    figures = run("03", "~/sd1-fp16", "~/bloodmnist.npz")
    assert learned_widths() == {WIDTHS[1]}
    rows = classifier_rows(figures)
    assert set(rows.dataset) == {"~/bloodmnist.npz"}
    assert set(rows.condition) == {"real", "DI", "real + DI"} and rows["mean"].between(0, 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["~/merge.safetensors", "~/distilled"])
def test_the_quickstart_on_other_checkpoints(model, run):
    summary = pd.read_csv(run("00", model, "cifar10") / "quickstart.csv")
    assert learned_widths() == {WIDTHS[1]}
    assert set(summary.condition) == {"real", "DI", "real + DI"}
