"""Training a classifier for a fixed number of optimiser steps, and what comes out: a Classifier."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from diffinv.artefacts.keys import ABSENT_AT_DEFAULT
from diffinv.classifiers.architectures import build_classifier, check_architecture
from diffinv.classifiers.augmentation import Augmentation, augment
from diffinv.classifiers.policies import Policy, distort
from diffinv.datasets import LabelledImages
from diffinv.foundation.checks import check_fields
from diffinv.foundation.networks import best_device, go_faster
from diffinv.foundation.progress import progress as progress_bar
from diffinv.foundation.randomness import stream

Images = UInt8[np.ndarray, "image height width 3"]


class TrainingDiverged(ValueError):
    """The loss of a classifier became infinite or not a number."""


@dataclass(frozen=True)
class Training:
    """How a classifier is trained: SGD, linear warm-up, cosine decay to zero (section 4.1 of the paper)."""

    architecture: str = "resnet18"
    optimiser_steps: int = 2000  # fixed, so that more images never mean more training
    batch_size: int = 128
    learning_rate: float = 0.1  # at the end of the warm-up
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_steps: int = 100
    augmentation: Augmentation = "crop_flip"
    label_smoothing: float = 0.0
    # Of each batch, where real images and samples are there; None = as many as there are, all equally often.
    synthetic_share: float | None = 0.5
    policy: Policy = field(default="none", metadata=ABSENT_AT_DEFAULT)  # after the crops and flips
    # Of a batch with real images and samples, normalise either half by its own mean and deviation; those of
    # the real images alone are kept for evaluation (AdvProp, arXiv 1911.09665).
    split_batch_norm: bool = field(default=False, metadata=ABSENT_AT_DEFAULT)
    fast: bool = field(default=False, metadata=ABSENT_AT_DEFAULT)  # compiled, activations in bfloat16

    def __post_init__(self) -> None:
        check_architecture(self.architecture)
        check_fields(
            self,
            at_least={"optimiser_steps": 1, "batch_size": 2, "warmup_steps": 0, "weight_decay": 0},
            above_zero=("learning_rate",),
            below_one=("momentum", "label_smoothing"),
            between={"synthetic_share": (0, 1)},
        )
        if self.warmup_steps >= self.optimiser_steps:
            spent = f"warmup_steps is {self.warmup_steps} of {self.optimiser_steps} optimiser_steps"
            raise ValueError(f"{spent}: choose a shorter warm-up.")
        if self.split_batch_norm and self.policy in ("mixup", "cutmix"):
            raise ValueError(f"policy {self.policy!r} mixes what split_batch_norm splits: drop one of them.")
        if self.split_batch_norm and self.synthetic_share in (0, 1):
            share = f"synthetic_share is {self.synthetic_share} and leaves split_batch_norm nothing to split"
            raise ValueError(f"{share}: choose one between 0 and 1.")

    def of_length(self, optimiser_steps: int) -> "Training":
        """The same with so many steps, of which at most a quarter are the warm-up."""
        warmup_steps = min(self.warmup_steps, optimiser_steps // 4)
        return replace(self, optimiser_steps=optimiser_steps, warmup_steps=warmup_steps)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.optimiser_steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class Classifier:
    """A network with the classes, the resolution and the colour statistics of its training images."""

    def __init__(self, model: nn.Module, train: LabelledImages, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.class_names = train.class_names
        self.resolution = train.resolution
        # On integers, so that the statistics do not depend on the order of a long floating-point sum.
        pixels = np.asarray(train.images).reshape(-1, 3)
        mean = pixels.sum(axis=0, dtype=np.int64) / len(pixels)
        square = sum(np.square(image.reshape(-1, 3).astype(np.int64)).sum(axis=0) for image in train.images)
        std = np.sqrt(np.maximum(square / len(pixels) - mean**2, 0))
        if colours := getattr(model, "colours", None):  # a pretrained network knows pixels by its own
            mean, std = 255 * np.array(colours)
        self.mean = torch.tensor(mean, dtype=torch.float32, device=self.device)
        # A channel that never varies says nothing; dividing by its deviation would say infinity.
        self.std = torch.tensor(np.maximum(std, 1.0), dtype=torch.float32, device=self.device)

    def normalise(
        self, images: UInt8[Tensor, "image side side 3"] | Float[Tensor, "image side side 3"]
    ) -> Float[Tensor, "image 3 side side"]:
        """Pixels with mean 0 and deviation 1 over the training set, in torch's order of axes."""
        return ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)

    @torch.no_grad()
    def logits(self, images: Images, *, batch_size: int = 256) -> Float[Tensor, "image label"]:
        """Unnormalised log-probabilities, on the CPU. ValueError for images of another resolution."""
        if images.shape[1:3] != (self.resolution, self.resolution):
            known, found = f"{self.resolution} px", f"{images.shape[1]}x{images.shape[2]} px"
            raise ValueError(f"the classifier knows images of {known}, not of {found}: resize them first.")
        was_training = self.model.training
        self.model.eval()
        batches = torch.from_numpy(np.ascontiguousarray(images)).split(batch_size)
        logits = [self.model(self.normalise(batch.to(self.device))).cpu() for batch in batches]
        self.model.train(was_training)
        return torch.cat(logits)

    def predict(self, images: Images) -> Int[np.ndarray, " image"]:
        """The most probable label of each image."""
        return self.logits(images).argmax(dim=1).numpy()

    def accuracy(self, labelled: LabelledImages) -> float:
        """Share of the images whose label is predicted, from 0 to 1."""
        return self.accuracies(labelled)[0]

    def accuracies(self, labelled: LabelledImages) -> tuple[float, dict[str, float]]:
        """That of all images, and that within each class; nan for a class without an image."""
        if labelled.class_names != self.class_names:
            raise ValueError(
                "the images have classes that the classifier was not trained on: give the same ones."
            )
        if len(labelled) == 0:
            raise ValueError("there is no image to judge: give at least one.")
        hits = self.predict(labelled.images) == labelled.labels
        counts = np.bincount(labelled.labels, minlength=len(self.class_names))
        right = np.bincount(labelled.labels, weights=hits, minlength=len(self.class_names))
        shares = np.divide(right, counts, out=np.full(len(counts), np.nan), where=counts > 0)
        return float(hits.mean()), dict(zip(self.class_names, shares.tolist(), strict=True))


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step just done; `classifier` is the live one, which the next step changes."""

    step: int  # from 0
    loss: float  # of this batch, before the step
    learning_rate: float
    classifier: Classifier


def training_steps(
    train: LabelledImages, settings: Training, *, seed: int, device: str | torch.device | None = None
) -> Iterator[TrainingStep]:
    """Train step by step, a pure function of the images, the settings and the seed.

    To the last bit on one machine with one number of threads. ValueError for images of a single class,
    TrainingDiverged for a loss that is not finite.
    """
    if len(np.unique(train.labels)) < 2:
        raise ValueError("the training images are of one class only: a classifier needs at least 2.")
    generator = stream(seed, "classifier", "weights")
    model = build_classifier(settings.architecture, train.num_classes, train.resolution, generator=generator)
    model = go_faster(model) if settings.fast else model
    classifier = Classifier(model.train(), train, device or best_device())
    is_sample = _which_are_samples(train)
    split = settings.split_batch_norm and 0 < int(is_sample.sum()) < len(train)
    images = torch.from_numpy(np.ascontiguousarray(train.images)).to(classifier.device)
    labels = torch.from_numpy(train.labels).to(classifier.device)
    optimiser = torch.optim.SGD(
        classifier.model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    batches = _batches(train, settings, seed)
    crops = stream(seed, "classifier", "augmentation")
    changes = stream(seed, "classifier", "policy")
    for step in range(settings.optimiser_steps):
        chosen = next(batches)
        indices = chosen.to(classifier.device)
        cropped = augment(images[indices], settings.augmentation, crops)
        distorted, targets = distort(
            cropped, labels[indices], settings.policy, changes, num_classes=train.num_classes
        )
        pixels = classifier.normalise(distorted)
        optimiser.param_groups[0]["lr"] = settings.learning_rate_at(step)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            with torch.autocast(classifier.device.type, torch.bfloat16, enabled=settings.fast):
                if split:
                    logits = _in_halves(classifier.model, pixels, is_sample[chosen].to(classifier.device))
                else:
                    logits = classifier.model(pixels)
            logits = logits.float()
            objective = F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
            optimiser.zero_grad()
            objective.backward()
            optimiser.step()
        loss = objective.item()
        if not math.isfinite(loss):
            remedy = f"choose a learning rate below {settings.learning_rate}"
            raise TrainingDiverged(f"the classifier's loss became {loss} at step {step}: {remedy}.")
        yield TrainingStep(step, loss, settings.learning_rate_at(step), classifier)


def train_classifier(
    train: LabelledImages,
    settings: Training,
    *,
    seed: int,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Classifier:
    """Drain `training_steps` and return the classifier of the last step.

    # differs from upstream: never the best checkpoint on the test set.
    """
    steps = training_steps(train, settings, seed=seed, device=device)
    for _last in progress_bar(steps, total=settings.optimiser_steps, desc="classifier", enabled=progress):
        pass
    return _last.classifier


def _in_halves(
    model: nn.Module, pixels: Float[Tensor, "image 3 side side"], is_sample: Bool[Tensor, " image"]
) -> Float[Tensor, "image label"]:
    """Logits of real images and of samples, each half normalised apart; the samples' statistics are not kept.

    ValueError for a network without batch norm, which this would not change.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        raise ValueError("the architecture has no batch norm: set split_batch_norm=False.")
    order = torch.argsort(is_sample.int(), stable=True)
    real, samples = pixels[order].split([int((~is_sample).sum()), int(is_sample.sum())])
    halves = [model(real)] if len(real) else []
    if len(samples):
        for layer in norms:
            layer.track_running_stats = False
        halves.append(model(samples))
        for layer in norms:
            layer.track_running_stats = True
    return torch.cat(halves)[torch.argsort(order)]


def _which_are_samples(train: LabelledImages) -> Bool[Tensor, " image"]:
    return torch.from_numpy(np.array(train.ids) != np.array(train.sources or train.ids))


def _batches(train: LabelledImages, settings: Training, seed: int) -> Iterator[Int[Tensor, " index"]]:
    size, share = settings.batch_size, settings.synthetic_share
    synthetic = _which_are_samples(train).numpy()
    if share is None or synthetic.all() or not synthetic.any():
        every = _EndlessRow(np.arange(len(train)), stream(seed, "classifier", "batches"))
        while True:
            yield every.take(size)
    # The real images come in the same order whatever the samples are.
    real = _EndlessRow(np.flatnonzero(~synthetic), stream(seed, "classifier", "batches"))
    samples = _EndlessRow(np.flatnonzero(synthetic), stream(seed, "classifier", "synthetic batches"))
    chances = stream(seed, "classifier", "share")
    while True:
        # A share that does not divide the batch holds on average: 12.8 are 13 in four of five batches.
        count = math.floor(share * size + float(torch.rand((), generator=chances)))
        yield torch.cat([samples.take(count), real.take(size - count)])


class _EndlessRow:
    """Permutations of the same indices end to end, so that each comes as often as any other.

    A set smaller than a batch still fills it.
    """

    def __init__(self, indices: Int[np.ndarray, " index"], generator: torch.Generator) -> None:
        self._indices, self._generator = torch.from_numpy(indices), generator
        self._waiting = self._indices[:0]

    def take(self, count: int) -> Int[Tensor, " index"]:
        while len(self._waiting) < count:
            order = torch.randperm(len(self._indices), generator=self._generator)
            self._waiting = torch.cat([self._waiting, self._indices[order]])
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken
