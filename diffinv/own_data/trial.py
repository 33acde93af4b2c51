"""Can the model show these images at all? Tried on a few of them, before the hours of the whole set."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import numpy_stream
from diffinv.lessons.counts import OwnDataLesson
from diffinv.lessons.profile import Profile
from diffinv.method.cached import invert
from diffinv.method.held_out_loss import held_out_loss
from diffinv.method.inversion import initial_embeddings
from diffinv.method.perturbation import Perturbation
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.own_data.look import DRAWING, drawn_share
from diffinv.studies.statistics import summarise
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

LEARNED, NEARER = "learned", "nearer"


@dataclass(frozen=True)
class Trial:
    """What a few images say of the model: means over them, with 95 % t-intervals.

    `learned` is the share of the held-out loss that inversion took away, less the same share on the same
    images with their pixels shuffled. `nearer` is how much more alike (cosine of CLIP features) the samples
    of an image are to it than to the other images.
    """

    learned: pd.Series  # mean, low, high
    nearer: pd.Series

    def faults(self) -> Iterator[str]:
        """A sentence for each sign that the model cannot show the images."""
        if not self.learned["low"] > 0:
            yield (
                "inversion lowers the held-out loss no more than on the same images with shuffled pixels "
                f"({_points(self.learned)}): the model sees nothing in them."
            )
        if not self.nearer["low"] > 0:
            yield (
                "samples are no nearer to their own original than to the other images, by the cosine of "
                f"CLIP features ({_plain(self.nearer)})."
            )

    def record(self) -> dict[str, dict[str, float]]:
        """The trial as plain values for JSON."""
        return {"learned": self.learned.to_dict(), "nearer": self.nearer.to_dict()}

    def __str__(self) -> str:
        return (
            f"trial: inversion takes away {_points(self.learned)} more of the loss than on shuffled pixels; "
            f"samples are nearer to their own original than to others by {_plain(self.nearer)} in cosine."
        )


def try_model(
    diffusion: FrozenDiffusion, clip: Any, real: LabelledImages, settings: Profile, *, seed: int
) -> Trial:
    """Invert a few images of each class, and the same with shuffled pixels, and sample from the former."""
    counts: OwnDataLesson = settings.own_data_lesson
    rank = pd.Series(real.labels).groupby(real.labels).cumcount().to_numpy()
    few = real.subset(np.sort(np.argsort(rank, kind="stable")[: counts.probe_images]))
    shuffled = [
        numpy_stream(seed, "shuffled pixels", name).permutation(image.reshape(-1, 3)).reshape(image.shape)
        for name, image in zip(few.ids, few.images, strict=True)
    ]
    inversion = replace(settings.inversion, steps_per_image=counts.probe_updates)
    drops = []
    for images in (few, replace(few, images=np.stack(shuffled))):
        images = images.resize(settings.sampling.resolution or images.resolution)
        before, after = (
            held_out_loss(diffusion, images, vectors, seed=seed)
            for vectors in (
                initial_embeddings(diffusion, images, inversion),
                invert(diffusion, images, inversion, progress=False).embeddings[:],
            )
        )
        drops.append((1 - after / before).numpy())
    plain = Perturbation(noise_std=0, interpolation_weight=0)
    synthesizer = DiffusionInversion(diffusion, inversion, plain, settings.sampling)
    samples = synthesizer(few, images_per_real=counts.probe_samples, seed=seed)
    return Trial(_mean(drops[0] - drops[1]), nearness_to_original(few, samples, clip))


def nearness_to_original(real: LabelledImages, synthetic: LabelledImages, clip: Any) -> pd.Series:
    """How much more alike the samples of an image are to it than to all others, averaged over the images."""
    places = {name: row for row, name in enumerate(real.ids)}
    own = torch.tensor([places[name] for name in synthetic.sources or ()])
    alike = clip.image_features(synthetic.images) @ clip.image_features(real.images).T
    to_own = alike.gather(1, own[:, None])[:, 0]
    to_others = (alike.sum(dim=1) - to_own) / (len(real) - 1)
    return _mean(pd.Series((to_own - to_others).numpy()).groupby(own.numpy()).mean().to_numpy())


def fault_of_photographs(diffusion: FrozenDiffusion, real: LabelledImages) -> str:
    """What the embedded model says to photographs, on which it was not trained; "" to anything else."""
    share = drawn_share(real.images)
    if diffusion.name != "tinysd" or share >= DRAWING:
        return ""
    return (
        f"these look like photographs (only {share:.0%} of neighbouring pixels are alike), and tinysd was "
        "trained on icons: on a GPU, choose profile='colab', which takes Stable Diffusion."
    )


def _mean(values: np.ndarray) -> pd.Series:
    rows = pd.DataFrame({"of": "", "seed": range(len(values)), "value": values})
    return summarise(rows, ["of"], value="value").iloc[0][["mean", "low", "high"]].astype(float)


def _points(found: pd.Series) -> str:
    return f"{100 * found['mean']:.0f} % [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def _plain(found: pd.Series) -> str:
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
