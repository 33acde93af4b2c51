"""What the vectors' bytes and the sampler's steps are worth: the paper's two limitations, as comparisons."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from diffinv.artefacts.compression import pack, unpack
from diffinv.classifiers.training import Training
from diffinv.method.sampling import Sampling, planned_steps, prepare_scheduler
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.studies.grid import Condition
from diffinv.studies.statistics import paired_difference, summarise
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

MARGIN = 0.01  # of accuracy: what is lost without being missed


def codec_conditions(
    synthesizer: DiffusionInversion,
    store: EmbeddingStore,
    codecs: Iterable[str],
    training: Training,
    *,
    images_per_real: int,
    real_per_class: int,
    prefix: str = "",
) -> list[Condition]:
    """Samples alone from the vectors of a pool as each codec gives them back.

    The bytes of the codec on the whole pool, with the bases or codebooks that its images share, are columns
    of the rows. "float32" samples from the very vectors, as the method does.
    """
    conditions = []
    for codec in codecs:
        packed = pack(store.embeddings[:], codec)
        make = synthesizer
        if codec != "float32":
            lossy = replace(store, embeddings=unpack(packed, codec))
            make = DiffusionInversion.from_store(
                synthesizer.diffusion, lossy, synthesizer.perturbation, synthesizer.sampling
            )
        axes = {
            "codec": codec,
            "bytes_per_image": packed.num_bytes / len(store),
            "shared_bytes": packed.shared_bytes,
        }
        conditions.append(
            Condition(prefix + codec, make, training, images_per_real, real_per_class, axes=axes)
        )
    return conditions


def sampler_conditions(
    synthesizer: DiffusionInversion,
    samplers: Iterable[tuple[str, int, float]],
    training: Training,
    *,
    images_per_real: int,
    real_per_class: int,
) -> list[Condition]:
    """Samples alone by each (scheduler, steps, guidance scale), with the images that go through the U-Net."""
    conditions = []
    for scheduler, steps, guidance in samplers:
        sampling = replace(
            synthesizer.sampling, scheduler=scheduler, num_inference_steps=steps, guidance_scale=guidance
        )
        calls = calls_per_sample(synthesizer.diffusion, sampling)
        conditions.append(
            Condition(
                sampler_name(scheduler, steps, guidance),
                replace(synthesizer, sampling=sampling),
                training,
                images_per_real,
                real_per_class,
                axes={"calls": calls},
            )
        )
    return conditions


def sampler_name(scheduler: str, steps: int, guidance: float) -> str:
    """Such as "DDIM, 100 steps, guidance 2"; unguided where nothing is said."""
    short = {
        "DPMSolverMultistepScheduler": "DPM-Solver++",
        "UniPCMultistepScheduler": "UniPC",
        "EulerAncestralDiscreteScheduler": "Euler a",
    }.get(scheduler, scheduler.removesuffix("Scheduler"))
    return f"{short}, {steps} steps" + ("" if guidance == 1 else f", guidance {guidance:g}")


def calls_per_sample(diffusion: FrozenDiffusion, sampling: Sampling) -> int:
    """Images that go through the U-Net for one sample: a guided step takes two."""
    plan = planned_steps(diffusion, prepare_scheduler(diffusion, sampling), sampling)
    return sum(1 if guidance_scale == 1 else 2 for _, guidance_scale in plan)


def beside_reference(rows: pd.DataFrame, reference: str, axes: Sequence[str]) -> pd.DataFrame:
    """Mean accuracy of each condition, and how far it is from the reference's, paired by seed.

    The columns are condition, `axes`, accuracy, difference with its 95 % interval (low, high), n and verdict
    (`equivalence`); of the reference itself, whose difference is no news, the verdict is "reference".
    """
    means = summarise(rows, by=["condition", *axes]).rename(columns={"mean": "accuracy"})
    others = [name for name in means["condition"] if name != reference]
    effects = [paired_difference(rows, name, reference).assign(condition=name) for name in others]
    zero = {"condition": reference, "difference": 0.0, "low": 0.0, "high": 0.0, "n": rows["seed"].nunique()}
    found = pd.concat([pd.DataFrame([zero]), *effects], ignore_index=True)
    table = means[["condition", *axes, "accuracy"]].merge(
        found[["condition", "difference", "low", "high", "n"]], on="condition"
    )
    table["verdict"] = list(map(equivalence, table["low"], table["high"]))
    table.loc[table["condition"] == reference, "verdict"] = "reference"
    return table


def equivalence(low: float, high: float) -> str:
    """What the interval of a difference says of the claim that no more than the `MARGIN` is lost."""
    if low > -MARGIN:
        return "within"
    return "not within" if high < -MARGIN else "undecided"


def goal_in_words(table: pd.DataFrame, cost: str, share: float) -> str:
    """Whether a condition costs at most this share of the reference and is within a point of it."""
    whole = float(table.loc[table["verdict"] == "reference", cost].iloc[0])
    cheap = table[(table[cost] <= share * whole) & (table["verdict"] != "reference")]
    for verdict, met in (("within", "met"), ("undecided", "undecided")):
        own = cheap[cheap["verdict"] == verdict]
        if len(own):
            best = own.loc[own[cost].idxmin() if met == "met" else own["low"].idxmax()]
            differs, low, high = (100 * best[end] for end in ("difference", "low", "high"))
            by = f"{differs:+.1f} points [{low:+.1f}, {high:+.1f}]"
            return f"{met}: {best['condition']} costs 1/{whole / best[cost]:.0f}, and differs by {by}"
    return "not met: what costs so little loses more than a point" if len(cheap) else "not tried"
