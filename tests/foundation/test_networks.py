"""Compiled networks give what plain ones give, and one that cannot be compiled goes on as it was."""

import pytest
import torch
from torch import nn

from diffinv.classifiers.training import Training, train_classifier
from diffinv.foundation.networks import go_faster


@pytest.fixture(autouse=True)
def precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    torch.compiler.reset()


class Small(nn.Module):
    """A network of its own: one of torch's modules alone is left as it is."""

    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(width, 3)

    def forward(self, numbers):
        return self.layer(numbers).relu()


def with_backend(monkeypatch, backend):
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: compiled(network, backend=backend))


def test_a_compiled_network_gives_what_it_gave(monkeypatch):
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    network = Small()
    numbers = torch.randn(5, 4)
    expected = network(numbers)
    with_backend(monkeypatch, backend)
    assert torch.equal(go_faster(network)(numbers), expected) and len(calls) == 1
    assert torch.get_float32_matmul_precision() == "high"


def test_the_twelfth_kind_of_network_is_compiled_too(monkeypatch):
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    with_backend(monkeypatch, backend)
    for width in range(4, 16):
        go_faster(Small(width))(torch.randn(5, width))
    assert len(calls) == 12


def test_a_network_that_cannot_be_compiled_says_so_once_and_goes_on(monkeypatch, recwarn):
    def backend(graph, inputs):
        raise RuntimeError("there is no compiler")

    network = Small()
    numbers = torch.randn(5, 4)
    expected = network(numbers)
    with_backend(monkeypatch, backend)
    network = go_faster(network)
    assert torch.equal(network(numbers), expected) and torch.equal(network(numbers), expected)
    (said,) = [str(each.message) for each in recwarn if "compiled" in str(each.message)]
    assert said.startswith("Small cannot be compiled here (") and "no compiler" in said


def test_a_fast_classifier_learns_as_much(toy_images, monkeypatch):
    with_backend(monkeypatch, "eager")
    settings = Training(
        architecture="resnet8_narrow", optimiser_steps=40, batch_size=8, warmup_steps=4, augmentation="none"
    )
    plain = train_classifier(toy_images, settings, seed=0)
    fast = train_classifier(toy_images, Training(**{**vars(settings), "fast": True}), seed=0)
    logits = plain.logits(toy_images.images), fast.logits(toy_images.images)
    assert logits[1].dtype == torch.float32 and not torch.equal(*logits), "bfloat16 rounds"
    assert plain.accuracy(toy_images) > 0.8 and fast.accuracy(toy_images) > 0.8
