"""Stage 1: the right gradient, the same vectors however they are computed, nothing lost on the way."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import build_pipeline, write_checkpoint

from diffinv.method.cached import inversion_path, invert
from diffinv.method.inversion import (
    STEPS_PER_CHUNK,
    Inversion,
    InversionDiverged,
    denoising_losses,
    draw_chunk,
    inversion_steps,
)
from diffinv.models.diffusion import load_diffusion

QUICK = Inversion(num_tokens=2, steps_per_image=8, batch_size=4)


@pytest.fixture
def unet_calls(tiny_diffusion):
    """The number of images that passed through the U-Net, call by call."""
    calls = []
    hook = tiny_diffusion.unet.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    yield calls
    hook.remove()


def random_batch(count=3):
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, count, 4, 4, 4, generator=generator)
    vectors = torch.randn(count, 2, 16, generator=generator, requires_grad=True)
    return vectors, latents, noise, torch.tensor([1, 500, 998])[:count]


def stock_losses(pipeline, vectors, latents, noise, timesteps):
    """The training objective as diffusers' own training scripts write it."""
    scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    prediction = pipeline.unet(noisy, timesteps, vectors).sample
    is_v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
    return F.mse_loss(prediction, target, reduction="none").mean(dim=(1, 2, 3))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_loss_and_gradient_equal_autograd_through_the_raw_unet(kind, request):
    fixture = "tiny_diffusion" if kind == "epsilon" else "v_prediction_diffusion"
    vectors, *rest = random_batch()
    losses = denoising_losses(request.getfixturevalue(fixture), vectors, *rest)
    expected = stock_losses(build_pipeline(kind), vectors, *rest)
    torch.testing.assert_close(losses, expected)
    ours = torch.autograd.grad(losses.sum(), vectors)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), vectors)[0])
    assert ours.abs().max() > 0


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_equal_a_loop_over_single_images(tiny_diffusion, toy_images, weight_decay):
    """AdamW by its definition, image by image, with the stock U-Net."""
    settings = replace(QUICK, steps_per_image=3, weight_decay=weight_decay)
    real, pipeline = toy_images.subset([0, 9]), build_pipeline()
    *_, last = inversion_steps(tiny_diffusion, real, settings)
    # The start is what a learning rate of (almost) nothing leaves in place.
    start = next(inversion_steps(tiny_diffusion, real, replace(settings, learning_rate=1e-30))).embeddings
    pixels = torch.tensor(real.images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels).latent_dist
    for image in range(2):
        noise, timesteps = draw_chunk(settings, real.ids[image : image + 1], (4, 4, 4), 1000, 0)
        vectors, first, second = start[image : image + 1], 0.0, 0.0
        for step in range(3):
            latents = 0.6 * (posterior.mean + posterior.std * noise[0, step, 0])[image : image + 1]
            vectors = vectors.detach().requires_grad_()
            loss = stock_losses(pipeline, vectors, latents, noise[:, step, 1], timesteps[:, step])
            gradient = torch.autograd.grad(loss.sum(), vectors)[0]
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            vectors = vectors.detach() * (1 - 0.03 * weight_decay)
            vectors = vectors - 0.03 * corrected[0] / (corrected[1].sqrt() + 1e-8)
        torch.testing.assert_close(last.embeddings[image], vectors[0], rtol=1e-3, atol=1e-4)


def test_the_loss_falls(tiny_diffusion, toy_images):
    """Measured before and after with the same noise, which the optimiser never saw; per image."""
    real = toy_images.subset(range(4))
    settings = Inversion(num_tokens=2, steps_per_image=50, learning_rate=0.1)
    steps = [step.embeddings for step in inversion_steps(tiny_diffusion, real, settings)]
    mean, _ = tiny_diffusion.latent_moments(real.images)
    noise, timesteps = draw_chunk(replace(settings, seed=99), real.ids, mean.shape[1:], 1000, 0)

    def loss(vectors):
        with torch.no_grad():
            each = [
                denoising_losses(tiny_diffusion, vectors, mean, noise[:, step, 1], timesteps[:, step])
                for step in range(STEPS_PER_CHUNK)
            ]
        return torch.stack(each).mean(dim=0)

    assert (loss(steps[-1]) < loss(steps[0])).all()


@pytest.mark.parametrize(
    ("initialisation", "steps"),
    [("normal", STEPS_PER_CHUNK + 3), ("class_prompt", 4), ("mean_prompt", 4)],
)
def test_vectors_do_not_depend_on_grouping_or_order(
    tiny_diffusion, toy_images, tmp_path, initialisation, steps
):
    settings = replace(QUICK, initialisation=initialisation, steps_per_image=steps)
    real = toy_images.subset(range(0, 18, 2))
    reference = invert(tiny_diffusion, real, replace(settings, batch_size=9), cache_dir=tmp_path / "a")
    order = np.random.default_rng(0).permutation(len(real))[:4]
    for batch_size in (1, 3):
        store = invert(
            tiny_diffusion,
            real.subset(order),
            replace(settings, batch_size=batch_size),
            cache_dir=tmp_path / str(batch_size),
        )
        expected = reference.subset(order)
        assert (store.ids, store.labels.tolist()) == (expected.ids, expected.labels.tolist())
        torch.testing.assert_close(store.embeddings, expected.embeddings, rtol=0, atol=5e-3)
        torch.testing.assert_close(store.losses, expected.losses, rtol=1e-3, atol=1e-4)
    # The tolerance is far below what tells two images apart.
    difference = torch.pdist(reference.embeddings.flatten(1), p=torch.inf)
    assert difference.min() > 0.05


def test_more_steps_continue_fewer(tiny_diffusion, toy_images):
    real = toy_images.subset([0, 1])
    few = list(inversion_steps(tiny_diffusion, real, replace(QUICK, steps_per_image=3)))
    many = list(inversion_steps(tiny_diffusion, real, replace(QUICK, steps_per_image=5)))
    assert [step.step for step in many] == [1, 2, 3, 4, 5]
    assert torch.equal(few[2].embeddings, many[2].embeddings)
    assert not torch.equal(many[2].embeddings, many[3].embeddings)


def test_prompt_initialisation_starts_at_the_encoded_class_name(tiny_diffusion, toy_images):
    still = replace(QUICK, learning_rate=1e-30)
    real = toy_images.subset([0, 6, 12])
    encoded = tiny_diffusion.encode_prompt(real.class_names)[:, :2]
    own = next(inversion_steps(tiny_diffusion, real, replace(still, initialisation="class_prompt")))
    torch.testing.assert_close(own.embeddings, encoded)
    mean = next(inversion_steps(tiny_diffusion, real, replace(still, initialisation="mean_prompt")))
    torch.testing.assert_close(mean.embeddings, encoded.mean(dim=0).expand(3, -1, -1))


def test_stratified_timesteps_visit_every_stratum_once():
    settings, ids = Inversion(), [str(index) for index in range(200)]
    noise, timesteps = draw_chunk(settings, ids, (4, 2, 2), 1000, 0)
    strata = timesteps * STEPS_PER_CHUNK // 1000
    assert torch.equal(strata.sort(dim=1).values, torch.arange(STEPS_PER_CHUNK).expand(200, -1))
    uniform_noise, uniform = draw_chunk(
        replace(settings, timestep_sampling="uniform"), ids, (4, 2, 2), 1000, 0
    )
    assert torch.equal(noise, uniform_noise)
    for drawn in (timesteps, uniform):  # both are uniform over the schedule, whichever the step
        assert drawn.min() >= 0
        assert drawn.max() <= 999
        standard_error = 1000 / 12**0.5 / 200**0.5
        assert (drawn.float().mean(dim=0) - 499.5).abs().max() < 5 * standard_error
    spread, uniform_spread = (drawn.float().mean(dim=1).std() for drawn in (timesteps, uniform))
    assert spread < uniform_spread / 10
    assert not torch.equal(draw_chunk(settings, ids, (4, 2, 2), 1000, 1)[1], timesteps)


def test_frozen_weights_stay_untouched(tiny_checkpoint, toy_images):
    model = load_diffusion(tiny_checkpoint, device="cpu")
    before = model.fingerprint
    invert(model, toy_images.subset([0]), QUICK)
    del model.fingerprint  # taken anew from the weights
    assert model.fingerprint == before
    networks = (model.vae, model.unet, model.text_encoder)
    assert all(weight.grad is None for network in networks for weight in network.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_network_learns_float32_vectors(tiny_checkpoint, tiny_diffusion, toy_images, dtype):
    model, real = load_diffusion(tiny_checkpoint, device="cpu", dtype=dtype), toy_images.subset([0, 7])
    vectors, *rest = random_batch()
    expected = denoising_losses(tiny_diffusion, vectors, *rest)
    torch.testing.assert_close(denoising_losses(model, vectors, *rest), expected, rtol=0.05, atol=0.05)
    store = invert(model, real, QUICK)
    assert store.embeddings.dtype == torch.float32
    # Steps smaller than half precision could tell apart are kept.
    assert not torch.equal(store.embeddings.to(dtype).float(), store.embeddings)
    full = invert(tiny_diffusion, real, QUICK)
    start = next(inversion_steps(tiny_diffusion, real, replace(QUICK, learning_rate=1e-30))).embeddings
    moved, fully_moved = (store.embeddings - start).flatten(), (full.embeddings - start).flatten()
    assert F.cosine_similarity(moved, fully_moved, dim=0) > 0.8


def test_v_prediction_gives_a_store_of_its_own(tiny_diffusion, v_prediction_diffusion, toy_images):
    real = toy_images.subset([0])
    store, other = (invert(model, real, QUICK) for model in (tiny_diffusion, v_prediction_diffusion))
    assert not torch.allclose(store.embeddings, other.embeddings, atol=1e-3)
    other.check_matches(v_prediction_diffusion)
    with pytest.raises(ValueError, match="tiny_v"):
        other.check_matches(tiny_diffusion)


def test_the_store_says_where_it_comes_from(tiny_diffusion, toy_images):
    store = invert(tiny_diffusion, toy_images, QUICK)
    assert store.embeddings.shape == (18, 2, 16)
    assert store.provenance["resolution"] == 16
    assert store.provenance["settings"]["steps_per_image"] == 8
    assert (store.labels.numpy() == toy_images.labels).all()


def test_reported_losses_are_those_of_the_last_tenth(tiny_diffusion, toy_images):
    settings, real = replace(QUICK, steps_per_image=20), toy_images.subset([0, 1])
    losses = torch.stack([step.losses for step in inversion_steps(tiny_diffusion, real, settings)])
    torch.testing.assert_close(invert(tiny_diffusion, real, settings).losses, losses[-2:].mean(dim=0))


def test_what_is_learned_once_is_not_learned_again(tiny_diffusion, toy_images, unet_calls):
    first = invert(tiny_diffusion, toy_images.subset([0, 1, 2, 3, 4]), QUICK)
    assert unet_calls == [4] * 8 + [1] * 8
    unet_calls.clear()
    again = invert(tiny_diffusion, toy_images.subset([4, 1]), replace(QUICK, batch_size=1))
    assert unet_calls == []
    assert torch.equal(again.embeddings, first.embeddings[[4, 1]])
    assert torch.equal(again.losses, first.losses[[4, 1]])
    # Two subsets that overlap: only the new images cost anything.
    invert(tiny_diffusion, toy_images.subset([3, 4, 5, 6]), QUICK)
    assert unet_calls == [2] * 8


def test_a_path_gives_at_each_stop_what_inverting_so_far_gives(
    tiny_diffusion, toy_images, unet_calls, tmp_path
):
    real, stops = toy_images.subset([0, 1, 2, 3, 4]), (1, 3, 8)
    path = inversion_path(tiny_diffusion, real, QUICK, [8, 1, 3])
    assert unet_calls == [4] * 8 + [1] * 8, "learned in one go"
    assert list(path) == [1, 3, 8]
    unet_calls.clear()
    for stop in stops:
        kept = invert(tiny_diffusion, real, replace(QUICK, steps_per_image=stop))
        assert unet_calls == []
        alone = invert(tiny_diffusion, real, replace(QUICK, steps_per_image=stop), cache_dir=tmp_path)
        unet_calls.clear()
        for store in (path[stop], kept):
            assert torch.equal(store.embeddings, alone.embeddings)
            assert torch.equal(store.losses, alone.losses)
            assert store.provenance["settings"] == alone.provenance["settings"]
    inversion_path(tiny_diffusion, real, QUICK, (3, 5))
    assert unet_calls == [4] * 5 + [1] * 5, "learned again where one stop is missing, no further than it"
    unet_calls.clear()
    inversion_path(tiny_diffusion, real, QUICK, (2, 8))
    assert unet_calls == [4] * 2 + [1] * 2, "the end of the way is in the cache"


def test_a_path_needs_a_number_of_updates(tiny_diffusion, toy_images):
    for updates in ((), (0, 3)):
        with pytest.raises(ValueError, match="give at least one number, each of at least 1"):
            inversion_path(tiny_diffusion, toy_images, QUICK, updates)


def test_whatever_changes_the_vectors_is_learned_anew(tiny_diffusion, toy_images, unet_calls):
    real = toy_images.subset([0])
    invert(tiny_diffusion, real, QUICK)
    changes = {
        "num_tokens": 3, "steps_per_image": 9, "learning_rate": 0.1, "weight_decay": 0.1, "initial_std": 1.0,
        "initialisation": "class_prompt", "timestep_sampling": "uniform", "seed": 1,
    }  # fmt: skip
    for name, value in changes.items():
        unet_calls.clear()
        invert(tiny_diffusion, real, replace(QUICK, **{name: value}))
        assert unet_calls, name
    for changed in (replace(real, images=255 - real.images), replace(real, ids=("other",)), real.resize(32)):
        unet_calls.clear()
        invert(tiny_diffusion, changed, QUICK)
        assert unet_calls


def test_class_names_count_only_where_vectors_start_from_them(tiny_diffusion, toy_images, unet_calls):
    real = toy_images.subset([0, 6])
    renamed = replace(real, class_names=("moon", "square", "cross"))
    for initialisation, relearned in (("normal", 0), ("class_prompt", 1), ("mean_prompt", 2)):
        settings = replace(QUICK, initialisation=initialisation)
        invert(tiny_diffusion, real, settings)
        unet_calls.clear()
        invert(tiny_diffusion, renamed, settings)
        assert sum(unet_calls) == relearned * 8


@pytest.mark.parametrize("spoil", ["cut", 0, 3, 40, -2, -400], ids=str)
def test_a_spoilt_shard_is_learned_again(tiny_diffusion, toy_images, fresh_cache, spoil):
    real = toy_images.subset(range(8))
    first = invert(tiny_diffusion, real, QUICK)
    shards = sorted(fresh_cache.rglob("*.safetensors"))
    assert len(shards) == 2
    data = bytearray(shards[0].read_bytes())
    if spoil == "cut":
        del data[50:]
    else:
        data[spoil] ^= 0x40
    shards[0].write_bytes(data)
    with pytest.warns(UserWarning, match="learned again"):
        again = invert(tiny_diffusion, real, QUICK)
    assert torch.equal(first.embeddings, again.embeddings)


def test_an_interrupt_keeps_finished_groups(tiny_diffusion, toy_images, unet_calls):
    def interrupt(*_):
        if len(unet_calls) == 13:  # within the second of three groups
            raise KeyboardInterrupt

    hook = tiny_diffusion.unet.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        invert(tiny_diffusion, toy_images.subset(range(10)), QUICK)
    hook.remove()
    unet_calls.clear()
    invert(tiny_diffusion, toy_images.subset(range(10)), QUICK)
    assert unet_calls == [4] * 8 + [2] * 8


KILLED_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import make_toy_images
from diffinv.models.diffusion import load_diffusion
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion
model = load_diffusion({checkpoint!r}, device="cpu")
settings = Inversion(num_tokens=2, steps_per_image=30, batch_size=3)
invert(model, make_toy_images().subset(range(12)), settings, cache_dir=Path({cache!r}))
"""


def test_a_killed_run_resumes_to_the_same_bits(tiny_checkpoint, toy_images, tmp_path):
    """SIGKILL in the middle, in a process of its own; then resumed here against an undisturbed run."""
    code = KILLED_RUN.format(
        tests=str(Path(__file__).parents[1]), checkpoint=str(tiny_checkpoint), cache=str(tmp_path / "killed")
    )
    threads = str(torch.get_num_threads())
    environment = os.environ | {"OMP_NUM_THREADS": threads, "DIFFINV_HEADLESS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "killed").rglob("*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(list((tmp_path / "killed").rglob("*.safetensors")))
    assert 1 <= done < 4, "the run was over before it could be killed"

    model = load_diffusion(tiny_checkpoint, device="cpu")
    settings = Inversion(num_tokens=2, steps_per_image=30, batch_size=3)
    real = toy_images.subset(range(12))
    calls = []
    hook = model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    resumed = invert(model, real, settings, cache_dir=tmp_path / "killed")
    assert len(calls) == (4 - done) * 30
    hook.remove()
    undisturbed = invert(model, real, settings, cache_dir=tmp_path / "whole")
    assert torch.equal(resumed.embeddings, undisturbed.embeddings)
    assert torch.equal(resumed.losses, undisturbed.losses)


def test_divergence_names_the_image_and_keeps_the_others(tmp_path, toy_images):
    model = load_diffusion(write_checkpoint(tmp_path / "tiny"), device="cpu")
    culprit = toy_images.ids[5]
    encode = model.latent_moments

    def spoilt(images, **options):
        mean, std = encode(images, **options)
        mean[(torch.tensor(images) == torch.tensor(toy_images.images[5])).flatten(1).all(dim=1)] = torch.nan
        return mean, std

    model.latent_moments = spoilt
    with pytest.raises(InversionDiverged, match=rf"'{culprit}'.*lower learning_rate"):
        invert(model, toy_images, QUICK)
    model.latent_moments = encode
    calls = []
    model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    invert(model, toy_images.subset(range(4)), QUICK)
    assert calls == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_tokens": 0},
        {"steps_per_image": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -0.1},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"initial_std": -1.0},
        {"initialisation": "zero"},
        {"timestep_sampling": "sorted"},
    ],
)
def test_senseless_settings_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"^{name} is .*\.$"):
        Inversion(**wrong)


def test_unsuitable_images_are_refused(tiny_diffusion, toy_images):
    with pytest.raises(ValueError, match=r"resolution 28 .*divisible by 8"):
        invert(tiny_diffusion, toy_images.resize(28), QUICK)
    with pytest.raises(ValueError, match="no image"):
        invert(tiny_diffusion, toy_images.subset([]), QUICK)
    with pytest.raises(ValueError, match="num_tokens is 17 but an encoded class name has 16"):
        invert(tiny_diffusion, toy_images, Inversion(num_tokens=17, initialisation="class_prompt"))
