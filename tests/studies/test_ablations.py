"""Ablations: one setting changed at a time, a choice among samples, and comparisons that are corrected."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from diffinv.classifiers.training import Training
from diffinv.datasets import load_dataset
from diffinv.lessons.ablations import STARTS, base_condition, beyond, declared
from diffinv.lessons.profiles import PROFILES
from diffinv.method.inversion import check_invertible
from diffinv.models.clip import load_clip
from diffinv.models.diffusion import load_diffusion
from diffinv.studies.ablations import Comparison, MostConfident, OfSome, ablate, compared
from diffinv.studies.economy import calls_per_sample
from diffinv.studies.grid import Condition
from diffinv.synthesizers.base import labelled, numbered
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

TRAINING = Training("resnet8_narrow", optimiser_steps=4, batch_size=8, warmup_steps=1)


@pytest.fixture(scope="module")
def tinysd():
    return load_diffusion("tinysd", device="cpu")


@pytest.fixture(scope="module")
def real():
    return load_dataset("icons10", split="train").per_class(4, seed=0)


class Copies:
    """As a synthesizer: each sample is its real image, its copy number in the first pixel."""

    def __call__(self, real, *, images_per_real, seed):
        sources, copies = numbered(len(real), images_per_real)
        images = real.images[sources].copy()
        images[:, 0, 0, 0] = copies
        return labelled(real, images, sources, copies, {})

    def describe(self):
        return {"synthesizer": "Copies"}


def test_a_grid_changes_its_settings_and_nothing_else(tinysd):
    base = Condition("base", DiffusionInversion(tinysd), TRAINING, 2, 3)
    grid = {
        "sampling.guidance_scale": (1.0, 4.0),
        "images_per_real": (1, 5),
        "training.synthetic_share": (0.25,),
    }
    found = ablate(base, grid)
    assert [each.images_per_real for each in found] == [1, 5, 1, 5]
    last = found[-1]
    assert last.name == "guidance_scale 4.0, images_per_real 5, synthetic_share 0.25"
    assert last.axes == {"guidance_scale": 4.0, "synthetic_share": 0.25}, "the number is a column already"
    assert last.synthesizer == replace(
        base.synthesizer, sampling=replace(base.synthesizer.sampling, guidance_scale=4.0)
    )
    assert last.training == replace(TRAINING, synthetic_share=0.25) and last.real_per_class == 3
    with pytest.raises(ValueError, match=r"there is no setting 'guidance_scale'"):
        ablate(base, {"guidance_scale": (1,)})


def test_clip_keeps_the_samples_that_it_is_surest_of(real):
    class Clip:
        fingerprint = "by the copy number"

        def zero_shot(self, images, prompts):
            assert prompts[0] == f"a {real.class_names[0].replace('_', ' ')} icon"
            sure = torch.from_numpy(images[:, 0, 0, 0].astype(np.float32))
            return sure[:, None].expand(-1, len(prompts))

    choice = MostConfident(Copies(), Clip(), drawn=5)
    kept = choice(real, images_per_real=2, seed=0)
    assert len(kept) == 2 * len(real) and set(kept.images[:, 0, 0, 0]) == {3, 4}
    assert pd.Series(kept.sources).value_counts().eq(2).all(), "every image keeps as many"
    with pytest.raises(ValueError, match="raise drawn"):
        choice(real, images_per_real=6, seed=0)


@pytest.mark.parametrize("judge", [None, TRAINING])
def test_samples_of_some_images_are_as_many_per_class_as_those_of_all(real, judge):
    some = OfSome(Copies(), share=0.5, judge=judge, early_steps=3)
    made = some(real, images_per_real=3, seed=1)
    assert made.class_counts() == {name: 12 for name in real.class_names}
    assert len(set(made.sources)) == len(real) / 2 and len(set(made.ids)) == len(made)
    again = some(real, images_per_real=3, seed=1)
    assert again.ids == made.ids and some(real, images_per_real=3, seed=2).ids != made.ids


def test_the_images_not_learned_are_those_whose_label_is_least_probable(real):
    some = OfSome(Copies(), share=0.25, judge=replace(TRAINING, optimiser_steps=30), early_steps=30)
    learned = some._learned(real, seed=0)
    chosen = set(some(real, images_per_real=1, seed=0).sources)
    for label in range(real.num_classes):
        own = np.flatnonzero(real.labels == label)
        assert real.ids[own[learned[own].argmin()]] in chosen


def test_comparisons_are_corrected_together_and_say_what_to_choose():
    better, base, noisy = (Condition(name, Copies(), TRAINING) for name in ("better", "base", "noisy"))
    accuracies = {"base": (0.5, 0.6, 0.7), "better": (0.61, 0.7, 0.79), "noisy": (0.9, 0.3, 0.7)}
    rows = pd.DataFrame(
        [
            {"condition": name, "seed": seed, "accuracy": value}
            for name, values in accuracies.items()
            for seed, value in enumerate(values)
        ]
    )
    pairs = [
        Comparison("better?", better, base),
        Comparison("noisy?", noisy, base),
        Comparison("or?", base, better),
    ]
    found = compared(pairs, rows)
    assert list(found["choose"]) == ["better", "either", "better"]
    assert (found["p_holm"] >= found["p"]).all() and found["p_holm"].iloc[0] == pytest.approx(
        3 * found["p"].iloc[0]
    )


@pytest.mark.parametrize("start", ["normal", "class_prompt", "mean_prompt"])
def test_whatever_start_is_a_datasets_own_the_others_are_compared_with_it(tinysd, start):
    tiny = PROFILES["tiny"].for_dataset("icons10").changed({"inversion.initialisation": start})
    tiny = tiny.changed({"ablations_lesson.tokens_grid": (4, 99)})
    pairs = declared(tiny, "icons10", tinysd, load_clip())
    starts = [each for each in pairs if each.subject == "start"]
    assert all(each.b.name == f"from {STARTS[start]}, 16 each" for each in starts)
    assert all(side.images_per_real == 16 for each in starts for side in (each.a, each.b))
    assert {each.b.synthesizer.inversion.initialisation for each in starts} == {start}
    others = [each.a.synthesizer.inversion.initialisation for each in starts]
    assert others == [other for other in ("class_prompt", "normal") if other != start]
    assert all(each.question.endswith(f" or {STARTS[start]}, 16 each?") for each in starts)
    # A prompt has 16 vectors at most; a random start has no such bound.
    tokens = [each.a.synthesizer.inversion.num_tokens for each in pairs if each.subject.endswith(" vectors")]
    assert tokens == ([4, 99] if start == "normal" else [4])
    for condition in (side for each in pairs for side in (each.a, each.b)):
        inversion = getattr(condition.synthesizer, "base", condition.synthesizer).inversion
        check_invertible(tinysd, load_dataset("icons10").resize(32), inversion)


def test_the_samples_and_the_batches_of_an_ablation_are_the_ones_it_names(tinysd):
    base = base_condition(PROFILES["tiny"].for_dataset("icons10"), "icons10", tinysd)
    pairs = declared(PROFILES["tiny"].for_dataset("icons10"), "icons10", tinysd, load_clip())
    sides = {side.name: side for each in pairs for side in (each.a, each.b)}
    middle = sides["guidance 2 in 0.25 to 0.75"].synthesizer.sampling
    whole = sides["guidance 2"].synthesizer.sampling
    assert middle == replace(whole, guidance_interval=(0.25, 0.75)) and whole.guidance_scale == 2
    calls = [calls_per_sample(tinysd, each) for each in (base.synthesizer.sampling, middle, whole)]
    assert calls == sorted(set(calls))
    assert (
        sides["from the original noised by 0.4"].synthesizer.sampling.strength == 0.4
        and not sides["from the original noised by 0.4"].with_real
    )
    apart = sides["batch norm apart"]
    assert apart.training.split_batch_norm and apart.with_real
    alone, beside = beyond(pairs)
    assert {
        "from the original noised by 0.4",
        "as chosen",
        "guidance 2",
        "from the class prompt, 16 each",
    } <= set(alone)
    assert {"real + DI", "batch norm apart"} <= set(beside) and not set(alone) & set(beside)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_lesson_declares_is_one_thing_at_a_time(tinysd, profile):
    own = PROFILES[profile].for_dataset(PROFILES[profile].datasets[0])
    pairs = declared(own, "icons10", tinysd, load_clip())
    questions = [each.question for each in pairs]
    assert len(set(questions)) == len(questions) > 8
    by_name = {}
    for each in (side for pair in pairs for side in (pair.a, pair.b)):
        key = repr((each.synthesizer.describe(), each.training, each.images_per_real, each.with_real))
        assert by_name.setdefault(each.name, key) == key, "one name is one condition"
    for pair in pairs:
        assert by_name[pair.a.name] != by_name[pair.b.name], f"{pair.question} compares nothing"
