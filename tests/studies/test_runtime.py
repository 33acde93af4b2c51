"""What inversion and sampling take: operations are counted on shapes, times side by side."""

import pandas as pd
import pytest
import torch
from torch import nn

from diffinv.datasets import load_dataset
from diffinv.models.diffusion import load_diffusion
from diffinv.models.random_weights import random_diffusion
from diffinv.studies.runtime import STAGES, multiply_adds, per_image, time_stages


@pytest.fixture(scope="module")
def small():
    return random_diffusion("small", torch.device("cpu"), torch.float32)


def test_multiply_adds_are_those_of_the_layers():
    """A transformer's linear layers and all convolutions, by hooks on a real forward pass."""
    tinysd, total = load_diffusion("tinysd"), 0

    def count(layer, given, made):
        nonlocal total
        total += made.numel() * layer.weight[0].numel()

    layers = [layer for layer in tinysd.unet.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    shape = (1, tinysd.latent_channels, 8, 8)
    with torch.no_grad():
        tinysd.predict(torch.zeros(shape), torch.zeros(1), torch.zeros(1, 16, tinysd.embedding_width))
    for hook in hooks:
        hook.remove()
    found = multiply_adds(tinysd.vae, tinysd.unet, [32, 64], 16).set_index(["stage", "resolution"])[
        "multiply_adds"
    ]
    assert total <= found["prediction", 32] < 1.15 * total, "attention itself adds a little"
    assert found["update", 32] == pytest.approx(2 * found["prediction", 32], rel=0.1)
    assert found["decoding", 64] == pytest.approx(4 * found["decoding", 32], rel=0.1)


def test_each_stage_is_timed_at_each_side_in_every_repeat(small):
    real = load_dataset("icons10", split="train").subset([0, 1])
    rows = time_stages(small, real, [32, 64], num_tokens=2, repeats=2)
    assert len(rows) == len(STAGES) * 2 * 2 and (rows["seconds"] > 0).all()
    assert set(rows["seed"]) == {0, 1} and rows["device"].str.startswith("cpu").all()
    alone = time_stages(small, real, [32], num_tokens=2, repeats=1, stages=["prediction"], warm_ups=0)
    assert list(alone["stage"]) == ["prediction"]


def test_an_image_is_its_updates_or_its_predictions_and_a_decoding():
    stages = pd.DataFrame(
        {"stage": STAGES, "resolution": 32, "seed": 0, "seconds": (2.0, 1.0, 0.5)},
    )
    found = per_image(stages, updates=10, predictions=4, value="seconds").set_index("stage")["seconds"]
    assert found.to_dict() == {"inversion": 20.0, "sampling": 4.5}
