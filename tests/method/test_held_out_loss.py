"""The held-out loss depends on the vectors alone: not on batches, nor on which other images are measured."""

import pytest
import torch

from diffinv.foundation.randomness import stream
from diffinv.method.cached import invert
from diffinv.method.held_out_loss import held_out_loss
from diffinv.method.inversion import Inversion


@pytest.fixture
def vectors(tiny_diffusion, toy_images):
    shape = (len(toy_images), 3, tiny_diffusion.embedding_width)
    return torch.randn(shape, generator=stream(0, "vectors"))


def test_it_is_the_error_of_the_raw_network_at_known_noise(tiny_diffusion, toy_images, vectors):
    real = toy_images.subset([0])
    measured = held_out_loss(tiny_diffusion, real, vectors[:1], draws=1, seed=3)
    latents = tiny_diffusion.latent_moments(real.images)[0]
    noise = torch.randn(latents.shape[1:], generator=stream(3, "held-out noise", 0))[None]
    signal = tiny_diffusion.scheduler.alphas_cumprod[500]
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    with torch.no_grad():
        predicted = tiny_diffusion.unet(noisy, 500, encoder_hidden_states=vectors[:1]).sample
    torch.testing.assert_close(measured, (predicted - noise).square().mean()[None])


def test_neither_batches_nor_neighbours_matter(tiny_diffusion, toy_images, vectors):
    together = held_out_loss(tiny_diffusion, toy_images, vectors, draws=3)
    torch.testing.assert_close(
        held_out_loss(tiny_diffusion, toy_images, vectors, draws=3, batch_size=4), together
    )
    alone = held_out_loss(tiny_diffusion, toy_images.subset([5]), vectors[[5]], draws=3)
    torch.testing.assert_close(alone, together[[5]])


def test_one_row_of_vectors_serves_all_images(tiny_diffusion, toy_images, vectors):
    shared = held_out_loss(tiny_diffusion, toy_images, vectors[:1], draws=2)
    repeated = held_out_loss(tiny_diffusion, toy_images, vectors[:1].repeat(len(toy_images), 1, 1), draws=2)
    torch.testing.assert_close(shared, repeated)


def test_learning_lowers_it(tiny_diffusion, toy_images):
    losses = [
        held_out_loss(
            tiny_diffusion, toy_images, invert(tiny_diffusion, toy_images, settings).embeddings
        ).mean()
        for settings in (Inversion(steps_per_image=1), Inversion(steps_per_image=60))
    ]
    assert losses[1] < losses[0]


def test_a_v_prediction_model_is_measured_by_its_own_target(v_prediction_diffusion, toy_images, vectors):
    assert held_out_loss(v_prediction_diffusion, toy_images, vectors, draws=2).isfinite().all()


def test_vectors_that_fit_no_image_are_refused(tiny_diffusion, toy_images, vectors):
    with pytest.raises(ValueError, match="2 rows of vectors came with 18 images"):
        held_out_loss(tiny_diffusion, toy_images, vectors[:2])
