"""The classifier as upstream reports it: tested while it trains, and the best look at the test set kept."""

from dataclasses import dataclass

import torch

from diffinv.classifiers.training import Training, training_steps
from diffinv.datasets import LabelledImages
from diffinv.synthesizers.upstream.settings import Switches

NUM_EVALUATIONS = 20  # upstream's looks at the test set in one training


@dataclass(frozen=True)
class TestedClassifier:
    """What a training scored on the test set, and by which rule the score was chosen."""

    __test__ = False  # pytest takes every class whose name begins so for tests

    accuracy: float  # from 0 to 1, by `selection`; under "best_on_test" it is biased upwards
    selection: str  # "last_step" or "best_on_test"
    step: int  # optimiser steps, from 1, of the classifier that scored it
    looks: tuple[tuple[int, float], ...]  # (optimiser steps, accuracy), the last step being the last


def train_and_test(
    train: LabelledImages,
    test: LabelledImages,
    settings: Training,
    switches: Switches,
    *,
    seed: int,
    device: str | torch.device | None = None,
) -> TestedClassifier:
    """Train a classifier and report its accuracy, of the last step or, as upstream, of the best look.

    The training is the same for both. The looks are those of upstream: after the first step and then every
    twentieth of all steps; the accuracy after the last step, where it is not one of them, cannot be chosen.
    """
    every = max(1, settings.optimiser_steps // NUM_EVALUATIONS)
    looks = []
    for state in training_steps(train, settings, seed=seed, device=device):
        if state.step % every == 0:
            looks.append((state.step + 1, state.classifier.accuracy(test)))
    best = max(looks, key=lambda look: look[1])  # the first of equals, as upstream
    if looks[-1][0] < settings.optimiser_steps:
        looks.append((settings.optimiser_steps, state.classifier.accuracy(test)))
    step, accuracy = best if switches.selection == "best_on_test" else looks[-1]
    return TestedClassifier(accuracy, switches.selection, step, tuple(looks))
