"""Lessons on datasets as unequal as those of the GPU profiles: other steps, numbers of images and sides."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest

from diffinv.datasets import CATALOGUE
from diffinv.lessons.ablations import declared
from diffinv.lessons.dataset_settings import DatasetSettings
from diffinv.lessons.profiles import PROFILES

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FEW = {
    "training.optimiser_steps": 6,
    "sampling.num_inference_steps": 2,
    "classifier_lesson.pool_per_class": 3,
    "classifier_lesson.number_real_per_class": 3,
    "classifier_lesson.real_per_class_grid": (2, 3),
    "ablations_lesson.real_per_class": 4,
}
MANY = {"classifier_lesson.real_per_class_grid": (3, 4)}
SMOKE = PROFILES["smoke"]
UNEQUAL = replace(
    SMOKE,
    dataset_settings={"icons10": DatasetSettings("ours", MANY), "mnist5k": DatasetSettings("ours", FEW)},
    classifier_lesson=replace(SMOKE.classifier_lesson, real_alone_grid=()),
    generator_lesson=replace(SMOKE.generator_lesson, real_per_class=4, autoencoding_grid=(32, 64)),
)


@pytest.mark.parametrize("number", ["03", "04"])
def test_a_lesson_runs_where_datasets_differ(number, monkeypatch, tmp_path):
    monkeypatch.setitem(PROFILES, "smoke", UNEQUAL)
    monkeypatch.setenv("DIFFINV_HEADLESS", "1")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    space: dict = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "%pip" not in source:
            exec(compile(ast.parse(source), f"{path.name}, {cell['id']}", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            space |= {"profile": "smoke", "output_dir": str(tmp_path)}
    plt.close("all")
    assert set(space["datasets"]) == {"icons10", "mnist5k"} and list(tmp_path.glob("*_claims.csv"))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_no_ablation_asks_for_more_images_or_memory_than_there_are(profile):
    stable: Any = SimpleNamespace(native_resolution=512, tokenizer=SimpleNamespace(model_max_length=77))
    for name in profile.datasets:
        own = profile.for_dataset(name)
        pixels = [own.inversion.batch_size * (own.sampling.resolution or 32) ** 2]
        for comparison in declared(own, name, stable, None):
            for side in (comparison.a, comparison.b):
                assert side.real_per_class <= own.classifier_lesson.pool_per_class
                made = getattr(side.synthesizer, "base", side.synthesizer)
                pixels.append(made.inversion.batch_size * (made.sampling.resolution or 32) ** 2)
        assert profile.device == "cpu" or max(pixels) == pixels[0]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_every_dataset_has_vectors_enough_for_the_centroids_of_lesson_12(profile):
    """Which codes the vectors of the pool of whatever dataset is asked for."""
    for name in {*profile.datasets} & CATALOGUE.keys():
        own = profile.for_dataset(name)
        images = len(CATALOGUE[name].class_names) * own.classifier_lesson.pool_per_class
        assert images * own.inversion.num_tokens >= 256
