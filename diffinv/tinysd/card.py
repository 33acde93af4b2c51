"""Stage ``card``: measure TinySD on held-out icon sets, ship it in half precision, say how far it got."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPModel

from diffinv.cache import provenance, write_atomically, write_json
from diffinv.clip import FrozenClip, load_clip
from diffinv.datasets import load_dataset
from diffinv.diffusion import FrozenDiffusion, load_diffusion
from diffinv.figures import image_grid, save_figure
from diffinv.inversion import Inversion, inversion_steps
from diffinv.metrics import frechet_distance, recall
from diffinv.randomness import numpy_stream, stream
from diffinv.sampling import Sampling, sample
from diffinv.tinysd.autoencoder import reconstruction_psnr
from diffinv.tinysd.captions import Corpus
from diffinv.tinysd.clip_stage import load_clip_folder, zero_shot_top1
from diffinv.tinysd.denoiser import denoising_loss_by_timestep
from diffinv.tinysd.training_loop import Schedule

SAMPLING = Sampling(guidance_scale=4.0, num_inference_steps=20, batch_size=100)
SHOWN_PROMPTS = (
    "a red heart icon on white", "a yellow star icon on dark blue", "a green tree icon on black",
    "a light blue cloud icon on dark grey", "a white home icon on purple", "an orange bell icon on black",
    "a pink lock icon on dark green", "a black clock icon on yellow", "a teal camera icon on white",
    "a white key icon on red",
)  # fmt: skip
GOALS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "autoencoder PSNR on held-out icons (dB)": (">= 26", lambda value: value >= 26),
    "CLIP zero-shot top-1 on icons10's test split": (">= 0.85", lambda value: value >= 0.85),
    "samples that CLIP names right among all concepts": (">= 0.80", lambda value: value >= 0.80),
    "one inversion update (ms an image)": ("<= 4", lambda value: value <= 4),
    "one 20-step guided sample (ms)": ("<= 60", lambda value: value <= 60),
    "size of the shipped files (MB)": ("<= 25", lambda value: value <= 25),
}


def ship(work: Path, pipeline: Path, target: Path, schedules: dict[str, Schedule], note: str = "") -> Path:
    """Write the pipeline in half precision, its logs, its NOTICE and its card to ``target``.

    ``note`` is for what the logs cannot say of this training. A stage without a log was not run.
    """
    _save_half(pipeline, target)
    (target / "logs").mkdir(parents=True, exist_ok=True)
    for stage in schedules:
        (target / "logs" / f"{stage}.jsonl").unlink(missing_ok=True)
        if (work / f"{stage}.jsonl").exists():
            shutil.copy2(work / f"{stage}.jsonl", target / "logs" / f"{stage}.jsonl")
    facts = json.loads((work / "corpus" / "corpus.json").read_text())
    write_json(target / "corpus.json", facts)
    _write_notice(target / "NOTICE", facts)
    figures = measure(work / "corpus", target)
    figures["size of the shipped files (MB)"] = (
        sum(f.stat().st_size for f in target.rglob("*") if f.is_file()) / 1e6
    )
    training = _training(target, schedules)
    write_json(target / "card.json", {"figures": figures, "training": training, "note": note, **provenance()})
    with write_atomically(target / "README.md", "w") as file:
        file.write(_card_text(figures, training, facts, note))
    return target


def measure(corpus_folder: Path, target: Path) -> dict[str, float]:
    """Measure every figure of the card on the shipped files; two sample sheets are drawn on the way."""
    held_out = Corpus.load(corpus_folder, "held_out", 32)
    test = load_dataset("icons10", split="test")
    clip_model, tokenizer = load_clip_folder(target)
    clip, diffusion = load_clip(target), load_diffusion(target)
    names = [test.class_names[label] for label in test.labels]
    figures = {
        "autoencoder PSNR on held-out icons (dB)": reconstruction_psnr(
            AutoencoderKL.from_pretrained(target / "vae", torch_dtype=torch.float32).eval(), held_out
        ),
        "CLIP zero-shot top-1 on icons10's test split": zero_shot_top1(
            clip_model.float(), tokenizer, test.images.astype(np.float32) / 255, names
        ),
        **_sample_figures(clip, diffusion, held_out),
        **{
            f"denoising loss at timestep {level}": loss
            for level, loss in denoising_loss_by_timestep(target, held_out).items()
        },
        **speed(diffusion),
    }
    _draw_samples(diffusion, target)
    return figures


def _sample_figures(clip: FrozenClip, diffusion: FrozenDiffusion, held_out: Corpus) -> dict[str, float]:
    concepts = held_out.concepts
    prompts = [f"a {concept} icon" for concept in concepts for _ in range(3)]
    streams = [stream(0, "card", prompt, index) for index, prompt in enumerate(prompts)]
    unconditional = diffusion.encode_prompt([""])
    drawn = sample(diffusion, diffusion.encode_prompt(prompts), unconditional, SAMPLING, streams)
    nearest = (
        clip.image_features(drawn) @ clip.text_features([f"a {name} icon" for name in concepts]).T
    ).argmax(1)
    wanted = np.repeat(np.arange(len(concepts)), 3)
    images, _, _ = held_out.draw(numpy_stream(0, "card"), len(drawn))
    real, synthetic = clip.image_features((images * 255).astype(np.uint8)), clip.image_features(drawn)
    return {
        "samples that CLIP names right among all concepts": float((nearest.numpy() == wanted).mean()),
        "Fréchet distance to held-out icons (CLIP features)": frechet_distance(real, synthetic),
        "recall of held-out icons (CLIP features)": recall(real, synthetic),
    }


def speed(diffusion: FrozenDiffusion, *, count: int = 64, repeats: int = 3) -> dict[str, float]:
    """Median time of an inversion update and of a guided sample, in ms an image, on this machine."""
    real = load_dataset("icons10", split="test").subset(range(count))
    settings = Inversion(steps_per_image=5 * repeats + 1, batch_size=count)
    updates, started = [], time.perf_counter()
    for step in inversion_steps(diffusion, real, settings):
        now = time.perf_counter()
        if step.step > 1:  # the first one also encodes the images
            updates.append((now - started) / count)
        started = now
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        prompts = diffusion.encode_prompt(["a star icon"] * count)
        sample(diffusion, prompts, prompts[:1], SAMPLING, [stream(0, index) for index in range(count)])
        samples.append((time.perf_counter() - started) / count)
    return {
        "one inversion update (ms an image)": 1000 * float(np.median(updates)),
        "one 20-step guided sample (ms)": 1000 * float(np.median(samples)),
    }


def _draw_samples(diffusion: FrozenDiffusion, target: Path) -> None:
    columns = 6
    prompts = [prompt for prompt in SHOWN_PROMPTS for _ in range(columns)]
    streams = [stream(0, "sheet", prompt, index) for index, prompt in enumerate(prompts)]
    images = sample(
        diffusion, diffusion.encode_prompt(prompts), diffusion.encode_prompt([""]), SAMPLING, streams
    )
    grid = images.reshape(len(SHOWN_PROMPTS), columns, *images.shape[1:])
    figure, ax = plt.subplots(figsize=(7.8, 6.4), layout="constrained")
    image_grid(ax, grid, row_labels=list(SHOWN_PROMPTS))
    save_figure(figure, "samples", pd.DataFrame({"prompt": SHOWN_PROMPTS}), target)


def _save_half(pipeline: Path, target: Path) -> None:
    whole = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None, torch_dtype=torch.float16)
    whole.save_pretrained(target, safe_serialization=True)
    CLIPModel.from_pretrained(pipeline / "clip").half().save_pretrained(target / "clip")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (pipeline / "clip" / name).exists():
            shutil.copy2(pipeline / "clip" / name, target / "clip" / name)


def _training(target: Path, schedules: dict[str, Schedule]) -> dict[str, dict[str, float]]:
    last = {}
    for stage, schedule in schedules.items():
        log = target / "logs" / f"{stage}.jsonl"
        latest = (
            json.loads(log.read_text().splitlines()[-1]) if log.exists() else {"samples": 0, "seconds": 0}
        )
        last[stage] = {**latest, "planned_samples": schedule.total_samples}
    return last


def _write_notice(path: Path, facts: dict) -> None:
    lines = [
        "TinySD was trained on icons of these sets "
        "(those marked 'held out' only measured it or made the datasets).",
        "",
    ]
    for name, entry in facts["sets"].items():
        part = "held out" if entry["held_out"] else "trained on"
        lines.append(
            f"{entry['name']} ({name}), {entry['author']}, {entry['licence']}, "
            f"{entry['icons']} icons, {part}, {entry['url']}"
        )
    with write_atomically(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def _card_text(
    figures: dict[str, float], training: dict[str, dict[str, float]], facts: dict, note: str
) -> str:
    def row(name: str, value: float) -> str:
        goal, met = GOALS.get(name, ("", lambda _: True))
        return f"| {name} | {value:.3g} | {goal} | {('yes' if met(value) else '**no**') if goal else ''} |"

    missed = [name for name, (_, met) in GOALS.items() if not met(figures[name])]
    scale = (
        "All goals are met: this is TinySD at release scale."
        if not missed
        else "Not at release scale yet. Goals not met: " + "; ".join(missed) + "."
    )
    stages = "\n".join(
        f"| {stage} | {int(entry['samples']):,} of {int(entry['planned_samples']):,} "
        f"| {entry['seconds'] / 60:.0f} | {entry.get('loss', float('nan')):.4f} |"
        for stage, entry in training.items()
    )
    measured = "\n".join(row(name, value) for name, value in figures.items())
    return f"""# TinySD

A complete Stable Diffusion in miniature, in diffusers layout: autoencoder (f = 4, four latent channels), a
U-Net with cross-attention, a CLIP text encoder, a tokenizer and a scheduler, and beside them the whole CLIP.
It draws icons of 32 x 32 pixels, so that everything in `diffinv` can be shown and tested offline on a laptop.

{scale}

## Training

Corpus: {facts["icons"]["train"]:,} monochrome icons of {facts["num_concepts"]} concepts from `@iconify/json`
{facts["iconify_version"]}, each in random colours with a caption; whole icon sets held out; the words of
novel10 left out. sha256 of the corpus: `{facts["sha256"]}`.
Licences of all sets: `NOTICE`. Loss curves: `logs/*.jsonl`.

| stage | samples seen, of a release-scale plan | minutes | last loss |
| --- | --- | --- | --- |
{stages}

{note}

## Measured on held-out icon sets

| figure | value | goal | met |
| --- | --- | --- | --- |
{measured}

Times are of the machine that wrote this card. Again: `diffinv pretrain --stage card`.

![samples](samples.png)
"""
