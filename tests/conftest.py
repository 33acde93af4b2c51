"""Fixtures shared by all tests: a fresh cache each, small random checkpoints, small images."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from jaxtyping import install_import_hook

# Before anything imports the package.
CORE = ("method", "models", "metrics", "synthesizers")
install_import_hook([f"diffinv.{room}" for room in CORE], "shape_checks.check_shapes")

ASSETS = Path(__file__).parent.parent / "diffinv" / "assets"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and "DIFFINV_SLOW" not in os.environ:
        pytest.skip("minutes or gigabytes: set DIFFINV_SLOW=1")


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory, monkeypatch) -> Path:
    """No test sees what another one, or the user, has cached."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DIFFINV_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny_diffusion(tiny_checkpoint):
    """A random Stable-Diffusion-shaped model (epsilon prediction, 32 px, embedding width 16)."""
    from diffinv.models.diffusion import load_diffusion

    return load_diffusion(str(tiny_checkpoint), device="cpu")


@pytest.fixture(scope="session")
def v_prediction_diffusion(tmp_path_factory):
    from diffinv.models.diffusion import load_diffusion

    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny_v", "v_prediction")
    return load_diffusion(str(folder), device="cpu")


@pytest.fixture(scope="session")
def tinysd():
    """The embedded checkpoint."""
    from diffinv.models.diffusion import load_diffusion

    if not (ASSETS / "tinysd" / "model_index.json").is_file():
        pytest.skip("the embedded checkpoint diffinv/assets/tinysd is not there")
    return load_diffusion("tinysd", device="cpu")


@pytest.fixture(scope="session")
def toy_images():
    """3 classes x 6 images of 16 px: a bright disc, square or cross at a random place on a dark ground."""
    return make_toy_images()


def make_toy_images():
    from diffinv.datasets import LabelledImages

    names = ("disc", "square", "cross")
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    images, labels, ids = [], [], []
    for label, name in enumerate(names):
        for number in range(6):
            y, x = random.integers(5, 11, size=2)
            down, right = np.abs(rows - y), np.abs(columns - x)
            mask = {
                "disc": down**2 + right**2 <= 16,
                "square": np.maximum(down, right) <= 3,
                "cross": (np.minimum(down, right) <= 1) & (np.maximum(down, right) <= 4),
            }[name]
            ground, ink = random.integers(0, 60, size=3), random.integers(150, 256, size=3)
            images.append(np.where(mask[..., None], ink, ground).astype(np.uint8))
            labels.append(label)
            ids.append(f"train/{name}/{number:04d}")
    return LabelledImages(
        images=np.stack(images),
        labels=np.array(labels, dtype=np.int64),
        class_names=names,
        ids=tuple(ids),
        sources=None,
        provenance={"name": "toy"},
    )


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """A hub that cannot be reached, and an empty folder of what was downloaded from it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def chromium():
    """Headless, by playwright; the test is skipped where playwright or Chromium is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
