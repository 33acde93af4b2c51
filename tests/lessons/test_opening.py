"""Every lesson opens in one call, takes each dataset's own settings, and says what it spent."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diffinv.datasets import load_dataset
from diffinv.lessons import SPENT, methods, profiles
from diffinv.lessons.dataset_settings import DatasetSettings
from diffinv.lessons.opening import few_of, opening


def test_an_opening_has_the_profile_the_model_and_the_pools():
    lesson = opening("smoke")
    assert lesson.datasets == lesson.settings.datasets and lesson.diffusion.name == "tinysd"
    counts = lesson.settings.classifier_lesson
    assert set(lesson.own) == {*lesson.datasets, *counts.further_datasets}
    pool = lesson.pool("icons10", seed=3)
    assert set(pool.class_counts().values()) == {counts.pool_per_class}
    assert opening("smoke", dataset="emoji6").datasets == ("emoji6",)


def test_what_a_lesson_leaves_out_can_still_be_asked_for():
    assert opening("smoke").datasets_but(["mnist5k"]) == ["icons10"]
    assert opening("smoke", dataset="mnist5k").datasets_but(["mnist5k"]) == ["mnist5k"]


def test_no_more_shots_are_asked_for_than_the_smallest_class_has():
    pool = opening("smoke").pool("icons10", seed=0)
    assert [few_of(pool, wanted) for wanted in (2, 99)] == [2, min(pool.class_counts().values())]


def test_a_folder_with_few_images_is_asked_for_no_more_than_it_has(tmp_path):
    for split in ("train", "test"):
        load_dataset("icons10", split=split).per_class(3, seed=0).save(tmp_path / split)
    lesson = opening("tiny", dataset=str(tmp_path))
    counts = lesson.own[str(tmp_path)].classifier_lesson
    assert counts.real_per_class_grid == (2,) and counts.number_real_per_class == 3
    assert set(lesson.pool(str(tmp_path), seed=0).class_counts().values()) == {3}


def test_a_dataset_among_several_is_trained_as_it_would_be_alone(monkeypatch):
    own = DatasetSettings("ours", {"training.optimiser_steps": 9, "sampling.guidance_scale": 2.5})
    smoke = replace(profiles.PROFILES["smoke"], dataset_settings={"mnist5k": own})
    monkeypatch.setattr(profiles, "PROFILES", {"smoke": smoke})
    among, alone = opening("smoke"), opening("smoke", dataset="mnist5k")
    for lesson in (among, alone):
        profile = lesson.own["mnist5k"]
        training = profile.training_for("mnist5k")
        assert (training.optimiser_steps, training.augmentation) == (9, "crop")
        assert methods.diffusion_inversion(profile, lesson.diffusion).sampling.guidance_scale == 2.5
    assert among.own["icons10"].training.optimiser_steps == smoke.training.optimiser_steps


def test_what_was_spent_counts_the_images_that_went_through_the_unet():
    lesson = opening("smoke")
    diffusion = lesson.diffusion
    side = lesson.settings.sampling.resolution // diffusion.downsampling_factor
    latents = torch.zeros(3, diffusion.latent_channels, side, side)
    vectors = torch.zeros(3, 2, diffusion.embedding_width, requires_grad=True)
    with torch.no_grad():
        diffusion.predict(latents, torch.tensor(5), vectors)
    diffusion.predict(latents, torch.tensor(5), vectors)
    shown = lesson.spent._repr_mimebundle_()
    assert shown[SPENT] == {"unet_images": 6}
    assert "6 images went through the U-Net, 3 of them with a gradient" in shown["text/plain"]


@pytest.mark.parametrize(
    "given, refused",
    [("profile = 'smoke'", None), ("profile = 'smoke'\nsead = 3", "no parameter 'sead'.*profile, seed")],
)
def test_a_misspelt_parameter_is_refused_that_papermill_only_warns_of(monkeypatch, given, refused):
    cells = [
        "",
        "import sys",
        'profile: str = "tiny"  # how much\nseed: int = 0  # of all',
        f"# Parameters\n{given}",
    ]
    shell = SimpleNamespace(user_ns={"In": [*cells, "lesson = opening(profile)"]})
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    if refused is None:
        opening("smoke")
    else:
        with pytest.raises(ValueError, match=refused):
            opening("smoke")


def test_no_trial_run_writes_over_the_figures_that_are_committed():
    folders = {name: profile.output_dir for name, profile in profiles.PROFILES.items()}
    assert folders.pop("tiny") == "figures" and folders["smoke"] == "runs/smoke"
    assert len(set(folders.values())) == len(folders)
