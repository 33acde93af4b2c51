"""Pre-training in minutes: the stages of ``diffinv pretrain`` on the miniature corpus, to be watched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from diffinv.tinysd.corpus.captions import Corpus
from diffinv.tinysd.corpus.miniature_corpus import RESOLUTION, build_miniature_corpus
from diffinv.tinysd.training import autoencoder, clip_stage, denoiser
from diffinv.tinysd.training.curriculum import Curriculum
from diffinv.tinysd.training.training_loop import Schedule, Task

PAIRS_AT_A_TIME = 1024  # a training of seconds has no time to encode a full block
#: How the minutes are divided.
SHARES: Mapping[str, float] = MappingProxyType({"vae": 0.2, "clip": 0.1, "vision": 0.2, "unet": 0.5})
# About what one CPU core learns from in a second. Only the learning rate's way down depends on it: a faster
# machine ends before its minutes are over, a slower one with a rate that has not quite come down.
SAMPLES_PER_SECOND = {"vae": 80, "clip": 250, "vision": 250, "unet": 110}
BATCH_SIZES = {"vae": 32, "clip": 128, "vision": 64, "unet": 64}
LEARNING_RATES = {"vae": 2e-3, "clip": 1e-3, "vision": 1e-3, "unet": 2e-3}
CAPTIONS_OF_TOKENIZER = 3000


def plan(stage: str, minutes: float) -> Schedule:
    """The schedule of one stage's share of so many minutes."""
    batch_size = BATCH_SIZES[stage]
    samples = max(2 * batch_size, round(60 * minutes * SHARES[stage] * SAMPLES_PER_SECOND[stage]))
    return Schedule(
        total_samples=samples,
        batch_size=batch_size,
        learning_rate=LEARNING_RATES[stage],
        warmup_samples=max(batch_size, min(10_000, samples // 10)),
    )


def pretrain_miniature(work: Path, minutes: float, *, device: str = "cpu") -> Path:
    """Train autoencoder, CLIP and U-Net for `minutes` in all; return the pipeline's folder.

    The loss curves are `work / "<stage>.jsonl"`. Preparing the corpus, the tokenizer and the first latents
    comes on top, about half a minute. Called again with the same folder, it goes on where it was
    interrupted. ValueError unless `minutes` is above 0.
    """
    if not minutes > 0:
        raise ValueError(f"minutes is {minutes}: give more than 0 to train.")
    if not (work / "corpus" / "corpus.json").exists():
        build_miniature_corpus(work / "corpus")
    corpus, pipeline = Corpus.load(work / "corpus", "train", RESOLUTION), work / "tinysd"
    tasks = {
        stage: Task(work, plan(stage, minutes), minutes * share, device) for stage, share in SHARES.items()
    }
    vae = autoencoder.train_autoencoder(corpus, tasks["vae"])
    autoencoder.finish_autoencoder(vae, corpus).save_pretrained(pipeline / "vae")

    tokenizer = clip_stage.train_tokenizer(corpus, CAPTIONS_OF_TOKENIZER)
    both = clip_stage.train_clip(corpus, tokenizer, tasks["clip"])
    clip_stage.save_clip(both, tokenizer, pipeline)

    clip, tokenizer = clip_stage.load_clip_folder(pipeline)
    vision = clip_stage.train_vision(corpus, tokenizer, clip, tasks["vision"])
    clip.load_state_dict(vision.ema_state())
    clip.cpu().save_pretrained(pipeline / "clip")

    unet = denoiser.train_denoiser(Curriculum(corpus), pipeline, tasks["unet"], pairs=PAIRS_AT_A_TIME)
    denoiser.save_denoiser(unet, pipeline)
    return pipeline
