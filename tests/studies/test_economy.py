"""Bytes and network calls against accuracy: every one counted, and equality said as far as it is known."""

import numpy as np
import pandas as pd
import pytest

from diffinv.artefacts.compression import pack
from diffinv.classifiers.training import Training
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion
from diffinv.method.perturbation import Perturbation
from diffinv.method.sampling import Sampling
from diffinv.studies.architectures import architecture_conditions
from diffinv.studies.economy import (
    beside_reference,
    calls_per_sample,
    codec_conditions,
    equivalence,
    goal_in_words,
    sampler_conditions,
    sampler_name,
)
from diffinv.studies.grid import run_study
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

TRAINING = Training(architecture="resnet8_narrow", optimiser_steps=2, batch_size=8, warmup_steps=1)


@pytest.fixture
def method(tiny_diffusion):
    return DiffusionInversion(
        tiny_diffusion,
        Inversion(num_tokens=2, steps_per_image=2),
        Perturbation(noise_std=0, interpolation_weight=0),
        Sampling(num_inference_steps=2, guidance_scale=1, resolution=16),
    )


def rows_of(**reached):
    return pd.DataFrame(
        {"condition": name, "seed": seed, "accuracy": accuracy, "calls": len(name)}
        for name, accuracies in reached.items()
        for seed, accuracy in enumerate(accuracies)
    )


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.009, 0.02, "within"),
        (0.02, 0.05, "within"),
        (-0.011, 0.05, "undecided"),
        (-0.05, -0.011, "not within"),
        (-0.05, -0.009, "undecided"),
    ],
)
def test_equality_is_an_interval_above_the_margin(low, high, said):
    assert equivalence(low, high) == said


def test_each_condition_stands_beside_the_reference_seed_by_seed():
    rows = rows_of(whole=(0.5, 0.6, 0.7), half=(0.5, 0.6, 0.7), bad=(0.1, 0.2, 0.3))
    table = beside_reference(rows, "whole", ["calls"])
    found = table.set_index("condition")
    assert found.loc["whole", "verdict"] == "reference"
    assert found.loc["half", ["difference", "verdict"]].tolist() == [0, "within"]
    assert found.loc["bad", "difference"] == pytest.approx(-0.4)
    assert found.loc["bad", "verdict"] == "not within" and found.loc["bad", "accuracy"] == pytest.approx(0.2)
    assert (table["n"] == 3).all()


def test_the_goal_is_met_by_the_cheapest_that_is_within_and_asks_for_its_share():
    table = pd.DataFrame(
        {
            "condition": ["all", "fifth", "tenth", "hundredth"],
            "calls": [200, 40, 20, 2],
            "difference": [0, 0.0, 0.001, -0.2],
            "low": [0, -0.005, -0.002, -0.3],
            "high": [0, 0.005, 0.004, -0.1],
            "verdict": ["reference", "within", "within", "not within"],
        }
    )
    assert goal_in_words(table, "calls", 0.2).startswith("met: tenth costs 1/10, and differs by +0.1 points")
    assert goal_in_words(table, "calls", 0.05).startswith("not met")
    assert goal_in_words(table, "calls", 0.001) == "not tried"
    open_ones = table.assign(verdict=["reference", "not within", "undecided", "not within"])
    assert goal_in_words(open_ones, "calls", 0.2).startswith("undecided: tenth")


def test_the_calls_are_those_that_the_network_counts(method, toy_images):
    diffusion = method.diffusion
    samplers = [("DDIMScheduler", 3, 1.0), ("DDIMScheduler", 3, 2.0), ("PNDMScheduler", 3, 1.0)]
    conditions = sampler_conditions(method, samplers, TRAINING, images_per_real=2, real_per_class=2)
    real = toy_images.per_class(2, seed=0)
    conditions[0].synthesizer(real, images_per_real=1, seed=7)  # the vectors are learned once for all
    for condition in conditions:
        before = diffusion.calls.images
        made = condition.synthesizer(real, images_per_real=2, seed=0)
        assert (diffusion.calls.images - before) / len(made) == condition.axes["calls"]
    assert calls_per_sample(diffusion, conditions[1].synthesizer.sampling) == 6


def test_a_sampler_is_called_by_what_differs():
    assert sampler_name("DDIMScheduler", 100, 2.0) == "DDIM, 100 steps, guidance 2"
    assert sampler_name("DPMSolverMultistepScheduler", 5, 1) == "DPM-Solver++, 5 steps"


def test_codecs_sample_from_what_they_give_back_and_count_what_they_share(method, toy_images):
    store = invert(method.diffusion, toy_images, method.inversion)
    codecs = ("float32", "float16", "int8", "pca4")
    request = {"images_per_real": 1, "real_per_class": 4}
    exact, half, eight, components = codec_conditions(method, store, codecs, TRAINING, **request)
    assert [c.axes["bytes_per_image"] for c in (exact, half)] == [2 * 16 * 4, 2 * 16 * 2]
    assert eight.axes["shared_bytes"] == 0 and components.axes["shared_bytes"] == 2 * (4 * 16 + 16)
    packed = pack(store.embeddings, "pca4")
    assert components.axes["bytes_per_image"] * len(store) == packed.num_bytes
    real = toy_images.per_class(4, seed=0)
    images = [
        c.synthesizer(real, images_per_real=1, seed=0).images.astype(int) for c in (exact, half, components)
    ]
    assert np.abs(images[1] - images[0]).mean() < np.abs(images[2] - images[0]).mean()
    rows = run_study([exact, eight], train=toy_images, test=toy_images, seeds=[0, 1], progress=False)
    assert set(rows["codec"]) == {"float32", "int8"}


def test_every_architecture_has_the_same_three_training_sets(method):
    names = ("vgg_narrow", "vit_narrow")
    conditions = architecture_conditions(names, method, TRAINING, images_per_real=3, real_per_class=2)
    sets = [(c.axes["architecture"], c.name, c.with_real, c.images_per_real) for c in conditions]
    three = [("real", False, 1), ("DI", False, 3), ("real + DI", True, 3)]
    assert sets == [(name, *each) for name in names for each in three]
    assert {c.training.architecture for c in conditions[:3]} == {"vgg_narrow"}
    assert len({c.training.learning_rate for c in conditions[:3]}) == 1
