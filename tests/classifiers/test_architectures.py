"""Architectures: the published sizes, nothing drawn elsewhere, and any network of a library by its name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from diffinv.classifiers import libraries
from diffinv.classifiers.architectures import ARCHITECTURES, build_classifier
from diffinv.classifiers.libraries import checkpoint_key, library_name
from diffinv.classifiers.training import Training, train_classifier
from diffinv.models.checkpoint import CheckpointError

OWN = [name for name in ARCHITECTURES if not name.startswith("resnet")]


def size(model):
    return sum(weight.numel() for weight in model.parameters())


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("architecture", "published"),
    [
        ("mobilenetv2", 3_504_872),
        ("shufflenetv2_x05", 1_366_792),
        ("efficientnet_b0", 5_288_548),
    ],
)
def test_sizes_are_those_published_for_a_thousand_classes(architecture, published):
    with torch.device("meta"):
        assert size(ARCHITECTURES[architecture](1000, 224)) == published


def test_the_residual_network_differs_from_the_published_one_by_its_stem():
    large_stem, small_stem = 3 * 64 * 7 * 7, 3 * 64 * 3 * 3
    with torch.device("meta"):
        assert size(ARCHITECTURES["resnet18"](1000, 224)) == 11_689_512 - large_stem + small_stem


def test_the_convolutions_of_vgg_are_the_published_ones_without_their_three_wide_layers():
    with torch.device("meta"):
        wide = (nn.Linear(512 * 7 * 7, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000))
        assert size(ARCHITECTURES["vgg16"](10, 32).features) == 138_365_992 - sum(map(size, wide))


def test_the_vision_transformer_is_the_tiny_one_of_deit_but_for_patches_and_places():
    with torch.device("meta"):
        model = ARCHITECTURES["vit_tiny"](1000, 32)
    patches = (3 * 16 * 16 - 3 * 4 * 4) * 192  # 16 px a side against 4
    places = (14 * 14 - 8 * 8) * 192
    assert size(model) == 5_717_416 - patches - places


@pytest.mark.parametrize("architecture", OWN)
def test_the_weights_come_from_the_generator_alone(architecture):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = build_classifier(architecture, 10, 32, generator=seeded(0)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    again = build_classifier(architecture, 10, 32, generator=seeded(0)).state_dict()
    other = build_classifier(architecture, 10, 32, generator=seeded(1)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, weight in first.items() if weight.numel() > 1 and weight.float().std() > 0]
    assert drawn and not any(torch.equal(first[name], other[name]) for name in drawn)
    assert all(weight.isfinite().all() for weight in first.values())


@pytest.mark.parametrize("architecture", OWN)
def test_signals_neither_die_nor_explode_at_the_start(architecture):
    model = build_classifier(architecture, 10, 32, generator=seeded(0)).train()
    logits = model(torch.randn(32, 3, 32, 32, generator=seeded(1)))
    assert 0.02 < logits.std(dim=0).mean() < 3


@pytest.mark.parametrize("architecture", [name for name in OWN if name.endswith("_narrow")])
def test_the_narrow_ones_learn(architecture, toy_images):
    settings = Training(
        architecture=architecture,
        optimiser_steps=60,
        batch_size=32,
        warmup_steps=6,
        learning_rate=0.05,
        augmentation="none",
    )
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    classifier = train_classifier(toy_images, settings, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is dropped at random"
    chance = 1 / toy_images.num_classes
    assert classifier.accuracy(toy_images) > chance + 0.4 * (1 - chance)
    assert size(classifier.model) < 200_000


QUICK = Training(optimiser_steps=3, batch_size=8, warmup_steps=1, augmentation="none")


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A ViT for images of 24 px and five classes, with dropout and a way of preparing images of its own."""
    folder = tmp_path_factory.mktemp("hub") / "vit"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = ViTConfig(image_size=24, patch_size=8, num_labels=5, hidden_dropout_prob=0.3, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}'
    )
    return folder


def test_a_pretrained_network_keeps_its_weights_and_takes_a_head_of_these_classes(vit_folder):
    model = build_classifier(f"pretrained hf:{vit_folder}", 3, 16, generator=seeded(0))
    kept = ViTForImageClassification.from_pretrained(vit_folder).state_dict()
    own = model.network.state_dict()
    assert all(torch.equal(own[name], kept[name]) for name in own if not name.startswith("classifier"))
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    again = build_classifier(f"pretrained hf:{vit_folder}", 3, 16, generator=seeded(0))
    other = build_classifier(f"pretrained hf:{vit_folder}", 3, 16, generator=seeded(1))
    assert torch.equal(model.network.classifier.weight, again.network.classifier.weight)
    assert not torch.equal(model.network.classifier.weight, other.network.classifier.weight)


def test_fresh_weights_are_not_those_of_the_checkpoint(vit_folder):
    model = build_classifier(f"hf:{vit_folder}", 3, 16, generator=seeded(0)).network
    kept = load_file(vit_folder / "model.safetensors")
    assert model.num_labels == 3
    assert not torch.equal(model.state_dict()["vit.embeddings.cls_token"], kept["vit.embeddings.cls_token"])


def test_a_pretrained_network_sees_pixels_as_it_knows_them_and_drops_nothing(vit_folder, toy_images):
    state = torch.random.get_rng_state()
    classifier = train_classifier(
        toy_images, replace(QUICK, architecture=f"pretrained hf:{vit_folder}"), seed=0
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    pixels = classifier.normalise(torch.full((1, 4, 4, 3), 255, dtype=torch.uint8))
    np.testing.assert_allclose(pixels[0, :, 0, 0], [0.5 / 0.2, 0.6 / 0.2, 0.7 / 0.1], rtol=1e-5)
    again = train_classifier(toy_images, replace(QUICK, architecture=f"pretrained hf:{vit_folder}"), seed=0)
    assert torch.equal(classifier.logits(toy_images.images), again.logits(toy_images.images))


def test_of_a_frozen_network_the_head_alone_learns(vit_folder, toy_images):
    classifier = train_classifier(toy_images, replace(QUICK, architecture=f"frozen hf:{vit_folder}"), seed=0)
    kept = ViTForImageClassification.from_pretrained(vit_folder).state_dict()
    own = classifier.model.network.state_dict()
    assert all(torch.equal(own[name], kept[name]) for name in own if not name.startswith("classifier"))
    start = build_classifier(f"frozen hf:{vit_folder}", toy_images.num_classes, 16, generator=seeded(0))
    assert [n for n, w in start.named_parameters() if w.requires_grad] == [
        "network.classifier.weight",
        "network.classifier.bias",
    ]


def test_a_residual_network_of_a_library_takes_any_side(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    model = build_classifier(f"pretrained hf:{tmp_path}", 4, 28, generator=seeded(0)).eval()
    assert model.side is None and model(torch.zeros(2, 3, 28, 28)).shape == (2, 4)


def test_the_embedded_clip_is_one_of_them():
    model = build_classifier("frozen hf:tinysd", 4, 32, generator=seeded(0)).eval()
    assert (model.side, model.colours) == (32, ([0.5] * 3, [0.5] * 3))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_another_content_is_another_key(vit_folder, tmp_path):
    assert checkpoint_key("vgg16") == () and checkpoint_key("timm:resnet18") == ()
    first = checkpoint_key(f"hf:{vit_folder}")
    assert first == checkpoint_key(f"pretrained hf:{vit_folder}") and len(first) == 1
    for file in vit_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert checkpoint_key(f"hf:{tmp_path}") == first, "a moved folder keeps its results"
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert checkpoint_key(f"hf:{tmp_path}") != first


def test_a_checkpoint_that_is_not_whole_or_has_code_or_pickles_is_refused(vit_folder, tmp_path):
    def copy(name):
        folder = tmp_path / name
        folder.mkdir()
        for file in vit_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    lacking = copy("lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["vit.layernorm.weight"]
    save_file(weights, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"damaged, its network lacks vit\.layernorm\.weight"):
        build_classifier(f"pretrained hf:{lacking}", 3, 16)

    pickled = copy("pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        build_classifier(f"pretrained hf:{pickled}", 3, 16)

    coded = copy("coded")
    told = (
        (coded / "config.json")
        .read_text()
        .replace(
            '"model_type": "vit"',
            '"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", '
            '"AutoModelForImageClassification": "mine.Net"}',
        )
    )
    (coded / "config.json").write_text(told)
    (coded / "mine.py").write_text("raise SystemExit('code of a checkpoint was run')")
    with pytest.raises(CheckpointError) as refused:
        build_classifier(f"pretrained hf:{coded}", 3, 16)
    assert "no code of its own" in str(refused.value)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("hf:no_such_folder", "no image classifier 'no_such_folder': give the folder"),
        ("pretrained hf:", "no image classifier ''"),
        ("vgg", "no architecture 'vgg': choose one of resnet18, .*or timm: and a name"),
        ("pretrained vgg16", "no architecture 'pretrained vgg16'"),
    ],
)
def test_what_is_not_there_is_refused_in_one_sentence(architecture, words):
    with pytest.raises(ValueError, match=words) as refused:
        replace(QUICK, architecture=architecture)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_timm_is_used_where_it_is_installed_and_else_asked_for(monkeypatch):
    assert library_name("pretrained timm:resnet18") == ("timm:", "resnet18", True, False)
    with monkeypatch.context() as absent:
        absent.setattr("diffinv.classifiers.libraries.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"^timm:resnet18 needs timm, which is not installed: pip"):
            Training(architecture="timm:resnet18")
    pytest.importorskip("timm")
    model = build_classifier("timm:resnet10t", 3, 32, generator=seeded(0)).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_the_hub_is_asked_once_for_the_commit_of_a_name(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        libraries, "cached_file", lambda *_: asked.append(1) or tmp_path / "c0ffee" / "config.json"
    )
    assert {checkpoint_key("hf:somebody/network-of-a-test") for _ in range(3)} == {("c0ffee",)}
    assert len(asked) == 1
