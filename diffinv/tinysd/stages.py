"""The stages in which TinySD is made: each reads what those before it left in a work folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from diffinv.foundation import ASSETS
from diffinv.tinysd.card import ablation, card
from diffinv.tinysd.corpus.corpus import build_corpus
from diffinv.tinysd.corpus.emoji import build_emoji
from diffinv.tinysd.corpus.packed_corpus import pack_corpus, unpack_corpus
from diffinv.tinysd.embedded import emoji6, retrieval_pool
from diffinv.tinysd.embedded import icons as embedded_datasets
from diffinv.tinysd.training import autoencoder, clip_stage, denoiser
from diffinv.tinysd.training.curriculum import (
    COMMONEST_ALONE_SHARE,
    DENOISER_WIDER_SHARE,
    Curriculum,
    Mixture,
)
from diffinv.tinysd.training.training_loop import SCHEDULES, Schedule, Task, TrainingRun, rank

RESOLUTION, FINE_RESOLUTION = 32, 64
VAE_EMOJI_SHARE = 0.35  # their many colours in one image are what is hard to keep


@dataclass(frozen=True)
class Pretraining:
    """Where one pre-training lives and what one call of it may use."""

    work: Path
    minutes: float
    num_concepts: int
    schedules: dict[str, Schedule]
    device: str
    package: Path | None
    note: str = ""
    num_wider: int = 0
    packed: Path | None = None  # a corpus that was packed elsewhere, or where one is packed to
    start: Path | None = None  # an earlier TinySD, whose CLIP's image half stage vision starts from

    @property
    def pipeline(self) -> Path:
        """The pipeline folder that the stages fill, in diffusers layout."""
        return self.work / "tinysd"

    def task(self, stage: str) -> Task:
        """What this call may do for a stage."""
        return Task(self.work, self.schedules[stage], self.minutes, self.device)

    def mixture(self, resolution: int = RESOLUTION, part: str = "train") -> Mixture:
        """Read one part of the icons and emoji."""
        return Mixture.load(self.work / "corpus", part, resolution)


def run_corpus(settings: Pretraining) -> None:
    """Fetch, draw and select the icons and the emoji, or unpack what was packed elsewhere."""
    folder = settings.work / "corpus"
    if settings.packed:
        unpack_corpus(settings.packed, folder)
        return
    build_corpus(
        folder, num_concepts=settings.num_concepts, num_wider=settings.num_wider, package=settings.package
    )
    build_emoji(folder, package=settings.package)


def run_pack(settings: Pretraining) -> None:
    """Compress the corpus, in pieces, for a machine that cannot draw it."""
    for piece in pack_corpus(settings.work / "corpus", settings.packed or settings.work / "packed"):
        print(f"{piece}: {piece.stat().st_size / 1e6:.1f} MB")


def run_vae(settings: Pretraining) -> TrainingRun:
    """Train the autoencoder and write ``vae/``."""
    mixture = replace(settings.mixture(), emoji_share=VAE_EMOJI_SHARE)
    run = autoencoder.train_autoencoder(mixture, settings.task("vae"))
    autoencoder.finish_autoencoder(run, mixture.icons).save_pretrained(settings.pipeline / "vae")
    return run


def run_clip(settings: Pretraining) -> TrainingRun:
    """Train the CLIP and write ``clip/``, ``text_encoder/`` and ``tokenizer/``."""
    mixture = settings.mixture()
    tokenizer = clip_stage.train_tokenizer(mixture)
    run = clip_stage.train_clip(mixture, tokenizer, settings.task("clip"))
    clip_stage.save_clip(run, tokenizer, settings.pipeline)
    return run


def run_vision(settings: Pretraining) -> TrainingRun:
    """Tune the image half to the locked text half and write ``clip/`` again."""
    clip, tokenizer = clip_stage.load_clip_folder(settings.pipeline)
    if settings.start:
        earlier, _ = clip_stage.load_clip_folder(settings.start)
        clip.vision_model.load_state_dict(earlier.float().vision_model.state_dict())
    task, knows_shapes = settings.task("vision"), settings.start is not None
    run = clip_stage.train_vision(settings.mixture(), tokenizer, clip, task, knows_shapes=knows_shapes)
    clip.load_state_dict(run.ema_state())
    clip.cpu().save_pretrained(settings.pipeline / "clip")
    return run


def run_unet(settings: Pretraining) -> TrainingRun:
    """Train the denoiser on the two stages above and write ``unet/`` and ``scheduler/``."""
    mixture = settings.mixture().with_wider_share(DENOISER_WIDER_SHARE)
    alone = round(COMMONEST_ALONE_SHARE * settings.schedules["unet"].total_samples)
    curriculum = Curriculum(mixture, mixture.icons.with_wider_share(0), alone)
    run = denoiser.train_denoiser(curriculum, settings.pipeline, settings.task("unet"))
    if rank() == 0:
        denoiser.save_denoiser(run, settings.pipeline)
    return run


def run_unet64(settings: Pretraining) -> TrainingRun:
    """Tune the denoiser to 64 px beside 32 px and write ``unet/`` again."""
    coarse, fine = (
        Curriculum(settings.mixture(side).with_wider_share(DENOISER_WIDER_SHARE))
        for side in (RESOLUTION, FINE_RESOLUTION)
    )
    run = denoiser.tune_denoiser(coarse, fine, settings.pipeline, settings.task("unet64"))
    if rank() == 0:
        denoiser.save_denoiser(run, settings.pipeline, sample_size=16)
    return run


def run_ablation(settings: Pretraining) -> None:
    """Train variants of the denoiser for ``--minutes`` of processor time each, for the card's table."""
    ablation.ablate(
        settings.mixture(),
        settings.mixture(part="held_out"),
        settings.pipeline,
        settings.work / "ablation.csv",
        minutes=settings.minutes,
    )


def run_datasets(settings: Pretraining) -> None:
    """Write the embedded datasets, and the pool of KNN retrieval, that are made of icons and emoji."""
    corpus, datasets = settings.work / "corpus", ASSETS / "datasets"
    for name in ("icons10", "novel10"):
        embedded_datasets.build(corpus, name, datasets / name)
    emoji6.build(corpus, datasets / "emoji6")
    retrieval_pool.build(corpus, datasets / "icons_pool")


def run_card(settings: Pretraining) -> None:
    """Measure the card's figures and ship the pipeline, in half precision, as the package's asset."""
    card.ship(settings.work, settings.pipeline, ASSETS / "tinysd", settings.schedules, settings.note)


STAGES: dict[str, Callable[[Pretraining], object]] = {
    "corpus": run_corpus,
    "pack": run_pack,
    "vae": run_vae,
    "clip": run_clip,
    "vision": run_vision,
    "unet": run_unet,
    "unet64": run_unet64,
    "ablation": run_ablation,
    "datasets": run_datasets,
    "card": run_card,
}
TRAINED = tuple(SCHEDULES)
RECIPE = tuple(stage for stage in STAGES if stage not in {"pack", "ablation"})  # no parts of the making
BUILDS_ON = {
    "pack": ("corpus",), "vae": ("corpus",), "clip": ("corpus",), "vision": ("corpus", "clip"),
    "unet": ("corpus", "vae", "clip"), "unet64": ("corpus", "unet"), "ablation": ("corpus", "vae", "clip"),
    "datasets": ("corpus",), "card": ("corpus", "vae", "clip", "unet"),
}  # fmt: skip
# The file in the work folder that a stage writes last.
PROOF = {
    "corpus": "corpus/emoji.json", "vae": "tinysd/vae/config.json",
    "clip": "tinysd/tokenizer/tokenizer.json", "vision": "vision.json", "unet": "tinysd/model_index.json",
}  # fmt: skip


def check_forerunners(stage: str, work: Path) -> None:
    """Raise ValueError, naming what to run first, unless ``work`` has all that ``stage`` builds on."""
    for earlier in BUILDS_ON.get(stage, ()):
        if not (work / PROOF[earlier]).is_file():
            raise ValueError(
                f"{work} lacks the {earlier} stage, which {stage} builds on: run --stage {earlier} first."
            )
