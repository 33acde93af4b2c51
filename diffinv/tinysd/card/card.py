"""Stage ``card``: measure TinySD on held-out icon sets, ship it in half precision, say how far it got."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPModel

from diffinv.artefacts.keys import content_key
from diffinv.artefacts.writing import provenance, write_json, write_whole
from diffinv.datasets import load_dataset
from diffinv.figures.image_grids import image_grid
from diffinv.figures.style import save_figure
from diffinv.foundation.randomness import numpy_stream, stream
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.method.sampling import Sampling, sample
from diffinv.metrics.distances import frechet_distance
from diffinv.metrics.manifolds import recall
from diffinv.models.checkpoint import quiet_loading
from diffinv.models.clip import FrozenClip, load_clip
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.reproduce.manifest import fingerprint
from diffinv.studies.estimate import timed
from diffinv.tinysd.card.inversion import InversionTest, ship_inversion
from diffinv.tinysd.card.text import card_text, write_notice
from diffinv.tinysd.corpus.captions import Corpus
from diffinv.tinysd.training.autoencoder import reconstruction_psnr
from diffinv.tinysd.training.curriculum import Mixture
from diffinv.tinysd.training.denoiser import denoising_loss_by_timestep, mean_denoising_loss
from diffinv.tinysd.training.training_loop import Schedule

SAMPLING = Sampling(guidance_scale=7.5, num_inference_steps=20, resolution=32, batch_size=100)
FINE_SAMPLING = replace(SAMPLING, resolution=64)
SAMPLES_PER_CONCEPT = 3
INVERSION_TEST = InversionTest()
SHOWN_PROMPTS = (
    "a red heart icon on white", "a yellow star icon on dark blue", "a green tree icon on black",
    "a light blue cloud icon on dark grey", "a white home icon on purple", "an orange bell icon on black",
    "a pink lock icon on dark green", "a black clock icon on yellow", "a teal camera icon on white",
    "a white key icon on red",
)  # fmt: skip


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
    if (work / "ablation.csv").exists():
        shutil.copy2(work / "ablation.csv", target / "logs" / "ablation.csv")
    facts = json.loads((work / "corpus" / "corpus.json").read_text())
    facts["emoji"] = json.loads((work / "corpus" / "emoji.json").read_text())
    write_json(target / "corpus.json", facts)
    write_notice(target / "NOTICE", facts)
    evidence = _evidence(work, target, content_key(facts["sha256"], facts["emoji"]["sha256"]))
    if evidence["milestones"]:
        table = pd.DataFrame(evidence["milestones"]).to_csv(index=False)
        write_whole(target / "logs" / "milestones.csv", table)
    figures = {
        **evidence["figures"],
        **speed(load_diffusion(target)),
        "size of the shipped files (MB)": sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
        / 1e6,
    }
    training = _training(work, schedules)
    write_json(
        target / "card.json",
        {"figures": figures, "training": training, "note": note, "evidence": evidence, **provenance()},
    )
    said = card_text(target, figures, training, facts, note)
    write_whole(target / "README.md", said + "\n" + evidence["inversion"])
    return target


def _evidence(work: Path, target: Path, corpus_key: str) -> dict[str, Any]:
    """Everything but the speed, measured anew only for other weights, another corpus or other settings."""
    key = content_key(
        fingerprint(target, "*.safetensors"), corpus_key, SAMPLING, FINE_SAMPLING, INVERSION_TEST
    )
    if (target / "card.json").exists():
        evidence = json.loads((target / "card.json").read_text()).get("evidence", {})
        if evidence.get("key") == key:
            return evidence
    figures = measure(work / "corpus", target)
    return {
        "key": key,
        "figures": figures,
        "milestones": measure_milestones(work, target),
        "inversion": ship_inversion(target, INVERSION_TEST),
    }


def measure(corpus_folder: Path, target: Path) -> dict[str, float]:
    """Measure every figure of the card but the speed; two sample sheets are drawn on the way."""
    mixture = Mixture.load(corpus_folder, "held_out", 32)
    fine = Mixture.load(corpus_folder, "held_out", 64)
    held_out, trained = mixture.icons, Corpus.load(corpus_folder, "train", 32)
    test = load_dataset("icons10", split="test")
    clip, diffusion = load_clip(target), load_diffusion(target)
    vae = AutoencoderKL.from_pretrained(target / "vae").float().eval()
    figures = {
        "autoencoder PSNR on held-out icons (dB)": reconstruction_psnr(vae, held_out),
        "autoencoder PSNR on held-out icons at 64 px (dB)": reconstruction_psnr(vae, fine.icons),
        "autoencoder PSNR on held-out emoji (dB)": reconstruction_psnr(vae, mixture.emoji),
        "CLIP zero-shot top-1 on icons10's test split": named_right(
            clip, test.class_names, test.images, test.labels
        ),
        **_sample_figures(clip, diffusion, held_out, trained),
        "icons of its own training that CLIP names right among all concepts": named_right(
            clip, held_out.concepts, *_numbered_icons(trained, held_out.concepts, 1000)
        ),
        **{
            f"denoising loss at timestep {level}, {resolution} px": loss
            for resolution, icons in ((32, held_out), (64, fine.icons))
            for level, loss in denoising_loss_by_timestep(target, icons).items()
        },
    }
    _draw_samples(diffusion, target, "samples", SAMPLING)
    _draw_samples(diffusion, target, "samples_64px", FINE_SAMPLING)
    return figures


def draw_concepts(
    diffusion: FrozenDiffusion, concepts: list[str], wanted: np.ndarray, sampling: Sampling
) -> np.ndarray:
    """Draw an icon, uint8 ``[n, side, side, 3]``, of the concept of each number in ``wanted``."""
    return _draw(diffusion, [f"a {concepts[index]} icon" for index in wanted], sampling, "card")


def _draw(diffusion: FrozenDiffusion, prompts: list[str], sampling: Sampling, key: str) -> np.ndarray:
    streams = [stream(0, key, prompt, index) for index, prompt in enumerate(prompts)]
    conditioning, empty = (diffusion.encode_prompt(each) for each in (prompts, [""]))
    return sample(diffusion, conditioning, empty, sampling, streams)


def named_right(
    clip: FrozenClip, concepts: Sequence[str], images: np.ndarray, numbers: np.ndarray, *, within: int = 1
) -> float:
    """Share of images whose concept is among the first ``within`` that CLIP names, of all concepts."""
    labels = clip.text_features([f"a {name} icon" for name in concepts])
    first = (clip.image_features(images) @ labels.T).topk(min(within, len(concepts))).indices.numpy()
    return float((first == numbers[:, None]).any(1).mean())


def measure_milestones(work: Path, target: Path) -> list[dict[str, float]]:
    """How good the denoiser was after how many samples of stage ``unet``, by the weights kept on the way."""
    held_out = Corpus.load(work / "corpus", "held_out", 32)
    concepts, clip, diffusion = held_out.concepts, load_clip(target), load_diffusion(target)
    wanted = np.repeat(np.arange(len(concepts)), SAMPLES_PER_CONCEPT)
    kept = {int(path.stem.removeprefix("unet-")): path for path in work.glob("unet-*.safetensors")}
    rows = []
    for samples, path in sorted(kept.items()):
        diffusion.unet.load_state_dict(load_file(path))
        drawn = draw_concepts(diffusion, concepts, wanted, SAMPLING)
        loss = mean_denoising_loss(diffusion.unet, target, held_out)
        right = named_right(clip, concepts, drawn, wanted)
        rows.append({"samples": samples, "held_out_loss": loss, "named_right": right})
    return rows


def _numbered_icons(corpus: Corpus, concepts: list[str], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw icons, uint8 ``[n, 32, 32, 3]``, and number their concepts; those not listed are left out."""
    images, _, rows = corpus.draw(numpy_stream(0, "card"), count)
    drawn = corpus.icons["concept"].iloc[rows]
    listed = drawn.isin(concepts).to_numpy()
    numbers = np.array([concepts.index(concept) for concept in drawn[listed]])
    return (images[listed] * 255).astype(np.uint8), numbers


def _sample_figures(
    clip: FrozenClip, diffusion: FrozenDiffusion, held_out: Corpus, trained: Corpus
) -> dict[str, float]:
    concepts = held_out.concepts
    icons_of = trained.icons["concept"].value_counts().reindex(concepts, fill_value=0).to_numpy()
    each = np.arange(len(concepts))
    wanted = np.repeat(each, SAMPLES_PER_CONCEPT)
    drawn = draw_concepts(diffusion, concepts, wanted, SAMPLING)
    fine = draw_concepts(diffusion, concepts, each, FINE_SAMPLING)
    shown, numbers = _numbered_icons(held_out, concepts, len(wanted))
    real, synthetic = clip.image_features(shown), clip.image_features(drawn)
    right = partial(named_right, clip, concepts)
    rare = np.isin(wanted, np.argsort(icons_of, kind="stable")[: max(1, len(concepts) // 5)])
    return {
        "samples that CLIP names right among all concepts": right(drawn, wanted),
        "the same, of the fifth of the concepts with the fewest icons to learn from": right(
            drawn[rare], wanted[rare]
        ),
        "samples whose concept is among the first five that CLIP names": right(drawn, wanted, within=5),
        "64 px samples that CLIP names right among all concepts": right(fine, each),
        "held-out icons that CLIP names right among all concepts": right(shown, numbers),
        "held-out icons whose concept is among the first five that CLIP names": right(
            shown, numbers, within=5
        ),
        "Fréchet distance to held-out icons (CLIP features)": frechet_distance(real, synthetic),
        "recall of held-out icons (CLIP features)": recall(real, synthetic),
    }


def speed(diffusion: FrozenDiffusion, *, count: int = 128, repeats: int = 3) -> dict[str, float]:
    """Median time of an inversion update and of a guided sample, in ms per image, on this machine."""
    real = load_dataset("icons10", split="test").subset(range(count))
    settings = Inversion(steps_per_image=5 * repeats + 1, batch_size=count)
    together = replace(SAMPLING, batch_size=count)
    steps = inversion_steps(diffusion, real, settings)
    next(steps)  # which also encodes the images

    def draw() -> None:
        prompts = diffusion.encode_prompt(["a star icon"] * count)
        sample(diffusion, prompts, prompts[:1], together, [stream(0, index) for index in range(count)])

    def milliseconds(work: Callable[[], Any], times: int) -> float:
        return 1000 * float(np.median([timed(work, diffusion.device) for _ in range(times)])) / count

    return {
        "one inversion update (ms per image)": milliseconds(lambda: next(steps), 5 * repeats),
        "one 20-step guided sample (ms)": milliseconds(draw, repeats),
    }


def _draw_samples(diffusion: FrozenDiffusion, target: Path, name: str, sampling: Sampling) -> None:
    columns = 6
    prompts = [prompt for prompt in SHOWN_PROMPTS for _ in range(columns)]
    images = _draw(diffusion, prompts, sampling, "sheet")
    grid = images.reshape(len(SHOWN_PROMPTS), columns, *images.shape[1:])
    figure, ax = plt.subplots(figsize=(5.9, 6.4), layout="compressed")
    image_grid(ax, grid, row_labels=list(SHOWN_PROMPTS))
    save_figure(figure, name, pd.DataFrame({"prompt": SHOWN_PROMPTS}), target)


def _save_half(pipeline: Path, target: Path) -> None:
    with quiet_loading():
        whole = diffusers.StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    whole.to(torch.float16)
    whole.save_pretrained(target, safe_serialization=True)
    CLIPModel.from_pretrained(pipeline / "clip").half().save_pretrained(target / "clip")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (pipeline / "clip" / name).exists():
            shutil.copy2(pipeline / "clip" / name, target / "clip" / name)


def _training(work: Path, schedules: dict[str, Schedule]) -> dict[str, dict[str, float]]:
    """What each stage's checkpoint has seen, its last logged loss, and what the recipe asks for."""
    rows = {}
    for stage, schedule in schedules.items():
        row: dict[str, float] = {"samples": 0, "seconds": 0}
        checkpoint, log = work / f"{stage}.json", work / f"{stage}.jsonl"
        # The log has a row every 50 steps, and so may end before the checkpoint or after it.
        if checkpoint.exists():
            row = json.loads(checkpoint.read_text())
            if lines := log.read_text().splitlines() if log.exists() else []:
                row["loss"] = json.loads(lines[-1])["loss"]
        rows[stage] = {**row, "planned_samples": schedule.total_samples}
    return rows
