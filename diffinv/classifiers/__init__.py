"""Image classifiers: the judges of every synthetic set, small enough to train dozens of them."""

from diffinv.classifiers.architectures import ARCHITECTURES, build_classifier
from diffinv.classifiers.augmentation import augment
from diffinv.classifiers.training import (
    Classifier,
    Training,
    TrainingDiverged,
    TrainingStep,
    train_classifier,
    training_steps,
)

__all__ = [
    "ARCHITECTURES",
    "Classifier",
    "Training",
    "TrainingDiverged",
    "TrainingStep",
    "augment",
    "build_classifier",
    "train_classifier",
    "training_steps",
]
