"""Classifiers: they learn, they depend on nothing but their seed, and they refuse what they cannot do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffinv.classifiers.architectures import ARCHITECTURES, build_classifier
from diffinv.classifiers.augmentation import augment
from diffinv.classifiers.training import (
    Training,
    TrainingDiverged,
    _batches,
    _in_halves,
    train_classifier,
    training_steps,
)
from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import stream

QUICK = Training(
    architecture="resnet8_narrow", optimiser_steps=40, batch_size=16, learning_rate=0.05, warmup_steps=4
)


@pytest.fixture(scope="module")
def digits():
    """1,797 real digits of scikit-learn at 32 px: 400 to train on, 500 to test on."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    grey = np.kron(raw.images * 255 / 16, np.ones((4, 4))).astype(np.uint8)
    data = LabelledImages(
        images=np.repeat(grey[..., None], 3, axis=3),
        labels=raw.target,
        class_names=tuple("0123456789"),
        ids=tuple(str(number) for number in range(len(grey))),
    )
    return data.subset(range(400)), data.subset(range(1200, 1700))


def weights(classifier):
    return torch.cat([weight.detach().flatten() for weight in classifier.model.state_dict().values()])


def test_a_shorter_training_has_a_warm_up_that_fits():
    paper = Training(optimiser_steps=20_000, warmup_steps=1000)
    assert (paper.of_length(120).optimiser_steps, paper.of_length(120).warmup_steps) == (120, 30)
    assert paper.of_length(5000).warmup_steps == 1000 and paper.of_length(1).warmup_steps == 0
    with pytest.raises(ValueError, match="optimiser_steps"):
        paper.of_length(0)


def test_the_narrow_network_reads_digits(digits):
    train, test = digits
    settings = replace(QUICK, optimiser_steps=80, batch_size=32, augmentation="crop")
    classifier = train_classifier(train, settings, seed=0)
    assert classifier.accuracy(test) > 0.8
    per_class = classifier.accuracies(test)[1]
    counts = np.array(list(test.class_counts().values()))
    assert np.average(list(per_class.values()), weights=counts) == pytest.approx(classifier.accuracy(test))
    assert list(per_class) == list(test.class_names)


def test_the_loss_falls_and_the_learning_rate_rises_then_decays(toy_images):
    still = replace(QUICK, augmentation="none")
    steps = [(s.loss, s.learning_rate) for s in training_steps(toy_images, still, seed=0)]
    losses, rates = np.array(steps).T
    assert len(losses) == QUICK.optimiser_steps
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert rates.argmax() in (QUICK.warmup_steps - 1, QUICK.warmup_steps)
    assert rates.max() == QUICK.learning_rate
    assert (np.diff(rates[: QUICK.warmup_steps]) > 0).all() and (
        np.diff(rates[QUICK.warmup_steps :]) < 0
    ).all()
    assert 0 < rates[-1] < 0.01 * QUICK.learning_rate


def test_same_seed_same_weights_whatever_else_is_drawn(toy_images):
    settings = replace(QUICK, optimiser_steps=6)
    first = train_classifier(toy_images, settings, seed=3)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    again = train_classifier(toy_images, settings, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was touched"
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(train_classifier(toy_images, settings, seed=4)))


def test_looking_at_a_classifier_in_training_does_not_change_it(toy_images):
    settings = replace(QUICK, optimiser_steps=5)
    for step in training_steps(toy_images, settings, seed=0):
        step.classifier.accuracy(toy_images)
        assert step.classifier.model.training
    assert torch.equal(weights(step.classifier), weights(train_classifier(toy_images, settings, seed=0)))


def test_every_image_is_seen_equally_often_even_in_batches_larger_than_the_set(toy_images):
    batches = _batches(toy_images, replace(QUICK, batch_size=32), seed=0)
    seen = torch.cat([next(batches) for _ in range(9)])  # 288 = 16 times 18
    assert len(toy_images) == 18 and (torch.bincount(seen, minlength=18) == 16).all()


def with_samples(real, images_per_real):
    """Real images and, after them, darker copies that count as samples."""
    copies = range(images_per_real)
    made = replace(
        real,
        images=np.concatenate([real.images // (2 + copy) for copy in copies]),
        labels=np.tile(real.labels, images_per_real),
        ids=tuple(f"{name}#{copy}" for copy in copies for name in real.ids),
        sources=real.ids * images_per_real,
    )
    return LabelledImages.concatenate(real, made)


@pytest.mark.parametrize(("share", "size"), [(0.5, 16), (0.2, 64), (0.3, 7), (0, 8), (1, 8)])
def test_a_batch_has_its_share_of_samples_and_each_image_comes_as_often(toy_images, share, size):
    both, real = with_samples(toy_images, 3), len(toy_images)
    batches = _batches(both, replace(QUICK, batch_size=size, synthetic_share=share), seed=0)
    drawn = [next(batches) for _ in range(400)]
    counts = torch.tensor([int((batch >= real).sum()) for batch in drawn])
    assert {len(batch) for batch in drawn} == {size}
    assert set(counts.tolist()) <= {int(share * size), int(-(-share * size // 1))}, "drawn, not rounded"
    assert abs(counts.float().mean() - share * size) < 0.1
    seen = torch.bincount(torch.cat(drawn), minlength=len(both))
    for kind in (seen[:real], seen[real:]):
        assert kind.max() - kind.min() <= 1


def test_without_a_share_all_images_come_as_often(toy_images):
    both = with_samples(toy_images, 3)
    batches = _batches(both, replace(QUICK, batch_size=len(both), synthetic_share=None), seed=0)
    assert sorted(next(batches).tolist()) == list(range(len(both)))


def test_a_share_has_no_bearing_on_images_of_one_kind(toy_images):
    samples = with_samples(toy_images, 1).subset(range(len(toy_images), 2 * len(toy_images)))
    for images in (toy_images, samples):
        trained = [
            train_classifier(images, replace(QUICK, optimiser_steps=5, synthetic_share=share), seed=0)
            for share in (0.5, None)
        ]
        assert torch.equal(*map(weights, trained))


def test_real_images_come_in_the_same_order_whatever_the_samples_are(toy_images):
    settings = replace(QUICK, batch_size=8)
    few, many = (_batches(with_samples(toy_images, n), settings, seed=0) for n in (1, 4))
    for _ in range(5):
        assert torch.equal(next(few)[4:], next(many)[4:])


def last_step(images, settings, count):
    *_, last = training_steps(images, replace(settings, optimiser_steps=count, warmup_steps=0), seed=0)
    return last.classifier


def test_samples_are_normalised_apart_and_the_real_statistics_are_those_of_evaluation(toy_images):
    both = with_samples(toy_images, 1)
    settings = replace(QUICK, batch_size=len(both), augmentation="none", split_batch_norm=True)
    start = build_classifier("resnet8_narrow", 3, 16, generator=stream(0, "classifier", "weights")).train()
    learned = last_step(both, settings, 1)
    # The first layer has seen one batch: half of it all real images, half all samples.
    pixels = learned.normalise(torch.from_numpy(both.images))
    first = next(name for name, layer in start.named_modules() if isinstance(layer, torch.nn.BatchNorm2d))
    start(pixels[: len(toy_images)])
    real_alone = start.get_submodule(first).running_mean
    assert torch.allclose(learned.model.get_submodule(first).running_mean, real_alone, atol=1e-5)
    together = last_step(both, replace(settings, split_batch_norm=False), 1)
    assert not torch.allclose(together.model.get_submodule(first).running_mean, real_alone, atol=1e-2)
    assert all(layer.track_running_stats for layer in learned.model.modules() if hasattr(layer, "momentum"))


def test_both_halves_teach_the_same_weights(toy_images):
    both = with_samples(toy_images, 1)
    model = build_classifier("resnet8_narrow", 3, 16, generator=stream(0, "weights")).train()
    pixels = torch.randn(len(both), 3, 16, 16, generator=stream(0, "pixels"))
    pixels[len(toy_images) :] = 5 * pixels[len(toy_images) :] + 3
    is_sample = torch.arange(len(both)) >= len(toy_images)
    logits = _in_halves(model, pixels, is_sample)
    halves = [model(pixels[~is_sample]), model(pixels[is_sample])]
    torch.testing.assert_close(logits, torch.cat(halves))
    shuffled = torch.randperm(len(both), generator=stream(0, "order"))
    torch.testing.assert_close(
        _in_halves(model, pixels[shuffled], is_sample[shuffled]), logits[shuffled], rtol=1e-4, atol=1e-4
    )
    weight = next(model.parameters())
    grads = [
        torch.autograd.grad(logits[half].sum(), weight, retain_graph=True)[0]
        for half in (is_sample, ~is_sample)
    ]
    assert all(grad.abs().max() > 0 for grad in grads), "the weights are shared"
    with pytest.raises(ValueError, match="no batch norm"):
        _in_halves(torch.nn.Flatten(), pixels, is_sample)


def test_a_split_has_no_bearing_on_images_of_one_kind(toy_images):
    plain, split = (
        train_classifier(toy_images, replace(QUICK, optimiser_steps=5, split_batch_norm=on), seed=0)
        for on in (False, True)
    )
    assert torch.equal(weights(plain), weights(split))


def test_judging_does_not_depend_on_the_batch_size(toy_images):
    classifier = train_classifier(toy_images, replace(QUICK, optimiser_steps=5), seed=0)
    whole = classifier.logits(toy_images.images)
    parts = classifier.logits(toy_images.images, batch_size=5)
    torch.testing.assert_close(whole, parts)
    assert (classifier.predict(toy_images.images) == whole.argmax(1).numpy()).all()


def test_normalisation_gives_mean_zero_and_deviation_one(toy_images):
    classifier = train_classifier(toy_images, replace(QUICK, optimiser_steps=5), seed=0)
    pixels = classifier.normalise(torch.from_numpy(toy_images.images))
    assert pixels.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (pixels.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_black_images_do_not_divide_by_zero(toy_images):
    dark = replace(toy_images, images=np.zeros_like(toy_images.images))
    assert 0 <= train_classifier(dark, replace(QUICK, optimiser_steps=5), seed=0).accuracy(dark) <= 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("side", [8, 28, 32])
def test_every_architecture_maps_images_to_logits(architecture, side):
    model = build_classifier(architecture, 7, side).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, side, side)).shape == (2, 7)


def test_sizes_of_the_architectures():
    def size(name):
        return sum(weight.numel() for weight in build_classifier(name, 10, 32).parameters())

    assert size("resnet18") == 11_173_962  # the usual ResNet18 for 32 px and ten classes
    assert 100_000 < size("resnet8_narrow") < 200_000


def test_a_crop_is_a_shift_over_black_and_a_flip_is_a_mirror():
    # Each pixel of the image names its own place, from 1, so that black means outside.
    image = (1 + torch.arange(256).view(16, 16, 1) % 255).to(torch.uint8).expand(16, 16, 3)
    batch = image.expand(64, 16, 16, 3).contiguous()
    bordered = torch.zeros(20, 20, 3, dtype=torch.uint8)
    bordered[2:18, 2:18] = image
    shifts = [bordered[y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    mirrored = [shift.flip(1) for shift in shifts]

    def found(crops, among):
        return [any(torch.equal(crop, candidate) for candidate in among) for crop in crops]

    generator = torch.Generator().manual_seed(0)
    cropped = augment(batch, "crop", generator)
    assert all(found(cropped, shifts)) and len({crop.numpy().tobytes() for crop in cropped}) > 15
    both = augment(batch, "crop_flip", generator)
    assert all(found(both, shifts + mirrored)) and 16 < sum(found(both, mirrored)) < 48
    assert torch.equal(augment(batch, "none", generator), batch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"architecture": "resnet19"}, "no architecture 'resnet19': choose one of resnet18"),
        ({"optimiser_steps": 0}, "optimiser_steps is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"warmup_steps": 40}, "shorter warm-up"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"split_batch_norm": True, "policy": "cutmix"}, "policy 'cutmix' mixes"),
        ({"split_batch_norm": True, "synthetic_share": 1}, "synthetic_share is 1"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(change, words):
    with pytest.raises(ValueError, match=words) as error:
        replace(QUICK, **change)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_an_unknown_augmentation_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"augmentation is 'mixup': choose one of none, crop, crop_flip\.$"):
        replace(QUICK, augmentation="mixup")


def test_a_loss_that_explodes_names_its_step_and_the_remedy(toy_images):
    with pytest.raises(TrainingDiverged, match=r"at step \d+: choose a learning rate below 1e\+30"):
        train_classifier(toy_images, replace(QUICK, learning_rate=1e30, warmup_steps=0), seed=0)


def test_one_class_only_is_refused(toy_images):
    with pytest.raises(ValueError, match="one class only"):
        train_classifier(toy_images.subset(toy_images.labels == 1), QUICK, seed=0)


def test_images_of_another_resolution_classes_or_number_are_refused(toy_images):
    classifier = train_classifier(toy_images, replace(QUICK, optimiser_steps=5), seed=0)
    with pytest.raises(ValueError, match="knows images of 16 px, not of 24x24 px"):
        classifier.accuracy(toy_images.resize(24))
    with pytest.raises(ValueError, match="classes that the classifier was not trained on"):
        classifier.accuracy(replace(toy_images, class_names=("a", "b", "c")))
    with pytest.raises(ValueError, match="no image to judge"):
        classifier.accuracy(toy_images.subset([]))
    with pytest.raises(ValueError, match="too small"):
        train_classifier(toy_images.resize(4), QUICK, seed=0)
