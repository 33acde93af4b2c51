"""What the documentation and the profiles say of a GPU's hours follows from the counts."""

from pathlib import Path

import pytest
from torch import nn

from benchmarks.cost_by_counts import (
    TERAFLOPS,
    TERAFLOPS_OF_CLASSIFIERS,
    costs,
    decoding_flops,
    markdown,
    networks_on_meta,
    prediction_flops,
    training_flops,
    update_flops,
)
from diffinv.lessons.profiles import load_profile

GPU_PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
COLAB_HOURS = 0.75


def test_the_operations_are_those_of_the_layers():
    """Convolutions and linear layers, by their shapes; attention adds a little at this side."""
    multiplications = []

    def count(layer, given, made):
        per_output = layer.weight[0].numel()
        multiplications.append(made.numel() * per_output)

    layers = [layer for layer in networks_on_meta()[1].modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    total = prediction_flops.__wrapped__(128)
    for hook in hooks:
        hook.remove()
    assert 2 * sum(multiplications) < total < 1.1 * 2 * sum(multiplications)
    # ResNet18 with the stem for 32 px images: 0.56e9 multiplications, and twice as many backwards.
    assert training_flops("resnet18", 32) == pytest.approx(3 * 2 * 0.56e9, rel=0.05)


def test_an_update_is_two_predictions_and_grows_with_the_pixels():
    assert update_flops(128) == pytest.approx(2 * prediction_flops(128), rel=0.05)
    assert 4 <= prediction_flops(256) / prediction_flops(128) < 5, "attention grows faster than the pixels"
    assert decoding_flops(256) == pytest.approx(4 * decoding_flops(128), rel=0.05)


def test_the_page_on_gpus_has_the_hours_of_every_dataset():
    paper = load_profile("paper")
    table = costs(paper, TERAFLOPS["paper"])
    assert "\n".join(markdown(paper, table)) in GPU_PAGE
    assert table.loc[table["lesson"] == "03", "hours"].max() * 3600 < paper.time_limit_seconds


def test_a_day_of_one_gpu_is_enough_for_all_lessons_on_each_dataset():
    table = costs(load_profile("day"), TERAFLOPS["day"], TERAFLOPS_OF_CLASSIFIERS["day"])
    assert set(table["lesson"]) == {f"{number:02d}" for number in (*range(13), 14, 91)}
    hours = table.groupby("dataset")["hours"].sum()
    assert set(hours.index) == set(load_profile("paper").datasets)
    assert hours.max() <= 24, hours.to_string()


def test_the_page_on_gpus_has_the_hours_of_a_day():
    table = costs(load_profile("day"), TERAFLOPS["day"], TERAFLOPS_OF_CLASSIFIERS["day"])
    said = [
        f"{name} {hours:.0f} h" for name, hours in table.groupby("dataset", sort=False)["hours"].sum().items()
    ]
    assert ", ".join(said) in " ".join(GPU_PAGE.split())


def test_a_free_gpu_is_done_in_time_by_the_counts():
    hours = costs(load_profile("colab"), TERAFLOPS["colab"]).groupby("lesson")["hours"]
    # The first two lessons run on one dataset, the other two on all.
    assert hours.max()[["00", "01"]].max() < COLAB_HOURS
    assert hours.sum()[["02", "03"]].max() < COLAB_HOURS
    assert hours.max().max() < 1, "on one dataset, every lesson"
