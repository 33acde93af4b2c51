"""Memory is traded for time alone: results stay the same, and no more is traded than needed."""

import sys
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import SlicedAttnProcessor
from hypothesis import given
from hypothesis import strategies as st

from diffinv.foundation.randomness import stream
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.method.sampling import Sampling, sample
from diffinv.models.checkpoint import NETWORKS
from diffinv.models.diffusion import load_diffusion
from diffinv.models.memory import (
    MemoryNeed,
    MemorySettings,
    Workload,
    available_memory,
    kept_per_latent_pixel,
    memory_need,
    memory_settings_for,
    peak_memory,
    reset_peak_memory,
)

FIELDS = ("attention_slicing", "vae_tiling", "gradient_checkpointing", "cpu_offload")
CPU = torch.device("cpu")
sizes = st.integers(0, 10**12)


def results(model, real):
    """What a user sees of both stages."""
    *_, last = inversion_steps(model, real, Inversion(num_tokens=2, steps_per_image=3))
    streams = [stream(0, "memory", row) for row in range(len(real))]
    settings = Sampling(num_inference_steps=3, resolution=real.resolution)
    images = sample(model, last.embeddings, last.embeddings.mean(0, keepdim=True), settings, streams)
    return last.losses, last.embeddings, *model.latent_moments(real.images), images.astype(np.int64)


@pytest.fixture(scope="module")
def expected(tiny_diffusion, toy_images):
    return results(tiny_diffusion, toy_images.subset([0, 6, 12]))


@pytest.mark.parametrize("chosen", [*((field,) for field in FIELDS), FIELDS], ids="+".join)
def test_no_setting_changes_a_result(chosen, tiny_checkpoint, toy_images, expected):
    settings = MemorySettings(**dict.fromkeys(chosen, True))
    model = load_diffusion(tiny_checkpoint, device="cpu", memory=settings)
    assert model.memory == settings
    *tensors, images = results(model, toy_images.subset([0, 6, 12]))
    for found, wanted in zip(tensors, expected, strict=False):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert np.abs(images - expected[-1]).max() <= 1


def test_every_setting_is_in_effect(tiny_checkpoint, toy_images):
    model = load_diffusion(tiny_checkpoint, device="cpu", memory=MemorySettings(True, True, True, True))
    processors = set(map(type, model.unet.attn_processors.values()))
    assert processors == {SlicedAttnProcessor}
    assert model.vae.use_slicing and model.vae.use_tiling
    assert all(hasattr(getattr(model, part), "_hf_hook") for part in NETWORKS)
    calls = []
    model.unet.mid_block.resnets[-1].register_forward_pre_hook(lambda *_: calls.append(1))
    for _ in inversion_steps(model, toy_images.subset([0]), Inversion(steps_per_image=2)):
        pass
    assert len(calls) == 4, "each update computes the activations twice"
    plain = load_diffusion(tiny_checkpoint, device="cpu")
    assert not any(hasattr(getattr(plain, part), "_hf_hook") for part in NETWORKS)
    assert not (plain.vae.use_tiling or plain.unet.is_gradient_checkpointing)


@given(weights=sizes, activations=sizes, decoding=sizes, available=sizes, more=sizes)
def test_more_memory_never_trades_more(weights, activations, decoding, available, more):
    need = MemoryNeed(weights, activations, decoding)
    for device in ("cuda", "mps", "cpu"):
        less, enough = (
            astuple(memory_settings_for(each, need, device)) for each in (available, available + more)
        )
        assert all(a >= b for a, b in zip(less, enough, strict=True))


def test_the_cheapest_trade_that_fits_is_chosen():
    need = MemoryNeed(weights=4, activations=10, decoding=1)
    nothing = MemorySettings()
    assert memory_settings_for(100, need) == nothing
    checkpointing = replace(nothing, gradient_checkpointing=True)
    assert memory_settings_for(12, need) == checkpointing
    assert memory_settings_for(6, need) == replace(checkpointing, cpu_offload=True)
    assert memory_settings_for(6, need, "cpu") == checkpointing, "nowhere to offload to"
    assert memory_settings_for(6, need, "mps").attention_slicing, "no fused attention"
    assert memory_settings_for(12, replace(need, decoding=10)).vae_tiling


def test_the_need_is_what_a_larger_pass_keeps(tiny_diffusion):
    """Counted by torch's own hooks in a pass of another side, batch and number of tokens."""
    networks = [getattr(tiny_diffusion, part) for part in NETWORKS]
    need = memory_need(Workload(resolution=64, batch_size=3), networks, torch.float32)
    parameters = [weight for network in networks for weight in network.parameters()]
    assert need.weights == sum(weight.nbytes for weight in parameters)
    held = {weight.data_ptr() for weight in parameters}
    kept = {}
    noisy = torch.randn(3, 4, 16, 16)
    vectors = torch.randn(3, 5, 16, requires_grad=True)

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in held:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = tiny_diffusion.predict(noisy, torch.tensor([1, 2, 3]), vectors)
    assert prediction.requires_grad
    assert 0.6 < sum(kept.values()) / need.activations < 1.2
    half = memory_need(Workload(resolution=64, batch_size=3), networks, torch.float16)
    assert (2 * half.weights, 2 * half.activations) == (need.weights, need.activations)
    assert memory_need(Workload(64, 6), networks, torch.float32).activations == 2 * need.activations


def test_counting_leaves_no_gradient_behind(tiny_diffusion):
    assert kept_per_latent_pixel(tiny_diffusion.unet) > 100
    assert all(weight.grad is None for weight in tiny_diffusion.unet.parameters())


def test_a_workload_is_given_what_this_machine_needs(tiny_checkpoint, monkeypatch):
    work = Workload(resolution=32, batch_size=4)
    assert load_diffusion(tiny_checkpoint, device="cpu", memory=work).memory == MemorySettings()
    monkeypatch.setattr("diffinv.models.diffusion.available_memory", lambda device: 10**6)
    memory = load_diffusion(tiny_checkpoint, device="cpu", memory=work).memory
    assert memory.gradient_checkpointing and not memory.cpu_offload


def test_without_a_side_the_work_is_at_the_models_own(tiny_diffusion):
    networks = [getattr(tiny_diffusion, part) for part in NETWORKS]
    native = Workload(tiny_diffusion.native_resolution, 2)
    assert memory_need(Workload(None, 2), networks, torch.float32) == memory_need(
        native, networks, torch.float32
    )


def test_free_memory_is_less_than_there_is():
    import psutil

    assert 10**8 < available_memory("cpu") <= psutil.virtual_memory().total


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of a process cannot be reset")
def test_the_peak_is_of_the_time_since_its_reset():
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    block = torch.ones(50_000_000)
    during = peak_memory(CPU)
    assert during - before > 0.9 * block.nbytes
    del block
    assert peak_memory(CPU) > 0.99 * during, "a peak stays; the kernel counts roughly"
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < during - 100_000_000
