"""Few shots per class (Fig. 7a): what each method teaches, and where one overtakes another."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from diffinv.classifiers.policies import Policy
from diffinv.classifiers.training import Training
from diffinv.studies.grid import Condition
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.real import Real

AUGMENTED = "real + augmentation"


def few_shot_conditions(
    inversion: DiffusionInversion,
    words: Synthesizer,
    training: Training,
    *,
    shots: Sequence[int],
    images_per_real: int,
    policy: Policy,
) -> list[Condition]:
    """Real images, plain and under a policy, LECF, DI and real + DI at each number of shots.

    LECF and DI make the same number of samples. A single shot has no partner, and is not interpolated.
    """
    conditions = []
    for count in shots:
        vectors = inversion if count > 1 else alone(inversion)
        conditions += [
            Condition("real", Real(), training, 1, count),
            Condition(AUGMENTED, Real(), replace(training, policy=policy), 1, count),
            Condition("LECF", words, training, images_per_real, count),
            Condition("DI", vectors, training, images_per_real, count),
            Condition("real + DI", vectors, training, images_per_real, count, with_real=True),
        ]
    return conditions


def alone(inversion: DiffusionInversion) -> DiffusionInversion:
    """The same method for images without a partner of their class: noise on the vectors, no interpolation."""
    return replace(inversion, perturbation=replace(inversion.perturbation, interpolation_weight=0))


def ahead_from(rows: pd.DataFrame, a: str, b: str) -> dict[str, float]:
    """From how many shots (`real_per_class`) on `a` is ahead of `b`: the median over the seeds.

    The difference of each seed is straight against the logarithm of the shots, and its last rise through zero
    counts. 0 stands for a seed that is ahead at every number of shots, infinity for one that is not at the
    largest. `low` and `high` are the ends over all seeds; they hold the median of all seeds that there could
    be with a chance of at least `coverage` = 1 - 2^(1 - n), whatever the distribution: a t-interval takes no
    infinity. ValueError where the two share fewer than two seeds or numbers of shots.
    """
    sides = [
        rows[rows["condition"] == name].pivot(index="real_per_class", columns="seed", values="accuracy")
        for name in (a, b)
    ]
    differences = (sides[0] - sides[1]).dropna(how="all").dropna(axis=1)
    if min(differences.shape) < 2:
        found = "{} numbers of shots and {} seeds".format(*differences.shape)
        raise ValueError(f'"{a}" and "{b}" share {found}: run at least 2 of each.')
    shots = differences.index.to_numpy(float)
    places = np.array([_last_rise(shots, differences[seed].to_numpy()) for seed in differences])
    middle = np.sort(places)[[(len(places) - 1) // 2, len(places) // 2]]
    median = middle[0] if middle[0] == middle[1] else float(middle.mean())
    ends = {"shots": float(median), "low": float(places.min()), "high": float(places.max())}
    return {**ends, "n": len(places), "coverage": 1 - 2.0 ** (1 - len(places))}


def describe_crossing(crossing: dict[str, float], shots: Sequence[int], a: str, b: str) -> str:
    """Where `a` overtakes `b`, in a sentence without its full stop."""
    fewest, most = min(shots), max(shots)

    def place(value: float) -> str:
        if value == 0:
            return f"below {fewest}"
        return f"above {most}" if value == math.inf else f"{value:.1f}"

    low, high = place(crossing["low"]), place(crossing["high"])
    interval = low if low == high else f"{low} to {high}"
    ends = f"{crossing['coverage']:.0%} interval of the median over the seeds: {interval}"
    if crossing["shots"] == 0:
        said = f"{a} is ahead of {b} from {fewest} shot on"
    elif crossing["shots"] == math.inf:
        said = f"no crossing in {fewest}-{most}: {a} is not ahead of {b} at {most}"
    else:
        said = f"{a} is ahead of {b} from {place(crossing['shots'])} shots on"
    return f"{said} ({ends})"


def _last_rise(shots: np.ndarray, differences: np.ndarray) -> float:
    behind = np.flatnonzero(differences <= 0)
    if not len(behind):
        return 0.0
    last = int(behind[-1])
    if last == len(shots) - 1:
        return math.inf
    share = differences[last] / (differences[last] - differences[last + 1])
    return math.exp(np.interp(share, [0, 1], np.log(shots[last : last + 2])))
