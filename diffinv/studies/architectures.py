"""Does Diffusion Inversion help every architecture (Fig. 7c)? The conditions of that comparison."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from diffinv.classifiers.training import Training
from diffinv.foundation import ASSETS
from diffinv.studies.grid import Condition
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.real import Real

# What `python -m benchmarks.learning_rates` tries of each architecture, the usual one first.
CANDIDATES = (0.1, 0.03, 0.3)
LEARNING_RATES = ASSETS / "learning_rates.csv"


def learning_rates() -> dict[str, float]:
    """The rate of each architecture that was chosen on validation images; others take the profile's."""
    rows = pd.read_csv(LEARNING_RATES)
    return rows[rows["chosen"]].groupby("architecture")["learning_rate"].first().to_dict()


def architecture_conditions(
    architectures: Sequence[str],
    synthesizer: Synthesizer,
    training: Training,
    *,
    images_per_real: int,
    real_per_class: int,
) -> list[Condition]:
    """Real images, samples alone, and both, for each architecture at its own learning rate."""
    rates = learning_rates()
    conditions = []
    for name in architectures:
        own = replace(training, architecture=name, learning_rate=rates.get(name, training.learning_rate))
        shared = (own, images_per_real, real_per_class)
        axes = {"architecture": name}
        conditions += [
            Condition("real", Real(), own, 1, real_per_class, axes=axes),
            Condition("DI", synthesizer, *shared, axes=axes),
            Condition("real + DI", synthesizer, *shared, with_real=True, axes=axes),
        ]
    return conditions
