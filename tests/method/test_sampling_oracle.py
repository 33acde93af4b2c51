"""Our denoising loop against diffusers' own StableDiffusionPipeline, given the same vectors and latents."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from diffinv.foundation.randomness import stream
from diffinv.method.sampling import Sampling, denoising_steps, initial_noise, sample

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # of diffusers, towards numpy

SCHEDULERS = (
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
)
NOISY = (
    ("DDIMScheduler", 1.0),
    ("DDIMScheduler", 0.3),
    ("DDPMScheduler", 0.0),
    ("EulerAncestralDiscreteScheduler", 0.0),
)


@pytest.fixture(params=["tiny_diffusion", "v_prediction_diffusion"])
def diffusion(request):
    return request.getfixturevalue(request.param)


def vectors(count, width=16, tokens=5):
    generator = torch.Generator().manual_seed(7)
    return (
        torch.randn(count, tokens, width, generator=generator),
        torch.randn(1, tokens, width, generator=generator),
    )


def streams(count):
    return [stream(0, "oracle", number) for number in range(count)]


def stock_pipeline(kind, diffusion, settings):
    pipeline = kind(
        vae=diffusion.vae,
        unet=diffusion.unet,
        text_encoder=diffusion.text_encoder,
        tokenizer=diffusion.tokenizer,
        scheduler=diffusion.make_scheduler(settings.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock(diffusion, conditioning, unconditional, settings, generators, output_type):
    """Let the stock pipeline draw, with latents and later noise from the same streams."""
    return stock_pipeline(StableDiffusionPipeline, diffusion, settings)(
        prompt_embeds=conditioning,
        negative_prompt_embeds=unconditional.expand_as(conditioning),
        latents=initial_noise(diffusion, settings, generators),
        generator=generators,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
        eta=settings.eta,
        height=settings.resolution,
        width=settings.resolution,
        output_type=output_type,
    ).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_latents_equal_the_stock_pipelines(diffusion, scheduler, guidance_scale):
    conditioning, unconditional = vectors(3)
    settings = Sampling(guidance_scale, num_inference_steps=7, scheduler=scheduler, resolution=32)
    *_, last = denoising_steps(diffusion, conditioning, unconditional, settings, streams(3))
    expected = stock(diffusion, conditioning, unconditional, settings, streams(3), "latent")
    torch.testing.assert_close(last.latents, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scheduler", "eta"), NOISY)
def test_noise_of_the_steps_equals_the_stock_pipelines(diffusion, scheduler, eta):
    conditioning, unconditional = vectors(2)
    settings = Sampling(num_inference_steps=5, scheduler=scheduler, eta=eta, resolution=32)
    *_, last = denoising_steps(diffusion, conditioning, unconditional, settings, streams(2))
    expected = stock(diffusion, conditioning, unconditional, settings, streams(2), "latent")
    torch.testing.assert_close(last.latents, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_noised_originals_end_where_the_stock_pipelines_do(diffusion, scheduler, strength):
    conditioning, unconditional = vectors(2)
    settings = Sampling(3.0, num_inference_steps=7, scheduler=scheduler, resolution=32, strength=strength)
    originals = 0.5 * initial_noise(diffusion, settings, [stream(1, "oracle", number) for number in (0, 1)])
    *_, last = denoising_steps(diffusion, conditioning, unconditional, settings, streams(2), originals)
    pipeline = stock_pipeline(StableDiffusionImg2ImgPipeline, diffusion, settings)
    expected = pipeline(
        image=originals,
        strength=strength,
        prompt_embeds=conditioning,
        negative_prompt_embeds=unconditional.expand_as(conditioning),
        generator=streams(2),
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
        output_type="latent",
    ).images
    torch.testing.assert_close(last.latents, expected, rtol=1e-4, atol=1e-4)


def test_images_equal_the_stock_pipelines(diffusion):
    conditioning, unconditional = vectors(3)
    settings = Sampling(num_inference_steps=5, batch_size=2, resolution=40)  # not the native side
    ours = sample(diffusion, conditioning, unconditional, settings, streams(3))
    expected = stock(diffusion, conditioning, unconditional, settings, streams(3), "np")
    assert ours.shape == expected.shape == (3, 40, 40, 3)
    assert np.abs(ours - expected * 255).max() <= 1


def test_the_oracle_tells_a_wrong_guidance_scale_apart(tiny_diffusion):
    conditioning, unconditional = vectors(1)
    settings = Sampling(guidance_scale=3.0, num_inference_steps=5, resolution=32)
    other = Sampling(guidance_scale=2.0, num_inference_steps=5, resolution=32)
    *_, last = denoising_steps(tiny_diffusion, conditioning, unconditional, settings, streams(1))
    unlike = stock(tiny_diffusion, conditioning, unconditional, other, streams(1), "latent")
    assert (last.latents - unlike).abs().max() > 1e-3
