"""Policies: they change images, keep or mix labels, and depend on their own stream alone."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from diffinv.artefacts.keys import content_key
from diffinv.classifiers.policies import Policy, _chain, _kornia, distort
from diffinv.classifiers.training import Training, train_classifier
from diffinv.foundation.randomness import stream

POLICIES = get_args(Policy)
CHANGING = [policy for policy in POLICIES if policy != "none"]
QUICK = Training(
    architecture="resnet8_narrow", optimiser_steps=5, batch_size=16, learning_rate=0.05, warmup_steps=1
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return images, torch.arange(40) % 4


def change(batch, policy, seed=0):
    return distort(*batch, policy, stream(seed, "test"), num_classes=4)


@pytest.mark.parametrize("policy", CHANGING)
def test_a_policy_changes_pixels_within_their_range_and_nothing_else(batch, policy):
    changed, targets = change(batch, policy)
    assert changed.shape == batch[0].shape and not changed.requires_grad
    assert changed.min() >= 0 and changed.max() <= 255
    differs = (changed.round() != batch[0]).flatten(1).any(1).float().mean()
    assert differs > 0.25
    if policy in ("mixup", "cutmix"):
        assert targets.shape == (40, 4)
    else:
        assert targets is batch[1]


def test_no_policy_leaves_everything_as_it_was(batch):
    images, labels = change(batch, "none")
    assert images is batch[0] and labels is batch[1]


@pytest.mark.parametrize("policy", CHANGING)
def test_the_stream_alone_decides(batch, policy):
    before = torch.random.get_rng_state()
    first, _ = change(batch, policy)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was touched"
    torch.rand(7)
    change(batch, policy, seed=1)  # kornia's modules remember their last draw
    again, _ = change(batch, policy)
    assert torch.equal(first, again)
    assert not torch.equal(first, change(batch, policy, seed=1)[0])


def test_successive_batches_are_drawn_anew(batch):
    drawn = stream(0, "test")
    first, second = (distort(*batch, "randaugment", drawn, num_classes=4)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_mixup_blends_images_and_labels_by_the_same_share():
    # Two classes, one black and one white: the brightness is the share of the white one.
    labels = torch.arange(32) % 2
    images = (255 * labels).to(torch.uint8)[:, None, None, None].expand(32, 8, 8, 3)
    blended, targets = distort(images, labels, "mixup", stream(0, "test"), num_classes=2)
    torch.testing.assert_close(targets.sum(1), torch.ones(32))
    torch.testing.assert_close(blended.mean(dim=(1, 2, 3)) / 255, targets[:, 1])
    assert ((targets > 0.05) & (targets < 0.95)).any(), "some are blends"


def test_cutmix_pastes_as_much_as_the_labels_say():
    labels = torch.arange(64) % 2
    images = (255 * labels).to(torch.uint8)[:, None, None, None].expand(64, 16, 16, 3)
    pasted, targets = distort(images, labels, "cutmix", stream(0, "test"), num_classes=2)
    assert set(pasted.unique().tolist()) == {0, 255}
    torch.testing.assert_close(pasted.mean(dim=(1, 2, 3)) / 255, targets[:, 1])


def test_cutout_blacks_out_a_quarter_of_about_every_other_image():
    white = torch.full((200, 16, 16, 3), 255, dtype=torch.uint8)
    holed, _ = distort(white, torch.zeros(200, dtype=torch.long), "cutout", stream(0, "test"), num_classes=1)
    shares = (holed == 0).float().mean(dim=(1, 2, 3))
    assert set(shares.tolist()) == {0.0, 0.25}
    assert 0.35 < (shares > 0).float().mean() < 0.65


def test_no_policy_mirrors_an_image_or_shears_it_as_far_as_kornia_would():
    for policy in ("autoaugment", "randaugment", "trivialaugment"):
        names = {type(part).__name__ for part in _kornia(policy).modules()}
        assert not {name for name in names if "Flip" in name}, policy
        assert not {name for name in names if name == "RandomPerspective"}
        for part in _kornia(policy).modules():
            if type(part).__name__ in ("ShearX", "ShearY"):
                low, high = part.magnitude_range
                assert max(abs(low), abs(high)) * 180 < 22, f"{policy} shears by more than 22 degrees"
    assert len(_chain(3)) == 9


@pytest.mark.parametrize("policy", ["autoaugment", "augmix", "mixup"])
def test_a_run_is_a_function_of_images_settings_and_seed(toy_images, policy):
    settings = replace(QUICK, policy=policy)

    def weights(seed):
        state = train_classifier(toy_images, settings, seed=seed).model.state_dict()
        return torch.cat([weight.flatten() for weight in state.values()])

    first = weights(0)
    before = torch.random.get_rng_state()
    assert torch.equal(first, weights(0))
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was touched"
    assert not torch.equal(first, weights(1))
    plain = train_classifier(toy_images, QUICK, seed=0).model.state_dict()
    assert not torch.equal(first, torch.cat([weight.flatten() for weight in plain.values()]))


def test_the_plain_training_keeps_the_key_that_it_had_before_there_were_policies():
    assert content_key(Training()) == content_key(Training(policy="none"))
    assert len({content_key(replace(QUICK, policy=policy)) for policy in POLICIES}) == len(POLICIES)


def test_an_unknown_policy_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"policy is 'mixcut': choose one of none, cutout, .*cutmix\.$"):
        replace(QUICK, policy="mixcut")
