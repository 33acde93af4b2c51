"""FrozenDiffusion: its constants, its units, and what load_diffusion refuses."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from checkpoints import build_pipeline, build_stable_diffusion

from diffinv.models.checkpoint import COMPONENTS, CheckpointError
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion


@pytest.fixture(scope="module")
def stock(tiny_checkpoint):
    """The same checkpoint in diffusers' own pipeline: the oracle."""
    return diffusers.StableDiffusionPipeline.from_pretrained(tiny_checkpoint)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_constants_come_from_the_checkpoint(tiny_diffusion):
    assert tiny_diffusion.name == "tiny"
    assert (tiny_diffusion.embedding_width, tiny_diffusion.latent_channels) == (16, 4)
    assert (tiny_diffusion.downsampling_factor, tiny_diffusion.native_resolution) == (4, 32)
    assert (tiny_diffusion.prediction_type, tiny_diffusion.num_train_timesteps) == ("epsilon", 1000)


def test_every_weight_is_frozen(tiny_diffusion):
    for network in (tiny_diffusion.vae, tiny_diffusion.unet, tiny_diffusion.text_encoder):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


def test_encode_prompt_equals_the_stock_pipeline(tiny_diffusion, stock):
    prompts = ["a cat", ""]
    expected, _ = stock.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(tiny_diffusion.encode_prompt(prompts), expected)


def test_decode_equals_the_stock_pipeline(tiny_diffusion, stock):
    latents = noise(3, 4, 4, 4)
    decoded = stock.vae.decode(latents / stock.vae.config.scaling_factor).sample.detach()
    expected = stock.image_processor.postprocess(decoded, output_type="pil")
    np.testing.assert_array_equal(tiny_diffusion.decode(latents, batch_size=2), np.stack(expected))


def test_latent_moments_are_scaled_and_independent_of_the_batch(tiny_diffusion, stock):
    images = np.random.default_rng(0).integers(0, 256, size=(5, 16, 16, 3), dtype=np.uint8)
    mean, std = tiny_diffusion.latent_moments(images, batch_size=2)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    posterior = stock.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, 0.6 * posterior.mean.detach())
    torch.testing.assert_close(std, 0.6 * posterior.std.detach())


def test_noise_and_target_by_their_definitions(tiny_diffusion, v_prediction_diffusion):
    latents, eps, timesteps = noise(3, 4, 4, 4), noise(3, 4, 4, 4).flip(0), torch.tensor([0, 400, 999])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = (1 - betas).cumprod(0)[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    for model in (tiny_diffusion, v_prediction_diffusion):
        torch.testing.assert_close(model.add_noise(latents, eps, timesteps), alpha * latents + sigma * eps)
    assert torch.equal(tiny_diffusion.training_target(latents, eps, timesteps), eps)
    velocity = v_prediction_diffusion.training_target(latents, eps, timesteps)
    torch.testing.assert_close(velocity, alpha * eps - sigma * latents)


def test_predict_is_the_raw_unet(tiny_diffusion, stock):
    noisy, timesteps, vectors = noise(2, 4, 4, 4), torch.tensor([3, 700]), noise(2, 5, 16)
    expected = stock.unet(noisy, timesteps, encoder_hidden_states=vectors).sample
    torch.testing.assert_close(tiny_diffusion.predict(noisy, timesteps, vectors), expected)


@pytest.mark.parametrize("resolution", [8, 16, 40])
def test_divisible_resolutions_run(tiny_diffusion, resolution):
    tiny_diffusion.check_resolution(resolution)
    mean, _ = tiny_diffusion.latent_moments(np.zeros((1, resolution, resolution, 3), np.uint8))
    assert tiny_diffusion.predict(mean, torch.tensor([0]), noise(1, 5, 16)).shape == mean.shape


@pytest.mark.parametrize("resolution", [28, 4, 0])
def test_other_resolutions_are_refused(tiny_diffusion, resolution):
    with pytest.raises(ValueError, match=rf"resolution {resolution} .*divisible by 8.*resize"):
        tiny_diffusion.check_resolution(resolution)


def test_scheduler_by_name_keeps_the_noise_schedule(tiny_diffusion):
    for name in ("DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler", "EulerDiscreteScheduler"):
        scheduler = tiny_diffusion.make_scheduler(name)
        assert type(scheduler).__name__ == name
        torch.testing.assert_close(scheduler.alphas_cumprod, tiny_diffusion.scheduler.alphas_cumprod)
    assert tiny_diffusion.make_scheduler("DDIMScheduler").config.clip_sample is False
    for name in ("NoSuchScheduler", "StableDiffusionPipeline", "logging"):
        with pytest.raises(ValueError, match=name):
            tiny_diffusion.make_scheduler(name)


def test_fingerprint_tells_weights_and_meaning_apart_but_not_dtypes(tiny_checkpoint, tiny_diffusion):
    assert load_diffusion(tiny_checkpoint, device="cpu").fingerprint == tiny_diffusion.fingerprint
    half = load_diffusion(tiny_checkpoint, device="cpu", dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    assert half.fingerprint == tiny_diffusion.fingerprint

    def of(pipeline):
        parts = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
        return FrozenDiffusion(**{part: getattr(pipeline, part) for part in parts}).fingerprint

    assert of(build_pipeline()) == tiny_diffusion.fingerprint
    others = [of(build_pipeline(seed=1)), of(build_pipeline("v_prediction"))]
    assert len({tiny_diffusion.fingerprint, *others}) == 3


def test_half_precision_weights_on_disk_load_exactly(tmp_path):
    pipeline = build_pipeline().to(dtype=torch.float16)
    pipeline.save_pretrained(tmp_path / "half", safe_serialization=True)
    loaded = load_diffusion(tmp_path / "half", device="cpu")
    for part in ("vae", "unet", "text_encoder"):
        for key, weight in getattr(loaded, part).state_dict().items():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, getattr(pipeline, part).state_dict()[key].float())


@pytest.fixture
def copied(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copied")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(name) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_diffusion(name, device="cpu")
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_missing_folders_are_refused(tmp_path):
    assert "nowhere" in refusal(tmp_path / "nowhere")
    assert "does not exist" in refusal("./nowhere")
    assert "does not exist" in refusal("nowhere")
    assert "model_index.json" in refusal(tmp_path)


def test_a_hub_id_without_connection_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("nobody/no-such-checkpoint")
    assert "nobody/no-such-checkpoint" in message and "the hub cannot be reached" in message
    assert "folder of a copy" in message and "tinysd" in message


def test_sdxl_is_refused(copied):
    edit(
        copied / "model_index.json",
        _class_name="StableDiffusionXLPipeline",
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
    )
    assert "StableDiffusionXLPipeline that has a text_encoder_2" in refusal(copied)


def test_pipelines_without_a_unet_are_refused(copied):
    edit(copied / "model_index.json", unet=[None, None])
    assert "lacks unet" in refusal(copied)


def test_pickled_weights_are_refused(copied):
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "pickled" in refusal(copied)


def test_missing_and_damaged_weights_are_refused(copied):
    weights = copied / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be read" in refusal(copied)
    weights.unlink()
    assert "no safetensors weights" in refusal(copied)


def test_inpainting_variants_are_refused(tmp_path):
    pipeline = build_pipeline()
    config = dict(pipeline.unet.config) | {"in_channels": 9, "_use_default_values": []}
    pipeline.unet = type(pipeline.unet).from_config(config)
    pipeline.save_pretrained(tmp_path / "inpainting", safe_serialization=True)
    assert "9 channels" in refusal(tmp_path / "inpainting")


def test_loading_prints_and_warns_nothing(tiny_checkpoint, capfd, caplog, recwarn):
    load_diffusion(tiny_checkpoint, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize("version", [1, 2])
def test_pndm_samples_from_the_configuration_of_any_scheduler(version, steps):
    """SD 2.x is published with DDIM's configuration, which says nothing of Runge-Kutta steps."""
    pipeline = build_stable_diffusion(version)
    model = FrozenDiffusion(**{part: getattr(pipeline, part) for part in COMPONENTS})
    scheduler = model.make_scheduler("PNDMScheduler")
    scheduler.set_timesteps(steps)
    latents = noise(1, 4, 8, 8)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(0.1 * latents, timestep, latents).prev_sample
    assert latents.isfinite().all()
    # The stock pipeline's own, with the one key that every published PNDM configuration has.
    expected = diffusers.PNDMScheduler.from_config(pipeline.scheduler.config, skip_prk_steps=True)
    expected.set_timesteps(steps)
    assert torch.equal(scheduler.timesteps, expected.timesteps)
    assert len(scheduler.timesteps) == steps + (steps > 1)
