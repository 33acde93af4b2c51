"""Profiles hold every number of a lesson, and what the paper reported keeps its marks."""

import json
import re
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch

from diffinv.datasets import CATALOGUE, dataset_card
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import PROFILES, load_profile, prompt_for, with_article
from diffinv.models.memory import MemorySettings, Workload
from diffinv.studies.claims import paper_reported, verdict
from diffinv.synthesizers.upstream.settings import UPSTREAM

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_every_profile_knows_its_name():
    assert list(PROFILES) == ["smoke", "tiny", "colab", "day", "paper"]
    assert all(load_profile(name).name == name for name in PROFILES)


def test_an_unknown_profile_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"'huge'.*smoke, tiny, colab, day, paper"):
        load_profile("huge")


def test_a_profile_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        load_profile("tiny").name = "mine"  # type: ignore[misc]


def test_the_environment_decides_under_nbval_alone(monkeypatch):
    monkeypatch.setenv("DIFFINV_PROFILE", "smoke")
    assert load_profile("tiny").name == "tiny"
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "notebooks/00_quickstart.ipynb::Cell 3 (call)")
    assert load_profile("tiny").name == "smoke"
    monkeypatch.delenv("DIFFINV_PROFILE")
    assert load_profile("tiny").name == "tiny"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_the_numbers_of_a_profile_fit_together(profile: Profile):
    lesson, sampling = profile.classifier_lesson, profile.sampling_lesson
    assert len(profile.seeds) >= (2 if profile.name == "smoke" else 5), "an interval needs repetitions"
    assert isinstance(profile.torch_dtype, torch.dtype)
    assert min(lesson.real_per_class_grid) >= 2, "a partner of the same class must exist"
    assert max(lesson.number_real_per_class, *lesson.real_per_class_grid) <= lesson.pool_per_class
    assert max(profile.few_shot_lesson.shots) <= lesson.pool_per_class
    assert profile.augmentation_lesson.validation_seeds <= len(profile.few_seeds)
    assert profile.augmentation_lesson.policies[0] == "none", "all are compared with crops alone"
    assert (
        set(profile.few_shot_lesson.left_out) < set(profile.datasets) or not profile.few_shot_lesson.left_out
    )
    assert sampling.real_per_class >= 2
    assert sampling.interpolation_weights[0] == 0 and sampling.interpolation_weights[-1] == 1
    assert profile.training.warmup_steps < profile.training.optimiser_steps
    for grid in (
        lesson.images_per_real_grid,
        lesson.real_per_class_grid,
        sampling.guidance_grid,
        sampling.noise_grid,
        sampling.weight_grid,
        profile.inversion_lesson.updates_grid,
        profile.inversion_lesson.tokens_grid,
        profile.few_shot_lesson.shots,
    ):
        assert len(grid) >= 2 and list(grid) == sorted(set(grid))


def test_smoke_is_smaller_than_tiny_in_every_count():
    counted = ("_steps", "_images", "_per_class", "_per_image", "_per_real", "_copies", "_rows", "_draws")

    def numbers(thing, prefix=""):
        for field in fields(thing):
            value = getattr(thing, field.name)
            if is_dataclass(value):
                yield from numbers(value, f"{prefix}{field.name}.")
            elif field.name.endswith(counted):
                yield prefix + field.name, value

    smoke, tiny = (dict(numbers(load_profile(name))) for name in ("smoke", "tiny"))
    assert len(smoke) > 10
    assert all(smoke[name] <= tiny[name] for name in smoke)


def test_another_checkpoint_changes_the_name_and_the_side_alone():
    tiny = load_profile("tiny")
    assert tiny.using("", 0) == tiny
    other = tiny.using("models/sd", 64)
    assert (other.model, other.sampling.resolution) == ("models/sd", 64)
    sides = {settings.changes["sampling.resolution"] for settings in other.dataset_settings.values()}
    assert sides == {64}
    back = {"sampling": tiny.sampling, "dataset_settings": tiny.dataset_settings}
    assert replace(other, model=tiny.model, **back) == tiny
    assert tiny.using("models/sd", 0).sampling == tiny.sampling


def test_a_given_side_holds_for_every_dataset():
    paper = load_profile("paper").using("", 64)
    assert {paper.for_dataset(name).sampling.resolution for name in paper.datasets} == {64}
    assert paper.for_dataset("cifar10").sampling.num_inference_steps == 200, "the rest stays its own"


def test_the_gpu_profiles_have_the_papers_datasets_with_settings_of_their_own():
    paper = load_profile("paper")
    assert set(paper.datasets) == set(CATALOGUE) == set(paper.dataset_settings)
    assert set(load_profile("colab").datasets) < set(CATALOGUE)
    origins = {name: settings.origin for name, settings in paper.dataset_settings.items()}
    assert {name for name, origin in origins.items() if origin == "documented"} == {"stl10"}
    for name in paper.datasets:
        own = paper.for_dataset(name)
        assert own.datasets == (name,) and own.for_dataset(name) == own
        assert own.sampling.resolution == (256 if dataset_card(name).resolution >= 96 else 128)
        sizes = own.classifier_lesson
        assert sizes.number_real_per_class == sizes.pool_per_class == sizes.real_per_class_grid[-1]
        assert own.classifier_lesson.further_datasets == ()
        assert sizes.real_per_class_grid[0] >= 2, "a partner of the same class must exist"


def test_photographs_are_not_measured_with_the_clip_of_icons():
    embedded = {profile.name for profile in PROFILES.values() if profile.clip == "tinysd"}
    assert embedded == {"smoke", "tiny"}


def test_all_datasets_stay_where_none_is_named():
    for profile in PROFILES.values():
        assert profile.for_dataset("") is profile
    assert load_profile("tiny").for_dataset("my_images").datasets == ("my_images",)


def test_what_is_documented_stands_in_one_place():
    stl10 = load_profile("paper").for_dataset("stl10")
    assert stl10.dtype == "float32"
    assert (stl10.inversion, stl10.perturbation) == (UPSTREAM.inversion, UPSTREAM.perturbation)
    assert stl10.training == UPSTREAM.training
    same = replace(UPSTREAM.sampling, eta=0.0, batch_size=stl10.sampling.batch_size)
    assert stl10.sampling == same, "an eta is refused where the scheduler takes none"
    assert dataset_card("stl10").resolution == 96


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_memory_is_traded_for_the_largest_update_unless_a_profile_says_how(profile: Profile):
    work = profile.memory_request
    sides = [profile.for_dataset(name).sampling.resolution for name in profile.datasets]
    assert work == Workload(max(sides), profile.inversion.batch_size)
    fixed = MemorySettings(gradient_checkpointing=True)
    assert replace(profile, memory=fixed).memory_request == fixed


def test_an_images_own_side_is_bounded_by_the_models():
    tiny = load_profile("tiny")
    assert replace(tiny, sampling=replace(tiny.sampling, resolution=None)).memory_request.resolution is None


def test_images_are_mirrored_only_where_the_label_stays():
    tiny = load_profile("tiny")
    assert tiny.training_for("mnist5k") == replace(tiny.training, augmentation="crop")
    for name in ("icons10", "my_images", *CATALOGUE):
        assert tiny.training_for(name) == tiny.training


def test_what_a_study_counts_is_what_it_runs():
    lesson = replace(
        load_profile("tiny").classifier_lesson,
        number_real_per_class=8,
        images_per_real_grid=(1, 4),
        real_per_class_grid=(2, 8),
        images_per_real=4,
        real_alone_grid=(32,),
    )
    # Eight real images with 1 and 4 samples each, and two with 4: the point (8, 4) is in both studies. Real
    # images of three sizes; samples alone at the eight; both at each point.
    assert (lesson.samples_per_class, lesson.classifiers_per_seed) == (8 * 4 + 2 * 4, 3 + 2 + 3)


def test_the_paper_profile_has_the_papers_settings():
    paper = load_profile("paper")
    assert paper.model == "CompVis/stable-diffusion-v1-4"
    assert (paper.inversion.num_tokens, paper.inversion.learning_rate, paper.inversion.weight_decay) == (
        5,
        0.03,
        0.01,
    )
    assert (paper.sampling.guidance_scale, paper.sampling.num_inference_steps) == (2.0, 100)
    assert (paper.perturbation.noise_std, paper.perturbation.interpolation_weight) == (0.1, 0.1)
    assert paper.perturbation.unconditional == "mean"
    assert paper.training.synthetic_share is None, "concatenated, as upstream"
    assert (paper.training.optimiser_steps, paper.training.warmup_steps) == (50_000, 1000)
    assert (paper.training.architecture, paper.training.augmentation) == ("resnet18", "crop_flip")


def test_a_prompt_names_the_class():
    assert prompt_for("icons10", "red_heart") == "a red heart icon"
    assert "7" in prompt_for("mnist5k", "7")
    assert prompt_for("some/folder", "cat") == "a cat"
    assert prompt_for("eurosat", "river") == "a centered satellite photo of river"


def test_a_prompt_is_shown_with_the_article_that_a_reader_expects():
    shown = {
        "a umbrella icon": "an umbrella icon",
        "a outline mic icon on teal": "an outline mic icon on teal",
    }
    shown |= {"a hourglass": "an hourglass", "a user icon": "a user icon", "idea of a cat": "idea of a cat"}
    assert {prompt: with_article(prompt) for prompt in shown} == shown


def test_reported_numbers_keep_their_marks():
    rows = paper_reported()
    assert set(rows["verified"]) == {"primary", "secondary"}
    fig6 = paper_reported("fig6").pivot(index="dataset", columns="method", values="value")
    assert (fig6["DI"] - fig6["real"]).round(1).to_dict() == {"imagenette": 1.6, "stl10": 5.7}
    assert "2-3" in set(paper_reported("headline")["value"])
    with pytest.raises(ValueError, match=r"'fig99'.*fig6"):
        paper_reported("fig99")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.2, "supported"),
        (-0.2, -0.1, "contradicted"),
        (-0.1, 0.1, "undecided"),
        (0.0, 0.1, "undecided"),
        (-0.02, 0.03, "undecided"),
        (-0.02, 0.02, "no difference"),
    ],
)
def test_a_verdict_needs_an_interval_clear_of_zero(low, high, expected):
    assert verdict(low, high) == expected


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_holds_no_number_of_a_profile(path: Path):
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "lesson = opening(profile" in code
    counts = (
        r"steps_per_image=\d\d|num_inference_steps=\d|optimiser_steps=\d|images_per_real=\d|seeds=[\[(]\d"
    )
    assert not re.findall(counts, code)


def test_a_day_asks_the_papers_questions_of_the_papers_datasets():
    day, paper = load_profile("day"), load_profile("paper")
    assert day.datasets == paper.datasets and day.seeds == paper.seeds and day.model == paper.model
    assert day.fast and day.training.fast and day.dtype == "bfloat16" and not paper.fast
    for name in day.datasets:
        own, papers = day.for_dataset(name), paper.for_dataset(name)
        assert own.sampling.resolution == papers.sampling.resolution
        assert own.classifier_lesson.pool_per_class <= papers.classifier_lesson.pool_per_class
        assert own.classifier_lesson.pool_per_class >= max(own.few_shot_lesson.shots)
