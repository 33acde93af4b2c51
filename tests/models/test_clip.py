"""FrozenClip against transformers' own CLIPModel and CLIPProcessor arithmetic, on a small random model."""

import json
import shutil

import numpy as np
import pytest
import torch
from checkpoints import build_tokenizer, downloaded
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from diffinv.models.checkpoint import PINNED_REVISIONS, CheckpointError
from diffinv.models.clip import load_clip

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """clip/ and tokenizer/ as in the embedded checkpoint: patches of 8 px, images of 32 px."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer()
    small = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    text = {
        **small,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**small, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    model.half().save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "tokenizer")
    record = {"image_mean": MEAN, "image_std": STD}
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def clip(folder):
    return load_clip(folder, device="cpu")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def test_zero_shot_agrees_with_the_stock_model(clip, folder, images):
    stock = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    words = ["a heart", "star", "a long, long, long, long sentence"]
    inputs = build_tokenizer()(words, padding=True, truncation=True, return_tensors="pt")
    pixels = (images / 255 - MEAN) / STD
    pixels = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = stock(**inputs, pixel_values=pixels)
    torch.testing.assert_close(clip.image_features(images), expected.image_embeds)
    torch.testing.assert_close(clip.text_features(words), expected.text_embeds)
    torch.testing.assert_close(clip.zero_shot(images, words), expected.logits_per_image.softmax(-1))


def test_features_have_length_one_and_do_not_depend_on_the_batch_size(clip, images):
    features = clip.image_features(images)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(clip.image_features(images, batch_size=2), features)
    assert not any(weight.requires_grad for weight in clip.model.parameters())
    assert {weight.dtype for weight in clip.model.parameters()} == {torch.float32}


def test_larger_images_are_resized_without_aliasing(clip, images):
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)
    similarity = (clip.image_features(doubled) * clip.image_features(images)).sum(dim=1)
    assert clip.image_size == 32 and similarity.min() > 0.95


def test_without_a_preprocessor_the_statistics_are_those_of_openai(folder, tmp_path):
    CLIPModel.from_pretrained(folder / "clip").save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)  # all in one folder, as on the hub
    plain = load_clip(tmp_path, device="cpu")
    assert plain.image_mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert plain.image_std.flatten().tolist() == pytest.approx([0.26862954, 0.26130258, 0.27577711])


def test_a_downloaded_copy_of_the_pinned_commit_needs_no_hub(hub_cache, folder, clip):
    name = "openai/clip-vit-large-patch14"
    with pytest.raises(CheckpointError, match=name):
        load_clip(name)
    commit = downloaded(hub_cache, name, PINNED_REVISIONS[name])
    for part in ("clip", "tokenizer"):
        shutil.copytree(folder / part, commit, dirs_exist_ok=True)
    features = load_clip(name, device="cpu").text_features(["a heart"])
    torch.testing.assert_close(features, clip.text_features(["a heart"]))


def test_missing_and_foreign_folders_are_refused_in_one_sentence(clip, images, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist: give 'tinysd'"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no CLIP model"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        load_clip(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="at least 2 prompts, not 1"):
        clip.zero_shot(images, ["a heart"])


def test_an_incomplete_clip_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "clip" / "model.safetensors")
    gone = next(key for key in weights if key.endswith("visual_projection.weight"))
    save_file({key: w for key, w in weights.items() if key != gone}, copy / "clip" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model lacks visual_projection\.weight"):
        load_clip(copy)
    shutil.copy(folder / "clip" / "model.safetensors", copy / "clip")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer .*lacks tokenizer\.json"):
        load_clip(copy)
