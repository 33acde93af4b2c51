"""Checkpoints as Stable Diffusion is published: their blocks and files, in small, through the same calls."""

import json
import os
import re
import resource
import shutil
import time
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from checkpoints import build_clip_tokenizer, build_stable_diffusion, downloaded, write_as_published
from original_layout import write_single_file
from safetensors.torch import load_file, save_file

import diffinv
from diffinv.foundation.randomness import stream
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.method.sampling import Sampling, sample
from diffinv.models.checkpoint import (
    COMPONENTS,
    EMBEDDED,
    PINNED_REVISIONS,
    CheckpointError,
    weights_variant,
)
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.models.memory import MemorySettings
from diffinv.models.single_file import SD1_CONFIG

FULL, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(scope="module", params=[1, 2], ids=["SD 1", "SD 2"])
def published(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / f"sd{request.param}"
    return write_as_published(build_stable_diffusion(request.param), folder)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory) -> Path:
    return write_as_published(build_stable_diffusion(1), tmp_path_factory.mktemp("published") / "sd1")


@cache
def in_memory(version: int, seed: int = 0) -> FrozenDiffusion:
    pipeline = build_stable_diffusion(version, seed=seed)
    return FrozenDiffusion(**{part: getattr(pipeline, part) for part in COMPONENTS})


def refusal(name, **settings) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_diffusion(name, device="cpu", **settings)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_constants_and_prompts_are_those_of_the_stock_pipeline(published, capfd, caplog, recwarn):
    model = load_diffusion(published, device="cpu")
    assert (capfd.readouterr().out, caplog.messages, recwarn.list) == ("", [], [])
    unused = {"safety_checker": None, "feature_extractor": None}
    stock = diffusers.StableDiffusionPipeline.from_pretrained(published, **unused)
    expected = {"sd1": ("epsilon", 512, 24), "sd2": ("v_prediction", 768, 32)}[published.name]
    assert (model.prediction_type, model.native_resolution, model.embedding_width) == expected
    assert model.downsampling_factor == 8
    model.check_resolution(64)
    with pytest.raises(ValueError, match="divisible by 64"):
        model.check_resolution(96)
    prompts = ["a cat and an old dog!", ""]
    vectors, _ = stock.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    assert vectors.shape == (2, 77, model.embedding_width)
    torch.testing.assert_close(model.encode_prompt(prompts), vectors)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [{"variant": "fp16"}, {"max_shard_size": "300KB"}, {"variant": "fp16", "max_shard_size": "300KB"}],
    ids=["fp16 alone", "sharded", "fp16 sharded"],
)
def test_every_layout_is_the_same_checkpoint(version, settings, tmp_path):
    folder = write_as_published(build_stable_diffusion(version), tmp_path / "model", **settings)
    shards = list((folder / "unet").glob("*-of-*.safetensors"))
    assert (len(shards) > 1) == ("max_shard_size" in settings)
    loaded = load_diffusion(folder, device="cpu")
    assert loaded.unet.dtype == torch.float32
    assert loaded.fingerprint == in_memory(version).fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_single_file_is_the_same_checkpoint(published, dtype, tmp_path, caplog):
    version = int(published.name[-1])
    path = write_single_file(build_stable_diffusion(version).to(dtype=dtype), tmp_path / "merge.safetensors")
    config = shutil.copytree(published, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    caplog.clear()
    loaded, whole = load_diffusion(path, device="cpu", config=config), in_memory(version)
    assert caplog.messages == []
    assert (loaded.name, loaded.prediction_type) == ("merge.safetensors", whole.prediction_type)
    assert loaded.fingerprint == whole.fingerprint
    expected = whole.encode_prompt(["a cat"])
    torch.testing.assert_close(loaded.encode_prompt(["a cat"]), expected, atol=0.02, rtol=0.02)


def test_half_precision_reads_the_half_precision_files(sd1, tmp_path):
    """The two sets of files are of different models, to see which was read."""
    folder = write_as_published(build_stable_diffusion(1, seed=1), tmp_path / "both", variant="fp16")
    shutil.copytree(sd1, folder, dirs_exist_ok=True)
    full, half = in_memory(1).fingerprint, in_memory(1, seed=1).fingerprint
    assert load_diffusion(folder, device="cpu").fingerprint == full
    assert load_diffusion(folder, device="cpu", dtype=torch.float16).fingerprint == half
    assert load_diffusion(folder, device="cpu", dtype=torch.bfloat16).fingerprint == half


def test_a_network_without_half_precision_files_uses_its_full_ones(sd1, tmp_path):
    folder = shutil.copytree(sd1, tmp_path / "mixed")
    build_stable_diffusion(1).unet.half().save_pretrained(folder / "unet", variant="fp16")
    (folder / "unet" / FULL).unlink()
    for dtype in (torch.float32, torch.float16):
        assert load_diffusion(folder, device="cpu", dtype=dtype).fingerprint == in_memory(1).fingerprint


def test_the_variant_by_files_and_dtype():
    both = [f"unet/{FULL}", f"unet/{HALF}", "vae/diffusion_pytorch_model.non_ema.safetensors"]
    assert weights_variant(both, torch.float32) is None
    assert weights_variant(both, torch.bfloat16) == "fp16"
    assert weights_variant([f"unet/{FULL}"], torch.float16) is None
    assert weights_variant([f"unet/{HALF}", f"vae/{FULL}"], torch.float32) == "fp16"
    assert weights_variant([f"safety_checker/{HALF}", f"unet/{FULL}"], torch.float16) is None
    sharded = "text_encoder/model.fp16-00001-of-00002.safetensors"
    assert weights_variant([sharded], torch.float32) == "fp16"


@pytest.mark.parametrize("kind", ["SD 1", "SD 2", "distilled"])
def test_both_stages_run_at_a_side_far_below_the_native_one(kind, toy_images, tmp_path):
    version, distilled = (2 if kind == "SD 2" else 1), kind == "distilled"
    pipeline = build_stable_diffusion(version, distilled=distilled)
    model = load_diffusion(write_as_published(pipeline, tmp_path / "model"), device="cpu")
    assert (model.unet.mid_block is None) == distilled
    before, real = model.fingerprint, toy_images.subset([0, 7]).resize(64)
    store = invert(model, real, Inversion(num_tokens=3, steps_per_image=2))
    assert store.embeddings.shape == (2, 3, model.embedding_width)
    settings = Sampling(num_inference_steps=2, resolution=64)
    streams = [stream(0, "sample", row) for row in range(2)]
    images = sample(model, store.embeddings, store.mean()[None], settings, streams)
    assert images.shape == (2, 64, 64, 3) and images.std() > 0
    del model.fingerprint
    assert model.fingerprint == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_learned_stays_in_float32_beside_a_half_precision_network(
    dtype, tiny_checkpoint, toy_images, monkeypatch
):
    optimisers, adam = [], torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *a, **k: optimisers.append(adam(*a, **k)) or optimisers[0]
    )
    model = load_diffusion(tiny_checkpoint, device="cpu", dtype=dtype)
    assert {weight.dtype for weight in model.unet.parameters()} == {dtype}
    *_, last = inversion_steps(model, toy_images.subset([0]), Inversion(num_tokens=2, steps_per_image=2))
    moments = [value for value in next(iter(optimisers[0].state.values())).values()]
    assert {value.dtype for value in (last.losses, last.embeddings, *moments)} == {torch.float32}
    assert last.embeddings.abs().sum() > 0
    settings = Sampling(num_inference_steps=2, resolution=16)
    images = sample(model, last.embeddings, last.embeddings, settings, [stream(0, "sample", 0)])
    assert images.dtype == np.uint8 and images.std() > 0


def test_a_downloaded_copy_of_the_pinned_commit_needs_no_hub(hub_cache, sd1):
    name = "CompVis/stable-diffusion-v1-4"
    assert "hub" in refusal(name)
    shutil.copytree(sd1, downloaded(hub_cache, name, PINNED_REVISIONS[name]))
    model = load_diffusion(name, device="cpu")
    assert (model.name, model.fingerprint) == (name, in_memory(1).fingerprint)
    assert name in refusal(name, revision="another")
    assert all(len(commit) == 40 for commit in PINNED_REVISIONS.values())


def test_the_hub_is_asked_for_the_pinned_commit_and_the_files_of_the_dtype(sd1, monkeypatch):
    """Only the network is replaced: the listing, the index and the download."""
    asked = []
    index = json.loads((sd1 / "model_index.json").read_text())
    files = [f"{part}/{file}" for part in ("vae", "unet", "text_encoder") for file in (FULL, HALF)]
    pipeline_class = diffusers.StableDiffusionPipeline
    monkeypatch.setattr(pipeline_class, "load_config", lambda name, revision=None: index)
    monkeypatch.setattr("diffinv.models.checkpoint.list_repo_files", lambda name, revision: files)
    monkeypatch.setattr(
        pipeline_class, "download", lambda name, **settings: asked.append(settings) or str(sd1)
    )
    name = "stabilityai/stable-diffusion-2-1"
    load_diffusion(name, device="cpu")
    load_diffusion(name, device="cpu", dtype=torch.float16, revision="main")
    assert [(each["variant"], each["revision"]) for each in asked] == [
        (None, PINNED_REVISIONS[name]),
        ("fp16", "main"),
    ]
    assert all(each["use_safetensors"] and each["safety_checker"] is None for each in asked)
    files[:] = [file.replace(".safetensors", ".bin") for file in files]
    assert "pickled" in refusal(name)
    files[:] = [f"{part}/{FULL}" for part in ("vae", "unet", "text_encoder")]
    index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    assert "SDXL" in refusal(name)
    assert len(asked) == 2, "refused before anything is fetched"


@pytest.mark.parametrize("name", ["merge.ckpt", "weights.bin", "weights.pt", "owner/model.ckpt"])
def test_pickled_files_are_refused_unread(name, tmp_path):
    (tmp_path / "merge.ckpt").write_bytes(b"not even a pickle")
    assert "unpickling" in refusal(tmp_path / name)
    assert "unpickling" in refusal(name)


class Trap:
    """What a pickle runs when it is opened."""

    def __reduce__(self):
        return (Path.touch, (Path(os.environ["TRAP"]),))


def test_pickles_and_code_beside_the_weights_stay_untouched(sd1, tmp_path, monkeypatch):
    """As in many repositories of the hub, which hold both kinds of weights."""
    sprung = tmp_path / "sprung"
    monkeypatch.setenv("TRAP", str(sprung))
    folder = shutil.copytree(sd1, tmp_path / "both")
    for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        torch.save(Trap(), folder / part / f"{name}.bin")
    torch.save(Trap(), folder / "text_encoder" / "pytorch_model.bin")
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "own.OwnModel", "AutoConfig": "own.OwnConfig"}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    for place in ("", "unet", "text_encoder", "tokenizer"):
        for name in ("own.py", "pipeline.py"):
            (folder / place / name).write_text(f"open({str(sprung)!r}, 'w')")
    assert load_diffusion(folder, device="cpu").fingerprint == in_memory(1).fingerprint
    assert not sprung.exists()
    # Unsafe on purpose, of a file that this test wrote: without it, a trap that cannot spring would pass.
    torch.load(folder / "unet" / "diffusion_pytorch_model.bin", weights_only=False)
    assert sprung.exists(), "the trap works"


def test_no_call_of_the_package_unpickles_or_trusts_code():
    allowed = re.compile(r"(trust_remote_code|allow_pickle)=False")
    risky = re.compile(r"trust_remote_code|allow_pickle|torch\.load\b|\bimport pickle|\bpickle\.load")
    package = Path(diffinv.__file__).parent
    # Processes talk to each other in pickles; a worker reads those of its driver alone, by their digest.
    for path in {*package.rglob("*.py")} - {package / "artefacts" / "work.py"}:
        assert not risky.search(allowed.sub("", path.read_text(encoding="utf-8"))), path
    with pytest.raises(TypeError, match="trust_remote_code"):
        load_diffusion("tinysd", trust_remote_code=True)


def test_code_in_a_checkpoint_is_refused(sd1, tmp_path):
    folder = shutil.copytree(sd1, tmp_path / "custom")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit('ran')")
    for changes in ({"unet": ["my_unet", "MyUNet"]}, {"_class_name": ["my_pipeline", "MyPipeline"]}):
        (folder / "model_index.json").write_text(json.dumps(index | changes))
        assert "code of its own" in refusal(folder)


def test_a_single_file_needs_a_configuration_that_says_everything(hub_cache, sd1, tmp_path):
    first = write_single_file(build_stable_diffusion(1), tmp_path / "first.safetensors")
    second = write_single_file(build_stable_diffusion(2), tmp_path / "second.safetensors")
    assert "config=" in refusal(first)
    assert "velocity" in refusal(second)
    assert "neither a folder nor" in refusal(second, config="stabilityai/stable-diffusion-2-1")
    assert "cannot be read" in refusal(second, config=sd1)
    shutil.copytree(sd1, downloaded(hub_cache, SD1_CONFIG, PINNED_REVISIONS[SD1_CONFIG]))
    assert load_diffusion(first, device="cpu").fingerprint == in_memory(1).fingerprint
    assert "leave out config" in refusal(sd1, config=sd1)


def test_other_single_files_are_refused(sd1, tmp_path):
    path = tmp_path / "other.safetensors"
    assert "does not exist" in refusal(path)
    path.write_bytes(b"{}")
    assert "cannot be read" in refusal(path, config=sd1)
    save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(1)}, path)
    assert "no whole checkpoint" in refusal(path, config=sd1)
    save_file({"conditioner.embedders.0.transformer.weight": torch.zeros(1)}, path)
    assert "SDXL" in refusal(path, config=sd1)
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a .safetensors file" in refusal(tmp_path / "notes.txt")


def test_an_inpainting_single_file_is_refused(sd1, tmp_path):
    pipeline = build_stable_diffusion(1)
    unet = dict(pipeline.unet.config) | {"in_channels": 9, "_use_default_values": []}
    pipeline.unet = type(pipeline.unet).from_config(unet)
    path = write_single_file(pipeline, tmp_path / "inpainting.safetensors")
    assert "takes 9 channels" in refusal(path, config=sd1)


@pytest.fixture
def embedded(tmp_path) -> Path:
    """A copy of the embedded checkpoint to spoil."""
    folder = tmp_path / "copy"
    for part in COMPONENTS:
        shutil.copytree(EMBEDDED / part, folder / part)
    shutil.copy(EMBEDDED / "model_index.json", folder)
    return folder


WEIGHTS = {"vae": FULL, "unet": FULL, "text_encoder": "model.safetensors"}


def change(path: Path, **changes) -> None:
    """Give a JSON file other values, or some tensors of a safetensors file other contents; None removes."""
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    else:
        tensors = {**load_file(path), **changes}
        save_file({key: t for key, t in tensors.items() if t is not None}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("parts", [["vae"], ["unet"], ["text_encoder"], list(WEIGHTS)])
@pytest.mark.parametrize("fault", ["missing", "misnamed", "not finite"])
def test_every_tensor_that_is_missing_misnamed_or_spoilt_is_named(parts, fault, embedded, capfd):
    """Loaders fill a missing one with random numbers, or leave it without any."""
    said = []
    for part in parts:
        path = embedded / part / WEIGHTS[part]
        key, tensor = next((key, t) for key, t in load_file(path).items() if t.ndim > 1)
        changes = {"missing": {key: None}, "misnamed": {key: None, "other": tensor}}
        change(path, **changes.get(fault, {key: tensor.log()}))
        said.append(f"{part} lacks {key}" if fault != "not finite" else f"{part} has numbers that are not")
    message = refusal(embedded)
    assert all(each in message for each in said) and ("has other instead" in message) == (fault == "misnamed")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("tokenizer", "tokenizer.json and tokenizer_config.json"),
        ("tokenizer/tokenizer.json", "lacks tokenizer.json:"),
        ("tokenizer/tokenizer_config.json", "lacks tokenizer_config.json:"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
        ("unet/config.json", "the unet of"),
        ("model_index.json", "no such file"),
    ],
)
def test_a_missing_file_of_a_checkpoint_is_named(gone, named, embedded):
    path = embedded / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert named in refusal(embedded)


def test_a_half_of_the_published_vocabulary_is_refused(sd1, tmp_path):
    folder = shutil.copytree(sd1, tmp_path / "half")
    (folder / "tokenizer" / "merges.txt").unlink()
    assert "lacks merges.txt" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("unet/config.json", {"sample_size": None}, "sample_size of None"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type 'flow'"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 77}, "77 tokens"),
        ("model_index.json", {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "FlowMatch"),
    ],
)
def test_parts_that_do_not_fit_are_refused(file, changes, named, embedded):
    change(embedded / file, **changes)
    assert named in refusal(embedded)


def test_a_text_encoder_of_another_width_is_refused(sd1, embedded):
    shutil.rmtree(embedded / "text_encoder")
    shutil.copytree(sd1 / "text_encoder", embedded / "text_encoder")
    assert "24 wide" in refusal(embedded) and "takes 128" in refusal(embedded)


@pytest.mark.parametrize("part", ["model.diffusion_model", "first_stage_model", "cond_stage_model"])
def test_a_single_file_that_lacks_a_tensor_is_refused(part, sd1, tmp_path):
    path = write_single_file(build_stable_diffusion(1), tmp_path / "merge.safetensors")
    gone = [key for key in load_file(path) if key.startswith(part) and key.endswith(".bias")][-1]
    change(path, **{gone: None})
    message = refusal(path, config=sd1)
    assert "lacks" in message and ".bias" in message


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a minute on a core of its own
def test_a_full_size_network_learns_within_24_gib(toy_images):
    """The U-Net of SD 1.x itself, with random weights, at 128 px."""
    small = build_stable_diffusion(1)
    with torch.device("cpu"):
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    assert sum(weight.numel() for weight in unet.parameters()) == 859_520_964
    model = FrozenDiffusion(
        small.vae,
        unet,
        small.text_encoder,
        build_clip_tokenizer("<|endoftext|>"),
        small.scheduler,
        memory=MemorySettings(gradient_checkpointing="DIFFINV_CHECKPOINTING" in os.environ),
    )
    cpu_seconds, losses = [time.process_time()], []  # of this process alone, on a busy machine too
    real = toy_images.subset([0, 7]).resize(128)
    for step in inversion_steps(model, real, Inversion(num_tokens=5, steps_per_image=3)):
        losses.append(step.losses)
        cpu_seconds.append(time.process_time())
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"an update of 2 images: {np.diff(cpu_seconds)[1:].mean():.1f} CPU s, peak {peak_gib:.2f} GiB")
    assert len(losses) == 3 and torch.stack(losses).isfinite().all()
    assert peak_gib < 24
