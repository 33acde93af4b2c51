"""FrozenDinov2 against transformers' own model, on a small random checkpoint as the hub has them."""

import json

import numpy as np
import pytest
import torch
from checkpoints import downloaded
from safetensors.torch import load_file, save_file
from transformers import BertConfig, CLIPConfig, Dinov2Config, Dinov2Model

from diffinv.models.checkpoint import CheckpointError
from diffinv.models.clip import FrozenClip
from diffinv.models.dinov2 import FrozenDinov2, load_features

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def write(folder):
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(Dinov2Config(**small, image_size=56, patch_size=14)).save_pretrained(folder)
    record = {"image_mean": MEAN, "image_std": STD, "crop_size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)


def test_features_are_the_class_tokens_of_the_stock_model(folder, images):
    own = load_features(folder, device="cpu")
    pixels = torch.tensor((images / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(folder).eval()(pixels).last_hidden_state[:, 0]
    assert isinstance(own, FrozenDinov2) and own.image_size == 28
    torch.testing.assert_close(own.image_features(images), expected)
    torch.testing.assert_close(own.image_features(images, batch_size=2), expected)


def test_without_a_preprocessor_images_are_prepared_as_for_imagenet(folder, tmp_path):
    Dinov2Model.from_pretrained(folder).save_pretrained(tmp_path)
    plain = load_features(tmp_path, device="cpu")
    assert plain.image_size == 56 and plain.image_mean.flatten().tolist() == pytest.approx(
        [0.485, 0.456, 0.406]
    )


def test_a_downloaded_copy_needs_no_hub(hub_cache, folder, images):
    name = "someone/dinov2-tiny"
    with pytest.raises(CheckpointError, match=name):
        load_features(name)
    commit = downloaded(hub_cache, name, "a" * 40)
    commit.mkdir(parents=True)
    write(commit)
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("a" * 40)
    again, own = (load_features(place, device="cpu") for place in (name, folder))
    assert again.image_size == 28
    torch.testing.assert_close(again.image_features(images), own.image_features(images))


def test_a_clip_is_a_clip_and_what_is_neither_is_refused(folder, tmp_path):
    assert isinstance(load_features("tinysd", device="cpu"), FrozenClip)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a bert: give a CLIP or a DINOv2"):
        load_features(tmp_path)
    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_features(tmp_path)
    write(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {key: weights[key] for key in sorted(weights)[1:]}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match="model lacks"):
        load_features(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        load_features(tmp_path)
    assert "\n" not in str(error.value)
