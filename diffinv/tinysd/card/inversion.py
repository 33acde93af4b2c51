"""The card's last part: does inversion work on TinySD? Losses and samples of images that it never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffinv.artefacts.writing import write_json
from diffinv.datasets import LabelledImages, load_dataset
from diffinv.figures.style import save_figure
from diffinv.foundation.randomness import stream
from diffinv.lessons.profiles import PROFILES
from diffinv.method.held_out_loss import held_out_loss
from diffinv.method.inversion import Inversion, initial_embeddings, inversion_steps
from diffinv.method.sampling import Sampling, sample
from diffinv.models.clip import FrozenClip, load_clip
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.tinysd.card.inversion_report import (
    AUTOENCODER,
    EMPTY_PROMPT,
    LEARNED,
    draw_losses,
    draw_samples,
    section,
    summary,
)

Images = UInt8[np.ndarray, "image height width 3"]


@dataclass(frozen=True)
class InversionTest:
    """What the card inverts, and how: the profile `tiny` but for the numbers of vectors and of updates."""

    datasets: tuple[str, ...] = ("icons10", "novel10", "mnist5k")
    images_per_dataset: int = 10  # the first one of each class
    candidates_per_class: int = 10  # the originals among which the nearest to a sample is looked for
    tokens_grid: tuple[int, ...] = (1, 2, 4, 8, 16)
    updates_grid: tuple[int, ...] = (50, 100, 200, 400)
    shown_tokens: int = 16  # whose samples are drawn
    held_out_draws: int = 16
    inversion: Inversion = PROFILES["tiny"].inversion
    sampling: Sampling = PROFILES["tiny"].sampling
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shown_tokens not in self.tokens_grid:
            raise ValueError(
                f"shown_tokens is {self.shown_tokens}: choose one of tokens_grid, {self.tokens_grid}."
            )


#: Seconds instead of minutes: every line is run, nothing is learned.
QUICK = InversionTest(
    datasets=("icons10", "mnist5k"),
    images_per_dataset=2,
    candidates_per_class=1,
    tokens_grid=(1, 2),
    updates_grid=(1, 2),
    shown_tokens=2,
    held_out_draws=2,
    sampling=replace(PROFILES["tiny"].sampling, num_inference_steps=2),
)


@dataclass(frozen=True, eq=False)
class Unseen:
    """The images that are inverted, one dataset after the other, and the originals to compare with."""

    real: LabelledImages  # the "class" of an image is its dataset
    names: tuple[str, ...]  # what each image shows
    candidates: dict[str, LabelledImages]  # by dataset; the first ones are those that are inverted

    @property
    def datasets(self) -> list[str]:
        """The dataset of each image."""
        return [self.real.class_names[label] for label in self.real.labels]

    def rows_of(self, dataset: str) -> list[int]:
        """Positions of a dataset's images."""
        return [index for index, name in enumerate(self.datasets) if name == dataset]


@dataclass(frozen=True, eq=False)
class InversionEvidence:
    """What was measured: rows, one per image and condition, and the pictures of one number of vectors."""

    rows: pd.DataFrame
    unseen: Unseen
    reconstructions: Images
    samples: dict[int, Images]  # by number of updates


def ship_inversion(folder: Path, settings: InversionTest = InversionTest()) -> str:
    """Measure, write ``inversion.csv``, ``inversion.json`` and two figures to ``folder``; return the section.

    The section is Markdown for the card that lies in the same folder.
    """
    evidence = measure_inversion(load_diffusion(folder), load_clip(folder), settings)
    save_figure(draw_losses(evidence.rows), "inversion", evidence.rows, folder)
    unseen = evidence.unseen
    columns = {"original": unseen.real.images, "decoded": evidence.reconstructions}
    columns |= {str(updates): images for updates, images in evidence.samples.items() if updates}
    shown = evidence.rows[evidence.rows["num_tokens"] == settings.shown_tokens]
    save_figure(draw_samples(columns, unseen.datasets, unseen.names), "inversion_samples", shown, folder)
    table = summary(evidence.rows, settings.shown_tokens)
    write_json(folder / "inversion.json", table.to_dict("records"))
    candidates = {name: len(data) for name, data in unseen.candidates.items()}
    return section(evidence.rows, table, candidates, settings.shown_tokens, settings.inversion.learning_rate)


def measure_inversion(
    diffusion: FrozenDiffusion, clip: FrozenClip, settings: InversionTest
) -> InversionEvidence:
    """Invert with every number of vectors, and look at loss and samples after every number of updates."""
    unseen = choose_unseen(settings)
    judge = judge_likeness(clip, unseen)
    reconstructions = diffusion.decode(diffusion.latent_moments(unseen.real.images)[0])
    empty = diffusion.encode_prompt([""])
    tables = [
        _rows(unseen, EMPTY_PROMPT, loss=_loss(diffusion, unseen, empty, settings)),
        _rows(unseen, AUTOENCODER, **judge(reconstructions)),
    ]
    shown: dict[int, Images] = {}
    for num_tokens in settings.tokens_grid:
        for updates, vectors in _learn(diffusion, unseen.real, num_tokens, settings).items():
            images = _draw(diffusion, unseen, vectors, settings)
            loss = _loss(diffusion, unseen, vectors, settings)
            at = {"num_tokens": num_tokens, "updates": updates}
            tables.append(_rows(unseen, LEARNED, **at, loss=loss, **judge(images)))
            if num_tokens == settings.shown_tokens:
                shown[updates] = images
    return InversionEvidence(pd.concat(tables, ignore_index=True), unseen, reconstructions, shown)


def choose_unseen(settings: InversionTest) -> Unseen:
    """The first image of each class of the training splits: icon sets held out of pre-training, and digits.

    Of all datasets together, as one large group is inverted much faster than several small ones.
    """
    candidates, parts = {}, []
    for name in settings.datasets:
        data = load_dataset(name, split="train", resolution=settings.sampling.resolution)
        candidates[name] = first_of_each_class(data, settings.candidates_per_class * data.num_classes)
        parts.append(candidates[name].subset(range(settings.images_per_dataset)))
    real = LabelledImages(
        images=np.concatenate([part.images for part in parts]),
        labels=np.repeat(np.arange(len(parts)), settings.images_per_dataset),
        class_names=settings.datasets,
        ids=tuple(
            f"{name}/{image_id}"
            for name, part in zip(candidates, parts, strict=True)
            for image_id in part.ids
        ),
    )
    names = tuple(part.class_names[label] for part in parts for label in part.labels)
    return Unseen(real, names, candidates)


def first_of_each_class(data: LabelledImages, count: int) -> LabelledImages:
    """`count` images: the first one of each class, then the second ones, in the order of the file."""
    ranks = pd.Series(data.labels).groupby(data.labels).cumcount()
    return data.subset(np.lexsort((data.labels, ranks))[:count])


def _learn(
    diffusion: FrozenDiffusion, real: LabelledImages, num_tokens: int, settings: InversionTest
) -> dict[int, Float[Tensor, "image token channel"]]:
    """The vectors before the first update (0) and after each number of updates of the grid, from one run."""
    inversion = replace(settings.inversion, num_tokens=num_tokens, steps_per_image=max(settings.updates_grid))
    learned = {0: initial_embeddings(diffusion, real, inversion)}
    for step in inversion_steps(diffusion, real, inversion):
        if step.step in settings.updates_grid:
            learned[step.step] = step.embeddings.cpu()
    return learned


def _loss(
    diffusion: FrozenDiffusion, unseen: Unseen, vectors: Tensor, settings: InversionTest
) -> Float[np.ndarray, " image"]:
    return held_out_loss(diffusion, unseen.real, vectors, draws=settings.held_out_draws).numpy()


def _draw(diffusion: FrozenDiffusion, unseen: Unseen, vectors: Tensor, settings: InversionTest) -> Images:
    """One sample per image, unperturbed, guided away from its dataset's mean vector, from its own noise."""
    means = torch.empty_like(vectors)
    for dataset in settings.datasets:
        rows = unseen.rows_of(dataset)
        means[rows] = vectors[rows].mean(dim=0)
    streams = [stream(settings.seed, "card inversion", image_id) for image_id in unseen.real.ids]
    return sample(diffusion, vectors, means, settings.sampling, streams)


def judge_likeness(clip: FrozenClip, unseen: Unseen) -> Callable[[Images], dict[str, np.ndarray]]:
    """A judge of pictures, one of each unseen image: how like its original is it, by CLIP and by pixels?

    It compares with the originals of the same dataset, whose features are taken once.
    """
    features = {name: clip.image_features(data.images) for name, data in unseen.candidates.items()}

    def judge_dataset(name: str, images: Images) -> dict[str, np.ndarray]:
        pictures = images[unseen.rows_of(name)]
        own = np.arange(len(pictures))
        cosines = (clip.image_features(pictures) @ features[name].T).numpy()
        originals = unseen.candidates[name].images.reshape(cosines.shape[1], -1).astype(np.float32)
        flat = pictures.reshape(len(pictures), -1).astype(np.float32)
        distances = np.square(flat[:, None] - originals[None]).mean(axis=2)
        to_own = cosines[own, own]
        return {
            "clip_to_own": to_own,
            "clip_to_others": (cosines.sum(axis=1) - to_own) / (cosines.shape[1] - 1),
            "nearest_by_clip_is_own": (cosines.argmax(axis=1) == own).astype(float),
            "nearest_by_pixels_is_own": (distances.argmin(axis=1) == own).astype(float),
        }

    def judge(images: Images) -> dict[str, np.ndarray]:
        parts = [judge_dataset(name, images) for name in unseen.candidates]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    return judge


def _rows(unseen: Unseen, condition: str, **columns: object) -> pd.DataFrame:
    ids = [image_id.partition("/")[2] for image_id in unseen.real.ids]
    table = pd.DataFrame({"dataset": unseen.datasets, "image": ids, "condition": condition})
    names = ("num_tokens", "updates", "loss", "clip_to_own", "clip_to_others")
    every = (*names, "nearest_by_clip_is_own", "nearest_by_pixels_is_own")
    return table.assign(**{name: columns.get(name, np.nan) for name in every})
