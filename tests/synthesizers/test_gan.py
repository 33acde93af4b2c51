"""The GAN and its inversion: they learn, they resume to the bit, and a collapse does not go unnoticed."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import shift

from diffinv import LabelledImages, Synthesizer
from diffinv.foundation.randomness import stream
from diffinv.method.inversion import InversionDiverged
from diffinv.synthesizers.gan import frozen, training
from diffinv.synthesizers.gan import latent_inversion as inversion
from diffinv.synthesizers.gan.architectures import build_networks, working_side
from diffinv.synthesizers.gan.augmentation import _cut_out, _shift, augment_differentiably
from diffinv.synthesizers.gan.frozen import train_gan
from diffinv.synthesizers.gan.gan import GAN
from diffinv.synthesizers.gan.gan_inversion import GANInversion
from diffinv.synthesizers.gan.latent_inversion import (
    LatentInversion,
    invert_latents,
    latent_inversion_steps,
    render,
)
from diffinv.synthesizers.gan.training import GANCollapsed, GANDiverged, GANTraining, gan_steps

pytestmark = pytest.mark.filterwarnings("ignore:the GAN of seed .* has collapsed")

QUICK = GANTraining(optimiser_steps=12, batch_size=8, latent_dim=6, channels=4)
FAST = LatentInversion(steps_per_image=20, candidates=3)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    for module in (frozen, training):
        monkeypatch.setattr(module, "best_device", lambda: "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A GAN that has learned something of the toy images."""
    from conftest import make_toy_images

    settings = replace(QUICK, optimiser_steps=150, generator_learning_rate=2e-3, channels=8)
    folder = tmp_path_factory.mktemp("gan")
    return train_gan(make_toy_images(), settings, seed=0, device="cpu", cache_dir=folder)


def close(first, second):
    return np.abs(first.astype(int) - second.astype(int)).max() <= 1


def weights(network):
    return torch.cat([value.detach().flatten() for value in network.state_dict().values()])


def check_often(monkeypatch, steps):
    for module in (frozen, training):
        monkeypatch.setattr(module, "STEPS_PER_CHECK", steps)


# Networks


@pytest.mark.parametrize(
    "resolution, side",
    [(8, 8), (9, 10), (28, 28), (30, 32), (32, 32), (64, 64), (96, 96), (128, 128), (225, 256)],
)
def test_images_of_every_size_are_made_at_the_next_side_that_doubles(resolution, side):
    assert working_side(resolution) == side and working_side(side) == side


@pytest.mark.parametrize("side", [8, 28, 32, 96])
def test_networks_of_every_side_turn_codes_into_pixels_and_pixels_into_verdicts(side):
    generator, discriminator = build_networks(side, 3, 6, 4, seed=0)
    labels = torch.tensor([0, 2])
    codes = generator.codes(torch.randn(2, 6, generator=stream(0)), labels)
    assert codes.shape == (2, generator.num_layers, generator.code_width)
    pixels = generator(codes)
    assert pixels.shape == (2, 3, side, side) and pixels.abs().max() <= 1
    verdicts = discriminator(pixels, labels)
    assert verdicts.shape == (2,)
    assert not torch.allclose(verdicts, discriminator(pixels, torch.tensor([1, 1])))


def test_the_weights_come_from_the_seed_alone_and_every_layer_of_the_critic_is_spectrally_normed():
    state = torch.random.get_rng_state()
    first, again, other = (build_networks(16, 3, 6, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was touched"
    for network, same, different in zip(first, again, other, strict=True):
        assert torch.equal(weights(network), weights(same))
        assert not torch.equal(weights(network), weights(different))
    critic = first[1].eval()
    for layer in (*critic.downsamplings, critic.whole, critic.head, critic.class_embedding):
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1, abs=0.1)


def test_a_code_moves_its_own_image_alone(toy_images):
    generator, _ = build_networks(16, 3, 6, 4, seed=0)
    codes = generator.codes(torch.randn(4, 6, generator=stream(0)), torch.tensor([0, 1, 2, 0])).clone()
    before = generator(codes)
    codes[1, -1] += 1  # of the finest layer
    after = generator(codes)
    moved = (after - before).abs().amax(dim=(1, 2, 3))
    assert moved[1] > 1e-3 and moved[[0, 2, 3]].max() < 1e-6


# Augmentation


def test_shifts_move_whole_images_over_grey():
    images = torch.rand(60, 3, 16, 16, generator=stream(0))
    down, right = torch.rand(2, 60, 1, 1, 1, generator=stream(1))
    seen = set()
    for image, moved in zip(images.numpy(), _shift(images, down, right).numpy(), strict=True):
        steps = itertools.product(range(-2, 3), repeat=2)
        (found,) = [step for step in steps if np.array_equal(moved, shift(image, (0, *step), order=0))]
        seen.add(found)
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(-2, 3))


def test_augmentation_is_differentiable_and_depends_on_its_stream_alone():
    images = torch.rand(2, 3, 6, 6, generator=stream(0), dtype=torch.float64).requires_grad_()
    one, same, other = (augment_differentiably(images, stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.autograd.gradcheck(lambda pixels: augment_differentiably(pixels, stream(1)), images)
    assert torch.autograd.grad(one.sum(), images)[0].flatten(1).abs().sum(dim=1).min() > 0


def test_a_quarter_of_an_image_at_most_is_cut_out():
    images = torch.full((200, 3, 16, 16), 0.5)
    shown = _cut_out(images, *torch.rand(2, 200, 1, 1, 1, generator=stream(0)))
    holes = (shown == 0).all(dim=1).flatten(1).sum(dim=1)
    assert holes.max() == 64 and holes.min() < 40
    assert set(shown.unique().tolist()) == {0, 0.5}


# Training


def test_every_image_is_seen_equally_often_even_in_batches_larger_than_the_set():
    batches = [training._batch(18, 32, 0, number) for number in range(9)]  # 288 = 16 times 18
    assert (torch.bincount(torch.cat(batches), minlength=18) == 16).all()
    assert not torch.equal(batches[0][:18], batches[1][:18])


def test_training_is_a_function_of_images_settings_and_seed(toy_images):
    state = torch.random.get_rng_state()
    first, again, other = (list(gan_steps(toy_images, QUICK, seed))[-1] for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was touched"
    assert [step.steps_done for step in gan_steps(toy_images, QUICK, 3)] == list(range(1, 13))
    assert torch.equal(weights(first.averaged), weights(again.averaged))
    assert not torch.equal(weights(first.averaged), weights(other.averaged))
    darker = replace(toy_images, images=toy_images.images // 2)
    *_, last = gan_steps(darker, QUICK, 3)
    assert not torch.equal(weights(first.averaged), weights(last.averaged))


def test_the_averaged_generator_lags_behind_the_live_one(toy_images):
    for step in gan_steps(toy_images, replace(QUICK, ema_decay=0), 0):
        assert torch.equal(weights(step.averaged), weights(step.generator))
    *_, last = gan_steps(toy_images, QUICK, 0)
    assert not torch.equal(weights(last.averaged), weights(last.generator))


def test_generator_and_discriminator_change_only_in_their_own_turn(toy_images):
    still = replace(QUICK, generator_learning_rate=1e-30)
    *_, last = gan_steps(toy_images, still, 0)
    generator, _ = build_networks(16, 3, 6, 4, seed=0)
    assert torch.equal(weights(last.generator), weights(generator))
    assert all(weight.requires_grad for weight in last.discriminator.parameters())


def test_it_learns_what_the_classes_look_like():
    # Red, green and blue grounds of random brightness.
    random = np.random.default_rng(0)
    images = np.full((24, 8, 8, 3), 20, dtype=np.uint8)
    labels = np.arange(24) % 3
    images[np.arange(24), :, :, labels] = random.integers(150, 250, size=(24, 1, 1))
    real = LabelledImages(images, labels, ("red", "green", "blue"), tuple(map(str, range(24))))
    settings = GANTraining(
        optimiser_steps=100, batch_size=16, latent_dim=4, channels=8, ema_decay=0.9,
        generator_learning_rate=4e-3, discriminator_learning_rate=4e-3,
    )  # fmt: skip
    synthetic = GAN(settings)(real, images_per_real=4, seed=0)
    brightest = synthetic.images.mean(axis=(1, 2)).argmax(axis=1)
    assert (brightest == synthetic.labels).mean() > 0.9


def test_images_of_a_class_are_kept_as_far_apart_as_the_real_ones(toy_images):
    found = {}
    for weight in (0.0, 10.0):
        settings = replace(QUICK, optimiser_steps=60, ema_decay=0.5, diversity_weight=weight)
        *_, last = gan_steps(toy_images, settings, 0)
        found[weight] = last.diversity
    assert found[0.0] < 0.7 * found[10.0] and 0.5 < found[10.0] < 1.5


def test_a_killed_run_resumes_to_the_very_weights(toy_images, monkeypatch, tmp_path):
    check_often(monkeypatch, 4)
    whole = train_gan(toy_images, QUICK, seed=0, cache_dir=tmp_path / "whole")
    genuine, done = training._step, []

    def killed(*arguments):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(1)
        return genuine(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_gan(toy_images, QUICK, seed=0, cache_dir=tmp_path / "killed")
    steps = []
    monkeypatch.setattr(training, "_step", lambda *a: steps.append(1) or genuine(*a))
    resumed = train_gan(toy_images, QUICK, seed=0, cache_dir=tmp_path / "killed")
    assert len(steps) == 12 - 4  # of the 7 steps those after the last look are lost
    assert resumed.fingerprint == whole.fingerprint
    for name in ("diversity", "mean_discriminator_loss", "collapsed"):
        assert resumed.provenance[name] == whole.provenance[name]
    (saved, again) = tmp_path.glob("*/gan/*.safetensors")
    assert _tensors(saved).keys() == _tensors(again).keys()
    assert all(torch.equal(_tensors(saved)[key], _tensors(again)[key]) for key in _tensors(saved))


def _tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_a_finished_training_is_found_again_and_a_damaged_one_repeated(toy_images, monkeypatch, fresh_cache):
    first = train_gan(toy_images, QUICK, seed=0)
    steps, genuine = [], training._step
    monkeypatch.setattr(training, "_step", lambda *a: steps.append(1) or genuine(*a))
    assert train_gan(toy_images, QUICK, seed=0).fingerprint == first.fingerprint
    assert steps == []
    assert train_gan(toy_images, QUICK, seed=1).fingerprint != first.fingerprint
    (steps.clear(), [path.write_bytes(path.read_bytes()[:500]) for path in fresh_cache.glob("gan/*")])
    with pytest.warns(UserWarning, match="cannot be read"):
        assert train_gan(toy_images, QUICK, seed=0).fingerprint == first.fingerprint
    assert len(steps) == QUICK.optimiser_steps


def test_a_generator_that_makes_one_image_a_class_has_collapsed(toy_images, monkeypatch):
    def without_latents(generator, labels, _):
        return generator.codes(torch.zeros(len(labels), generator.latent_dim), labels)

    monkeypatch.setattr(training, "_codes", without_latents)
    gan = train_gan(toy_images, QUICK, seed=7)
    assert gan.provenance["diversity"] < training.LEAST_DIVERSITY
    assert gan.collapsed is not None
    for words in ("seed 7", "since step 12", "differ by 0%", "lower discriminator_learning_rate"):
        assert words in gan.collapsed


def test_a_discriminator_that_is_never_wrong_has_stopped_teaching(toy_images):
    pinned = replace(
        QUICK, optimiser_steps=230, batch_size=4, augment=False,
        generator_learning_rate=1e-30, discriminator_learning_rate=1e-2,
    )  # fmt: skip
    real = toy_images.resize(8)
    state = training.GANState(real, pinned, seed=0, device=torch.device("cpu"))
    state.mean_discriminator_loss = 0.2  # already falling
    *_, last = gan_steps(real, pinned, 0, state=state)
    assert last.mean_discriminator_loss < training.LEAST_DISCRIMINATOR_LOSS
    assert "since step 230" in training.describe_collapse(last, 0)


def test_a_gan_that_works_has_not_collapsed(trained):
    assert trained.collapsed is None
    assert training.LEAST_DIVERSITY < trained.provenance["diversity"] < 2


def test_a_collapse_that_passes_is_forgotten(toy_images, monkeypatch):
    check_often(monkeypatch, 4)
    diversities = iter([1.0, 0.01, 0.8, 0.02])  # of the real images, then at 4, 8 and 12 steps
    monkeypatch.setattr(training, "_diversity", lambda *_: next(diversities))
    since = [step.collapsed_since for step in gan_steps(toy_images, QUICK, 0)]
    assert since == [None] * 3 + [4] * 4 + [None] * 4 + [12]


def test_a_collapse_stops_a_synthesizer_or_is_flagged(toy_images, monkeypatch, fresh_cache):
    monkeypatch.setattr(training, "LEAST_DIVERSITY", 1e9)
    for make in (GAN, GANInversion):
        with pytest.raises(GANCollapsed, match="the GAN of seed 5 has collapsed since step 12"):
            make(QUICK)(toy_images, images_per_real=1, seed=5)
    assert not (fresh_cache / "samples").exists()
    with pytest.warns(UserWarning, match="has collapsed"):
        synthetic = GAN(QUICK, on_collapse="warn")(toy_images, images_per_real=1, seed=5)
    record = json.loads(json.dumps(synthetic.provenance))["gan"]
    assert "has collapsed" in record["collapsed"] and record["training_seconds"] > 0


def test_a_loss_that_is_not_finite_is_an_error(toy_images):
    with pytest.raises(GANDiverged, match="seed 2 is no longer finite at step"):
        list(gan_steps(toy_images, replace(QUICK, generator_learning_rate=1e38), 2))


@pytest.mark.parametrize(
    "field, value",
    [
        ("optimiser_steps", 0),
        ("discriminator_updates", 0),
        ("batch_size", 1),
        ("latent_dim", 0),
        ("channels", 6),
        ("generator_learning_rate", 0.0),
        ("discriminator_learning_rate", float("inf")),
        ("ema_decay", 1.0),
        ("diversity_weight", -1.0),
    ],
)
def test_senseless_training_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(QUICK, **{field: value})


def test_images_that_no_gan_can_make_are_refused(toy_images):
    with pytest.raises(ValueError, match="images of 4 px are too small"):
        next(gan_steps(toy_images.resize(4), QUICK, 0))
    with pytest.raises(ValueError, match="no image"):
        next(gan_steps(toy_images.subset([]), QUICK, 0))


def test_several_updates_of_the_critic_see_several_batches(toy_images, monkeypatch):
    seen, genuine = [], training._batch
    monkeypatch.setattr(training, "_batch", lambda *a: seen.append(a[-1]) or genuine(*a))
    list(gan_steps(toy_images, replace(QUICK, optimiser_steps=3, discriminator_updates=2), 0))
    assert seen == list(range(6))


# Synthesizers


@pytest.fixture(params=["GAN", "GANInversion"])
def make(request):
    def build(**changes):
        settings = {"training": QUICK, "on_collapse": "warn", **changes}  # it has hardly begun to learn
        return GAN(**settings) if request.param == "GAN" else GANInversion(inversion=FAST, **settings)

    return build


def test_samples_carry_their_sources_label_and_name(make, toy_images):
    synthetic = make()(toy_images, images_per_real=2, seed=0)
    assert isinstance(make(), Synthesizer)
    assert len(synthetic) == 2 * len(toy_images) and synthetic.resolution == toy_images.resolution
    assert np.array_equal(synthetic.labels, np.tile(toy_images.labels, 2))
    assert synthetic.sources == toy_images.ids * 2 and len(set(synthetic.ids)) == len(synthetic)
    record = json.loads(json.dumps(synthetic.provenance))
    assert record["synthesizer"] == json.loads(json.dumps(make().describe()))
    assert record["gan"]["settings"]["optimiser_steps"] == 12


def test_fewer_samples_are_a_prefix_of_more_and_another_seed_is_another_set(
    make, toy_images, monkeypatch, tmp_path
):
    three = make()(toy_images, images_per_real=3, seed=0)
    again = make()(toy_images, images_per_real=3, seed=0)
    assert np.array_equal(again.images, three.images)
    assert not np.array_equal(make()(toy_images, images_per_real=1, seed=1).images, three.images[:18])
    assert not close(three.images[:18], three.images[18:36])  # copies differ
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    one = make()(toy_images, images_per_real=1, seed=0)
    assert one.ids == three.ids[:18] and close(one.images, three.images[:18])


def test_images_of_an_odd_size_come_back_at_it(make, toy_images):
    assert make()(toy_images.resize(30), images_per_real=1, seed=0).resolution == 30


def test_what_cannot_be_used_is_refused_before_any_work(toy_images, fresh_cache):
    cases = [
        (GAN(QUICK), toy_images, 0, "images_per_real is 0"),
        (GAN(QUICK), toy_images.subset([]), 1, "holds no image"),
        (GANInversion(QUICK), toy_images.subset([0, 1, 6]), 1, "single image"),
    ]
    for synthesizer, real, images_per_real, culprit in cases:
        with pytest.raises(ValueError, match=culprit):
            synthesizer(real, images_per_real=images_per_real, seed=0)
    assert list(fresh_cache.iterdir()) == []
    for make, field in ((GAN, {"on_collapse": "ignore"}), (GANInversion, {"noise_std": -1.0})):
        with pytest.raises(ValueError, match=next(iter(field))):
            make(QUICK, **field)


def test_a_sample_does_not_depend_on_the_batch(trained, toy_images):
    codes = trained.codes(torch.randn(18, 6, generator=stream(0)), toy_images.labels)
    assert close(trained.images(codes), trained.images(codes, batch_size=5))
    assert close(trained.images(codes)[4:5], trained.images(codes[4:5]))


# Inversion


def error(images, real):
    return np.square(images.astype(float) - real.images).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("space", ["z", "w"])
def test_inversion_reproduces_an_image_better_than_any_random_code(trained, toy_images, space):
    settings = LatentInversion(steps_per_image=60, space=space)
    store = invert_latents(trained, toy_images, settings, seed=0)
    assert store.ids == toy_images.ids and store.labels.tolist() == toy_images.labels.tolist()
    found = error(render(trained, store.embeddings, toy_images.labels, space), toy_images)
    random = [
        error(
            trained.images(trained.codes(torch.randn(18, 6, generator=stream(n)), toy_images.labels)),
            toy_images,
        )
        for n in range(16)
    ]
    best = np.min(random, axis=0)
    assert found.mean() < best.mean() and (found < best).mean() > 0.8


def test_a_code_for_each_layer_reproduces_more_than_one_latent(trained, toy_images):
    errors = {}
    for space in ("z", "w"):
        store = invert_latents(trained, toy_images, LatentInversion(steps_per_image=60, space=space), seed=0)
        errors[space] = error(render(trained, store.embeddings, toy_images.labels, space), toy_images).mean()
    assert errors["w"] < errors["z"]


def test_the_loss_falls_and_the_networks_stay_as_they_are(trained, toy_images):
    before = [weights(network).clone() for network in (trained.generator, trained.discriminator)]
    steps = list(latent_inversion_steps(trained, toy_images, FAST, seed=0))
    assert (steps[-1].losses < steps[0].losses).float().mean() > 0.9
    assert [step.step for step in steps] == list(range(1, 21))
    assert torch.equal(before[0], weights(trained.generator))
    assert torch.equal(before[1], weights(trained.discriminator))
    assert all(weight.grad is None for weight in trained.generator.parameters())


def test_the_grouping_leaves_no_trace_and_a_subset_is_free(trained, toy_images, monkeypatch, tmp_path):
    whole = invert_latents(trained, toy_images, FAST, seed=0)
    calls, genuine = [], inversion.latent_inversion_steps
    monkeypatch.setattr(inversion, "latent_inversion_steps", lambda *a: calls.append(1) or genuine(*a))
    rows = [2, 9, 15]
    part = invert_latents(trained, toy_images.subset(rows), replace(FAST, batch_size=2), seed=0)
    assert calls == [] and torch.equal(part.embeddings, whole.embeddings[rows])
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    grouped = invert_latents(trained, toy_images, replace(FAST, batch_size=5), seed=0)
    assert len(calls) == 4
    torch.testing.assert_close(grouped.embeddings, whole.embeddings, atol=2e-3, rtol=1e-3)


def test_without_noise_and_partner_every_copy_is_the_reconstruction(toy_images):
    still = GANInversion(QUICK, FAST, noise_std=0, interpolation_weight=0, on_collapse="warn")
    synthetic = still(toy_images, images_per_real=2, seed=0)
    assert close(synthetic.images[:18], synthetic.images[18:])
    gan = train_gan(toy_images, QUICK, seed=0)
    store = invert_latents(gan, toy_images, FAST, seed=0)
    assert close(synthetic.images[:18], render(gan, store.embeddings, toy_images.labels, "w"))
    partner = replace(still, interpolation_weight=1)(toy_images, images_per_real=1, seed=0)
    distances = np.square(partner.images[:, None].astype(float) - synthetic.images[:18]).mean(axis=(2, 3, 4))
    nearest = distances.argmin(axis=1)
    assert (toy_images.labels[nearest] == toy_images.labels).all() and (nearest != np.arange(18)).all()


def test_the_gan_and_its_inversion_share_one_training(toy_images, monkeypatch):
    GAN(QUICK, "warn")(toy_images, images_per_real=1, seed=0)
    monkeypatch.setattr(training, "_step", lambda *_: pytest.fail("trained again"))
    GANInversion(QUICK, FAST, on_collapse="warn")(toy_images, images_per_real=1, seed=0)


def test_with_a_training_seed_one_gan_makes_the_samples_of_all_seeds(make, toy_images, monkeypatch):
    own = make()(toy_images, images_per_real=1, seed=3)
    fixed = make(training_seed=3)
    monkeypatch.setattr(training, "_step", lambda *_: pytest.fail("trained again"))
    assert np.array_equal(fixed(toy_images, images_per_real=1, seed=3).images, own.images)
    assert not np.array_equal(fixed(toy_images, images_per_real=1, seed=4).images, own.images)


def test_an_inversion_that_diverges_names_its_image(trained, toy_images):
    broken = toy_images.subset([4, 5])
    with pytest.raises(InversionDiverged, match=r"disc/0004.*lower learning_rate"):
        list(latent_inversion_steps(trained, broken, replace(FAST, learning_rate=1e30), seed=0))


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps_per_image", 0),
        ("candidates", 0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("feature_weight", -1.0),
        ("prior_weight", float("nan")),
        ("space", "x"),
    ],
)
def test_senseless_inversion_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(FAST, **{field: value})
