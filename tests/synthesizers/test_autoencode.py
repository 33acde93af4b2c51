"""Autoencoding: the stock autoencoder at a chosen resolution, and copies only where they can differ."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor

from diffinv import Synthesizer, load_dataset
from diffinv.synthesizers import base
from diffinv.synthesizers.autoencode import Autoencode


def close(first, second):
    return np.abs(first.astype(int) - second.astype(int)).max() <= 1


def test_it_is_the_stock_autoencoder(tiny_diffusion, tiny_checkpoint, toy_images):
    synthetic = Autoencode(tiny_diffusion)(toy_images, images_per_real=1, seed=0)
    vae = StableDiffusionPipeline.from_pretrained(tiny_checkpoint, safety_checker=None).vae
    pixels = torch.from_numpy(toy_images.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    expected = VaeImageProcessor.numpy_to_pil(VaeImageProcessor().postprocess(decoded, output_type="np"))
    assert close(synthetic.images, np.stack([np.asarray(image) for image in expected]))


def test_every_image_keeps_its_label_and_gets_a_name(tiny_diffusion, toy_images):
    synthesizer = Autoencode(tiny_diffusion)
    synthetic = synthesizer(toy_images, images_per_real=1, seed=0)
    assert isinstance(synthesizer, Synthesizer)
    assert np.array_equal(synthetic.labels, toy_images.labels) and synthetic.sources == toy_images.ids
    assert synthetic.ids == tuple(f"{name}#0" for name in toy_images.ids)
    assert json.loads(json.dumps(synthetic.provenance))["synthesizer"] == synthesizer.describe()
    assert synthesizer.describe() != Autoencode(tiny_diffusion, resolution=32).describe()
    assert synthesizer.describe() == Autoencode(tiny_diffusion, batch_size=3).describe()


def test_images_go_through_at_the_resolution_and_come_back_at_their_own(
    tiny_diffusion, toy_images, monkeypatch
):
    seen, genuine = [], tiny_diffusion.latent_moments
    monkeypatch.setattr(
        tiny_diffusion,
        "latent_moments",
        lambda images, **more: seen.append(images) or genuine(images, **more),
    )
    # 20 px suits the autoencoder, though not the U-Net.
    for resolution in (20, 32):
        synthetic = Autoencode(tiny_diffusion, resolution)(toy_images, images_per_real=1, seed=0)
        assert synthetic.resolution == 16
        assert np.array_equal(seen.pop(), toy_images.resize(resolution).images)
    mean, _ = genuine(toy_images.resize(32).images)
    decoded = replace(toy_images, images=tiny_diffusion.decode(mean))
    assert close(synthetic.images, decoded.resize(16).images)


def test_a_higher_resolution_loses_less(tinysd):
    real = load_dataset("icons10").per_class(1, seed=0)
    errors = []
    for resolution in (32, 64):
        synthetic = Autoencode(tinysd, resolution)(real, images_per_real=1, seed=0)
        errors.append(np.square(synthetic.images.astype(float) - real.images).mean())
    assert 0 < errors[1] < errors[0]


def test_copies_of_a_draw_differ_and_do_not_depend_on_the_batch(
    tiny_diffusion, toy_images, monkeypatch, tmp_path
):
    three = Autoencode(tiny_diffusion, posterior="sample")(toy_images, images_per_real=3, seed=0)
    assert not np.array_equal(three.images[:18], three.images[18:36])
    other = Autoencode(tiny_diffusion, posterior="sample")(toy_images, images_per_real=1, seed=1)
    assert not np.array_equal(other.images, three.images[:18])
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    monkeypatch.setattr(base, "SAMPLES_PER_SHARD", 7)
    small = Autoencode(tiny_diffusion, posterior="sample", batch_size=2)
    assert close(small(toy_images, images_per_real=2, seed=0).images, three.images[:36])


def test_draws_scatter_about_the_mean_as_the_posterior_says(tiny_diffusion, toy_images, monkeypatch):
    latents = []
    genuine = tiny_diffusion.decode
    monkeypatch.setattr(tiny_diffusion, "decode", lambda z, **more: latents.append(z) or genuine(z, **more))
    real = toy_images.subset([0, 1])
    Autoencode(tiny_diffusion, posterior="sample")(real, images_per_real=60, seed=0)
    mean, std = tiny_diffusion.latent_moments(real.images)
    scores = (torch.cat(latents).unflatten(0, (60, 2)) - mean) / std
    assert abs(float(scores.mean())) < 0.05 and float(scores.std()) == pytest.approx(1, abs=0.05)


def test_the_mean_does_not_depend_on_the_seed_and_the_model_stays_as_it_is(tiny_diffusion, toy_images):
    before = [weight.clone() for weight in tiny_diffusion.vae.parameters()]
    one, two = (Autoencode(tiny_diffusion)(toy_images, images_per_real=1, seed=seed) for seed in (0, 1))
    assert np.array_equal(one.images, two.images)
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_diffusion.vae.parameters(), strict=True))


def test_what_cannot_be_honoured_is_refused_before_any_work(tiny_diffusion, toy_images, fresh_cache):
    with pytest.raises(ValueError, match="images_per_real is 2 but the posterior's mean"):
        Autoencode(tiny_diffusion)(toy_images, images_per_real=2, seed=0)
    with pytest.raises(ValueError, match="images_per_real is 0"):
        Autoencode(tiny_diffusion)(toy_images, images_per_real=0, seed=0)
    with pytest.raises(ValueError, match="resolution 18 does not suit the autoencoder"):
        Autoencode(tiny_diffusion)(toy_images.resize(18), images_per_real=1, seed=0)
    for field, value in (("resolution", 30), ("resolution", 0), ("posterior", "mode"), ("batch_size", 0)):
        with pytest.raises(ValueError, match=field):
            Autoencode(tiny_diffusion, **{field: value})
    assert list(fresh_cache.iterdir()) == []
