"""What the explorers of the lessons show: figures of one model, some images and their vectors."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from diffinv.datasets import LabelledImages
from diffinv.figures import image_grid
from diffinv.foundation.progress import headless
from diffinv.foundation.randomness import stream
from diffinv.lessons.explorers import explore_map
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.method.perturbation import Perturbation, conditioning_for, interpolate
from diffinv.method.sampling import Sampling, denoising_steps, sample
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion

COARSE_STEPS = 4  # of the picture that comes first
FEW = 5  # samples in a picture, and neighbours on the map


@dataclass(frozen=True, eq=False)
class Scene:
    """A model, some real images at the side that it works at, and the vectors learned of them."""

    diffusion: FrozenDiffusion
    real: LabelledImages
    store: EmbeddingStore
    sampling: Sampling  # with a resolution
    inversion: Inversion = field(default_factory=Inversion)

    @property
    def images(self) -> list[tuple[str, int]]:
        """The options of a control that chooses an image."""
        return [(f"{number}: {self.name(number)}", number) for number in range(len(self.real))]

    def name(self, image: int) -> str:
        return self.real.class_names[self.real.labels[image]]

    def samples(
        self,
        image: int = 0,
        guidance_scale: float = 2.0,
        noise_std: float = 0.1,
        interpolation_weight: float = 0.1,
        steps: int = 5,
        seed: int = 0,
    ) -> Iterator[Figure]:
        """An image beside samples of it, under settings of the reader's choice (section 3.2)."""
        perturbation = Perturbation(noise_std, interpolation_weight)
        coarse = (COARSE_STEPS,) if steps > 2 * COARSE_STEPS and not headless() else ()
        for number in (*coarse, steps):
            drawn = _samples(self, image, perturbation, guidance_scale, number, seed)
            heads = ["real", f"samples after {number} steps", *[""] * (FEW - 1)]
            yield _row([self.real.images[image], *drawn], heads, split_after=1)

    def walk(self, first: int = 0, second: int = 1, weight: float = 0.5, seed: int = 0) -> Figure:
        """A sample between the vectors of two images, all from the same noise (figure 9)."""
        ends = self.store.embeddings[[first]], self.store.embeddings[[second]]
        mixed = torch.cat([interpolate(*ends, share) for share in (0.0, weight, 1.0)])
        streams = [stream(seed, "explorer walk") for _ in range(3)]
        drawn = self._draw(mixed, self.sampling, streams)
        heads = ["real A", "vectors of A", f"{weight:.0%} of B", "vectors of B", "real B"]
        return _row([self.real.images[first], *drawn, self.real.images[second]], heads)

    def denoising(self, image: int = 0, step: int = 8, guidance_scale: float = 4.0, seed: int = 0) -> Figure:
        """The latents and what the model believes behind them, up to a step, without guidance and with it."""
        rows, names = [], []
        for scale, words in ((1.0, "no guidance"), (guidance_scale, f"guidance {guidance_scale:g}")):
            latents, believed = _trajectory(self, image, scale, seed)
            for kind, pictures in (("latents", latents), ("believed", believed)):
                rows.append([each if number < step else None for number, each in enumerate(pictures)])
                names.append(f"{words}: {kind}")
        fig = Figure(figsize=(7.6, 3.6), layout="constrained")
        heads = [f"step {number + 1}" if number < step else "" for number in range(len(rows[0]))]
        image_grid(fig.subplots(), rows, names, heads)
        return fig

    def learning(
        self, image: int = 0, updates: int = 100, learning_rate: float = 0.1, seed: int = 0
    ) -> Iterator[Figure]:
        """The loss and a sample of one image while its vectors are learned (section 3.1)."""
        settings = replace(
            self.inversion, steps_per_image=updates, learning_rate=learning_rate, seed=seed, batch_size=1
        )
        losses, every = [], max(1, updates // 10)
        for step in inversion_steps(self.diffusion, self.real.subset([image]), settings):
            losses.append(float(step.losses))
            if step.step == updates or (not headless() and (step.step == 1 or step.step % every == 0)):
                plain = replace(self.sampling, guidance_scale=1.0)
                drawn = self._draw(step.embeddings, plain, [stream(seed, "explorer learning")])
                yield _learned(losses, updates, [self.real.images[image], drawn[0]])

    @cached_property
    def places(self) -> tuple[np.ndarray, float]:
        """The vectors on their first two principal axes, [image, 2], and the share of the variance there."""
        flat = self.store.embeddings[:].flatten(1).double()
        left, singular, _ = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
        shares = singular.square() / singular.square().sum().clamp_min(1e-12)
        return (left[:, :2] * singular[:2]).numpy(), float(shares[:2].sum())

    @property
    def colours(self) -> list[str]:
        palette = mpl.colormaps["tab10" if self.real.num_classes <= 10 else "tab20"]
        return [mpl.colors.to_hex(palette(label % palette.N)) for label in self.real.labels]

    def overview(self) -> Figure:
        """Every image at the place of its vectors on the map."""
        places, share = self.places
        fig = Figure(figsize=(7.2, 5.0), layout="constrained")
        ax = fig.subplots()
        for place, picture, colour in zip(places, self.real.images, self.colours, strict=True):
            thumb = OffsetImage(picture, zoom=20 / picture.shape[0])
            frame = {"edgecolor": colour, "linewidth": 2}
            ax.add_artist(AnnotationBbox(thumb, place, pad=0.1, bboxprops=frame))
        ax.set(xlabel="first principal axis of the vectors", ylabel="second principal axis")
        ax.set_title(f"learned vectors; the two axes hold {share:.0%} of their variance")
        ax.update_datalim(places)
        ax.autoscale_view()
        ax.margins(0.06)
        return fig

    def detail(self, image: int) -> Figure:
        """An image, samples of its vectors, and the images whose vectors are nearest to its own."""
        drawn = _samples(self, image, Perturbation(0.0, 0.0), 2.0, COARSE_STEPS, 0)
        flat = self.store.embeddings[:].flatten(1)
        nearest = (flat - flat[image]).norm(dim=1).argsort()[1 : 1 + FEW].tolist()
        rows = [[self.real.images[image], *drawn], [None, *self.real.images[nearest]]]
        rows[1] += [None] * (len(rows[0]) - len(rows[1]))
        fig = Figure(figsize=(6.0, 1.9), layout="constrained")
        names = [f"{self.name(image)}, its samples", "nearest vectors"]
        image_grid(fig.subplots(), rows, names, split_after=1)
        return fig

    def map(self) -> Any:
        """The map of the vectors: a click on an image shows its `detail`."""
        names = [self.name(image) for image in range(len(self.real))]
        colours = map(mpl.colors.to_rgb, self.colours)
        pale = [mpl.colors.to_hex((0.5 + r / 2, 0.5 + g / 2, 0.5 + b / 2)) for r, g, b in colours]
        return explore_map(self.overview(), self.places[0], names, pale, self.detail)

    def _draw(self, vectors: torch.Tensor, sampling: Sampling, streams: list) -> np.ndarray:
        return sample(self.diffusion, vectors, self.store.mean()[None], sampling, streams)


@lru_cache(maxsize=256)
def _samples(
    scene: Scene, image: int, perturbation: Perturbation, guidance_scale: float, steps: int, seed: int
) -> np.ndarray:
    copies = range(FEW)
    vectors = conditioning_for(scene.store, [image] * FEW, list(copies), perturbation, seed)
    sampling = replace(scene.sampling, guidance_scale=guidance_scale, num_inference_steps=steps)
    return scene._draw(vectors, sampling, [stream(seed, "explorer", copy) for copy in copies])


@lru_cache(maxsize=64)
def _trajectory(scene: Scene, image: int, guidance_scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    sampling = replace(scene.sampling, guidance_scale=guidance_scale, num_inference_steps=8)
    vectors, mean = scene.store.embeddings[[image]], scene.store.mean()[None]
    steps = list(denoising_steps(scene.diffusion, vectors, mean, sampling, [stream(seed, "explorer path")]))
    both = [torch.cat([getattr(step, what) for step in steps]) for what in ("latents", "predicted_original")]
    latents, believed = map(scene.diffusion.decode, both)
    return latents, believed


def _row(pictures: list[np.ndarray], heads: list[str], split_after: int | None = None) -> Figure:
    fig = Figure(figsize=(1.1 * len(pictures), 1.5), layout="constrained")
    image_grid(fig.subplots(), [pictures], column_labels=heads, split_after=split_after)
    return fig


def _learned(losses: list[float], updates: int, pictures: list[np.ndarray]) -> Figure:
    fig = Figure(figsize=(6.4, 2.2), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(1.3, 1))
    left.plot(range(1, len(losses) + 1), losses, color="0.4")
    left.set(
        xlabel="updates of the vectors", ylabel="denoising loss", xlim=(1, max(2, updates)), ylim=(0, None)
    )
    image_grid(right, [pictures], column_labels=["real", f"sample after {len(losses)}"])
    return fig
