"""Properties of the denoising loop: guidance, independent streams, batches, schedulers that are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from diffinv.datasets import load_dataset
from diffinv.foundation.randomness import stream
from diffinv.method.sampling import (
    Sampling,
    SamplingDiverged,
    denoising_steps,
    guided_prediction,
    prepare_scheduler,
    sample,
)
from diffinv.studies.economy import calls_per_sample

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # of diffusers, towards numpy

FEW = Sampling(num_inference_steps=4, resolution=16)
STOCHASTIC = (
    replace(FEW, eta=1.0),
    replace(FEW, scheduler="DDPMScheduler"),
    replace(FEW, scheduler="EulerAncestralDiscreteScheduler"),
    replace(FEW, scheduler="SASolverScheduler"),
    replace(FEW, scheduler="LCMScheduler"),
    replace(FEW, scheduler="TCDScheduler", eta=0.3),
)


def vectors(count, tokens=5, width=16, seed=1):
    return torch.randn(count, tokens, width, generator=torch.Generator().manual_seed(seed))


def streams(numbers):
    return [stream(0, "image", number) for number in numbers]


def last_latents(diffusion, conditioning, unconditional, settings, own):
    *_, last = denoising_steps(diffusion, conditioning, unconditional, settings, own)
    return last.latents


class Calls:
    """Counts the rows that pass through the U-Net."""

    def __init__(self, diffusion):
        self.rows = []
        self.hook = diffusion.unet.register_forward_pre_hook(
            lambda _, inputs: self.rows.append(len(inputs[0]))
        )

    def __enter__(self):
        return self.rows

    def __exit__(self, *_):
        self.hook.remove()


def test_guidance_1_is_the_conditional_prediction_alone_at_half_the_work(tiny_diffusion):
    conditioning, unconditional = vectors(2), vectors(1, seed=2)
    unguided, guided = replace(FEW, guidance_scale=1), replace(FEW, guidance_scale=1 + 1e-6)
    with Calls(tiny_diffusion) as rows:
        alone = last_latents(tiny_diffusion, conditioning, None, unguided, streams(range(2)))
    with Calls(tiny_diffusion) as doubled:
        nearly = last_latents(tiny_diffusion, conditioning, unconditional, guided, streams(range(2)))
    given_one = last_latents(tiny_diffusion, conditioning, unconditional, unguided, streams(range(2)))
    assert sum(rows) == 2 * 4 and sum(doubled) == 2 * sum(rows)
    assert torch.equal(alone, given_one)
    torch.testing.assert_close(alone, nearly, rtol=1e-3, atol=1e-3)


def test_guidance_is_linear_in_its_scale(tiny_diffusion):
    conditioning, unconditional = vectors(2), vectors(2, seed=2)
    model_input, timestep = torch.randn(2, 4, 4, 4), torch.tensor(500)

    def predict(scale):
        return guided_prediction(tiny_diffusion, model_input, timestep, conditioning, unconditional, scale)

    with torch.no_grad():
        torch.testing.assert_close(predict(0.0), tiny_diffusion.predict(model_input, timestep, unconditional))
        torch.testing.assert_close(predict(3.0), 3 * predict(1.0) - 2 * predict(0.0), rtol=1e-4, atol=1e-5)


def test_an_unconditional_vector_of_other_length_is_not_padded(tiny_diffusion):
    conditioning, empty = vectors(2), tiny_diffusion.encode_prompt([""])
    assert empty.shape[1] != conditioning.shape[1]
    model_input, timestep = torch.randn(2, 4, 4, 4), torch.tensor(300)
    with torch.no_grad():
        along = tiny_diffusion.predict(model_input, timestep, conditioning)
        without = tiny_diffusion.predict(model_input, timestep, empty.expand(2, -1, -1))
        ours = guided_prediction(
            tiny_diffusion, model_input, timestep, conditioning, empty.expand(2, -1, -1), 2.5
        )
    torch.testing.assert_close(ours, without + 2.5 * (along - without))
    images = sample(tiny_diffusion, conditioning, empty, FEW, streams(range(2)))
    assert images.shape == (2, 16, 16, 3)


def test_guidance_in_an_interval_guides_there_and_saves_a_call_elsewhere(tinysd):
    conditioning, unconditional = vectors(2, 16, 128), vectors(1, 16, 128, seed=2)
    settings = Sampling(2.0, 5, "DPMSolverMultistepScheduler", resolution=32)

    def draw(**changes):
        changed = replace(settings, **changes)
        with Calls(tinysd) as rows:
            steps = denoising_steps(tinysd, conditioning, unconditional, changed, streams(range(2)))
            latents = [step.latents for step in steps]
        assert sum(rows) == 2 * calls_per_sample(tinysd, changed)
        return latents, sum(rows) / 2

    (throughout, ten), (unguided, five) = draw(), draw(guidance_scale=1.0)
    assert (ten, five) == (10, 5)
    everywhere, _ = draw(guidance_interval=(0.0, 1.0))
    nowhere, none = draw(guidance_interval=(0.001, 0.002))
    middle, seven = draw(guidance_interval=(0.25, 0.75))
    assert torch.equal(everywhere[-1], throughout[-1]) and torch.equal(nowhere[-1], unguided[-1])
    assert none == five < seven < ten
    # The timesteps fall: the first one is above the interval, where nothing is guided.
    assert torch.equal(middle[0], unguided[0]) and not torch.equal(middle[-1], unguided[-1])
    assert not torch.equal(middle[-1], throughout[-1])


def test_strength_starts_from_the_noised_original(tinysd):
    real = load_dataset("icons10", split="test").per_class(1, seed=0).resize(32)
    originals = tinysd.latent_moments(real.images)[0]
    conditioning, own = torch.zeros(len(real), 16, 128), range(len(real))
    settings = Sampling(1.0, 10, "DPMSolverMultistepScheduler", resolution=32)

    def draw(strength, given=originals):
        changed = replace(settings, strength=strength)
        steps = list(denoising_steps(tinysd, conditioning, None, changed, streams(own), given))
        assert len(steps) == calls_per_sample(tinysd, changed) == 10 * strength
        return steps[-1].latents

    assert torch.equal(draw(1.0), last_latents(tinysd, conditioning, None, settings, streams(own)))
    assert torch.equal(draw(1.0), draw(1.0, None)), "the original has no part"
    away = [float((draw(strength) - originals).square().mean()) for strength in (0.1, 0.3, 0.6, 1.0)]
    assert away == sorted(away) and away[0] < 0.3 * away[-1]
    with pytest.raises(ValueError, match=r"strength is 0.5 and needs the latents"):
        draw(0.5, None)
    images = sample(
        tinysd, conditioning, None, replace(settings, strength=0.3, batch_size=3), streams(own), originals
    )
    assert np.abs(images.astype(int) - tinysd.decode(draw(0.3)).astype(int)).max() <= 1


@pytest.mark.parametrize("settings", [FEW, *STOCHASTIC], ids=lambda s: f"{s.scheduler}-{s.eta}")
def test_an_image_does_not_depend_on_batch_order_or_count(tiny_diffusion, settings):
    conditioning, unconditional = vectors(5), vectors(5, seed=2)
    order = [3, 0, 4]

    def draw(rows, batch_size):
        chosen = replace(settings, batch_size=batch_size)
        return sample(tiny_diffusion, conditioning[rows], unconditional[rows], chosen, streams(rows)).astype(
            int
        )

    together = draw([0, 1, 2, 3, 4], 5)
    assert np.abs(together - draw([0, 1, 2, 3, 4], 2)).max() <= 1
    assert np.abs(together[order] - draw(order, 1)).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1  # the images do differ


@pytest.mark.parametrize(
    "scheduler", ["PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
def test_schedulers_with_a_memory_start_afresh_with_each_batch(tiny_diffusion, scheduler):
    settings = replace(FEW, scheduler=scheduler)
    conditioning, unconditional = vectors(4), vectors(1, seed=2)
    whole = last_latents(tiny_diffusion, conditioning, unconditional, settings, streams(range(4)))
    second = last_latents(tiny_diffusion, conditioning[2:], unconditional, settings, streams(range(2, 4)))
    torch.testing.assert_close(whole[2:], second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", STOCHASTIC, ids=lambda s: f"{s.scheduler}-{s.eta}")
def test_step_noise_comes_from_the_streams_and_not_from_the_global_one(tiny_diffusion, settings):
    conditioning, unconditional = vectors(2), vectors(1, seed=2)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    once = last_latents(tiny_diffusion, conditioning, unconditional, settings, streams(range(2)))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(
        once, last_latents(tiny_diffusion, conditioning, unconditional, settings, streams(range(2)))
    )


def test_eta_changes_the_image(tiny_diffusion):
    conditioning, unconditional = vectors(1), vectors(1, seed=2)
    still = last_latents(tiny_diffusion, conditioning, unconditional, FEW, streams([0]))
    moved = last_latents(tiny_diffusion, conditioning, unconditional, replace(FEW, eta=1.0), streams([0]))
    assert (still - moved).abs().max() > 1e-2


@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"]
)
@pytest.mark.parametrize("model", ["tiny_diffusion", "v_prediction_diffusion"])
def test_the_guess_at_the_clean_latents_explains_the_prediction(request, model, scheduler):
    """z_t and z_0 determine the noise, and the training target of (z_0, noise, t) is the prediction."""
    diffusion = request.getfixturevalue(model)
    seen = []
    hook = diffusion.unet.register_forward_hook(lambda _, given, made: seen.append((*given, made[0])))
    settings = replace(FEW, scheduler=scheduler, guidance_scale=1)
    steps = list(denoising_steps(diffusion, vectors(1), None, settings, streams([0])))
    hook.remove()
    assert len(steps) == len(seen) == len(prepare_scheduler(diffusion, settings).timesteps)
    for number, (step, (noisy, timestep, prediction)) in enumerate(zip(steps, seen, strict=True)):
        assert step.step == number and step.timestep == timestep.item() == int(timestep)
        signal = diffusion.scheduler.alphas_cumprod[timestep.long()].reshape(-1, 1, 1, 1)
        noise = (noisy - signal.sqrt() * step.predicted_original) / (1 - signal).sqrt()
        target = diffusion.training_target(step.predicted_original, noise, timestep.long())
        torch.testing.assert_close(target, prediction, rtol=1e-2, atol=1e-2)


def test_weights_and_gradient_mode_are_left_alone(tiny_diffusion):
    before = [weight.clone() for weight in tiny_diffusion.unet.parameters()]
    for _ in denoising_steps(tiny_diffusion, vectors(1), vectors(1), FEW, streams([0])):
        assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_diffusion.unet.parameters(), strict=True))


def test_no_image_asked_for_is_no_image(tiny_diffusion):
    assert sample(tiny_diffusion, vectors(0), vectors(1), FEW, []).shape == (0, 16, 16, 3)


def test_vectors_alone_have_no_side_of_their_own(tiny_diffusion):
    with pytest.raises(ValueError, match=f"for instance to {tiny_diffusion.native_resolution}"):
        sample(tiny_diffusion, vectors(1), vectors(1), replace(FEW, resolution=None), streams([0]))


@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverSDEScheduler",
        "CosineDPMSolverMultistepScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "DDIMInverseScheduler",
        "EDMEulerScheduler",
        "CogVideoXDPMScheduler",
        "RePaintScheduler",
        "VQDiffusionScheduler",
        "NoSuchScheduler",
        "UNet2DModel",
    ],
)
def test_schedulers_that_cannot_be_honoured_are_refused(tiny_diffusion, name):
    with pytest.raises(ValueError, match=name):
        sample(tiny_diffusion, vectors(1), vectors(1), replace(FEW, scheduler=name), streams([0]))


@pytest.mark.parametrize("name", ["PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_eta_is_refused_where_it_would_be_ignored(tiny_diffusion, name):
    with pytest.raises(ValueError, match=r"takes no eta; set eta=0"):
        sample(tiny_diffusion, vectors(1), vectors(1), replace(FEW, scheduler=name, eta=0.5), streams([0]))


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"guidance_scale": -0.5}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"eta": 1.5}, "eta"),
        ({"resolution": 0}, "resolution"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval"),
        ({"guidance_interval": (0.5, 1.2)}, "guidance_interval"),
        ({"strength": 1.5}, "strength"),
        ({"strength": 0.1, "num_inference_steps": 5}, "leaves no step"),
    ],
)
def test_settings_out_of_range_are_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        Sampling(**change)


def test_what_does_not_fit_together_is_refused(tiny_diffusion):
    with pytest.raises(ValueError, match="needs an unconditional vector"):
        sample(tiny_diffusion, vectors(1), None, FEW, streams([0]))
    with pytest.raises(ValueError, match="2 conditioning vectors came with 1 streams"):
        sample(tiny_diffusion, vectors(2), vectors(1), FEW, streams([0]))
    with pytest.raises(ValueError, match="2 unconditional vectors came with 3 images"):
        sample(tiny_diffusion, vectors(3), vectors(2), FEW, streams(range(3)))
    with pytest.raises(ValueError, match="resolution 20"):
        sample(tiny_diffusion, vectors(1), vectors(1), replace(FEW, resolution=20), streams([0]))
    with pytest.raises(ValueError, match="1000 timesteps"):
        sample(tiny_diffusion, vectors(1), vectors(1), replace(FEW, num_inference_steps=1001), streams([0]))


def test_values_that_are_not_finite_are_named(tiny_diffusion):
    broken = vectors(1)
    broken[0, 0, 0] = float("nan")
    with pytest.raises(SamplingDiverged, match="not finite"):
        sample(tiny_diffusion, broken, vectors(1), FEW, streams([0]))


@given(count=st.integers(1, 6), batch_size=st.integers(1, 7))
@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_fewer_images_are_a_prefix_of_more(tiny_diffusion, count, batch_size):
    settings = replace(FEW, num_inference_steps=2, batch_size=batch_size)
    all_six = sample(tiny_diffusion, vectors(6), vectors(1, seed=2), settings, streams(range(6)))
    fewer = sample(tiny_diffusion, vectors(6)[:count], vectors(1, seed=2), settings, streams(range(count)))
    assert np.abs(all_six[:count].astype(int) - fewer).max() <= 1
