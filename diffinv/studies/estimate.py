"""What a run will take in time, memory and disk, from an update and a denoising step measured here."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pandas as pd
import torch

from diffinv.classifiers.training import Training, training_steps
from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import stream
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.method.sampling import Sampling, denoising_steps, initial_noise, planned_steps, prepare_scheduler
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.models.memory import peak_memory, reset_peak_memory
from diffinv.synthesizers.base import SAMPLES_PER_SHARD

REPEATS = 2  # steps behind each median, after one that warms up
MOST_ON_CPU = 64  # samples that are timed at once where time is proportional to their number
_PROVENANCE_BYTES = 1500  # settings and versions, beside the vectors


@dataclass(frozen=True)
class Measured:
    """One batch of a stage: what it costs once, and at each of its steps."""

    setup_seconds: float
    step_seconds: float
    peak_bytes: int | None  # `models.memory.peak_memory`


@dataclass(frozen=True)
class StageEstimate:
    """What one stage of a run will take."""

    stage: str
    work: str
    seconds: float
    peak_bytes: int | None
    disk_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a run will take, stage by stage."""

    stages: tuple[StageEstimate, ...]

    def __add__(self, other: "Estimate") -> "Estimate":
        """What both runs will take, one after the other."""
        return Estimate(self.stages + other.stages)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_bytes(self) -> int | None:
        """Of the stage that needs most: they follow one another."""
        return max((stage.peak_bytes for stage in self.stages if stage.peak_bytes is not None), default=None)

    @property
    def disk_bytes(self) -> int:
        return sum(stage.disk_bytes for stage in self.stages)

    def table(self) -> pd.DataFrame:
        """One row per stage and one for all of them, in seconds, GiB of memory and MiB of disk."""
        total = StageEstimate("all", "", self.seconds, self.peak_bytes, self.disk_bytes)
        rows = pd.DataFrame([*self.stages, total])
        rows["peak_gib"] = rows.pop("peak_bytes").astype(float) / 2**30
        rows["disk_mib"] = rows.pop("disk_bytes") / 2**20
        return rows.round({"seconds": 1, "peak_gib": 2, "disk_mib": 2})


def estimate(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    *,
    images_per_real: int = 1,
    inversion: Inversion | None = None,
    sampling: Sampling | None = None,
    training: Training | None = None,
    num_classifiers: int = 1,
) -> Estimate:
    """What `DiffusionInversion` of these images, and then classifiers on its samples, will take.

    Measured with the batches (on a CPU with fewer samples, and so less memory for these) and at the side that
    the run will have, as if nothing were cached; takes a few updates, denoising steps and, where `training`
    is given, optimiser steps. Left out are downloading and hashing the checkpoint, and judging the
    classifiers. Disk is what the cache keeps: vectors and samples.
    """
    if not len(real):
        raise ValueError("there is no image to estimate the work for: give a dataset with at least one.")
    inversion, sampling = inversion or Inversion(), sampling or Sampling()
    resolution = sampling.resolution or real.resolution
    sampling = replace(sampling, resolution=resolution)
    batch = min(inversion.batch_size, len(real))
    update = measure_update(diffusion, real.subset(range(batch)).resize(resolution), inversion)
    num_steps = inversion.steps_per_image
    work = f"{num_steps} updates of {len(real)} images at {resolution} px, {batch} at once"
    disk_bytes = embedding_bytes(real, inversion.num_tokens, diffusion.embedding_width)
    stages = [_stage("inversion", work, update, len(real) / batch, num_steps, disk_bytes)]

    count = images_per_real * len(real)
    batch = min(sampling.batch_size, SAMPLES_PER_SHARD, count)
    timed_at_once = min(batch, MOST_ON_CPU) if diffusion.device.type == "cpu" else batch
    step = measure_denoising(diffusion, timed_at_once, inversion.num_tokens, sampling)
    # Some schedulers take more steps than they are asked for.
    num_steps = len(planned_steps(diffusion, prepare_scheduler(diffusion, sampling), sampling))
    work = f"{num_steps} steps of {count} samples at {resolution} px, {batch} at once"
    disk_bytes = count * 3 * real.resolution**2 + 128 * math.ceil(count / SAMPLES_PER_SHARD)
    stages.append(_stage("sampling", work, step, count / timed_at_once, num_steps, disk_bytes))

    if training is not None:
        trainings = training_steps(real, training, seed=0, device=diffusion.device)
        step = _measure(islice(trainings, 1 + REPEATS), diffusion.device)
        num_steps = training.optimiser_steps
        work = f"{num_steps} steps of {training.batch_size} images, {num_classifiers} times"
        stages.append(_stage("classifiers", work, step, num_classifiers, num_steps, 0))
    return Estimate(tuple(stages))


def measure_update(diffusion: FrozenDiffusion, images: LabelledImages, settings: Inversion) -> Measured:
    """One update of all these images side by side; its setup is their encoding."""
    settings = replace(settings, steps_per_image=1 + REPEATS)
    next(inversion_steps(diffusion, images, settings))  # the first of a process is slower than any other
    return _measure(inversion_steps(diffusion, images, settings), diffusion.device)


def measure_denoising(
    diffusion: FrozenDiffusion, count: int, num_tokens: int, settings: Sampling
) -> Measured:
    """One denoising step of so many samples side by side; its setup is their decoding."""
    streams = [stream(0, "estimate", row) for row in range(count)]
    vectors = torch.stack([torch.randn(num_tokens, diffusion.embedding_width, generator=s) for s in streams])
    settings = replace(settings, strength=1.0, guidance_interval=(0.0, 1.0))  # the dearest step there is
    steps = denoising_steps(diffusion, vectors, vectors[:1], settings, streams)
    denoising = _measure(islice(steps, 1 + REPEATS), diffusion.device)
    latents = initial_noise(diffusion, settings, streams)
    diffusion.decode(latents[:1])  # the first of a process is slower than any other
    decoding = timed(lambda: diffusion.decode(latents), diffusion.device)
    return replace(denoising, setup_seconds=decoding, peak_bytes=peak_memory(diffusion.device))


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the device has done the work."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def embedding_bytes(real: LabelledImages, num_tokens: int, embedding_width: int) -> int:
    """Bytes of the images' vectors on disk, as an `EmbeddingStore` or in the cache."""
    ids = len(json.dumps(json.dumps(real.ids)))  # text in the header, which is JSON itself
    return len(real) * (4 * num_tokens * embedding_width + 8 + 4) + ids + _PROVENANCE_BYTES


def _measure(steps: Iterator[Any], device: torch.device) -> Measured:
    reset_peak_memory(device)
    seconds = []
    with suppress(StopIteration):
        while True:
            seconds.append(timed(lambda: next(steps), device))
    first, *later = seconds
    step = statistics.median(later) if later else first
    return Measured(max(0.0, first - step), step, peak_memory(device))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _stage(
    name: str, work: str, cost: Measured, batches: float, num_steps: int, disk_bytes: int
) -> StageEstimate:
    # Of a part of a batch, the last one, the steps are faster by as much; the setup is not.
    seconds = math.ceil(batches) * cost.setup_seconds + batches * num_steps * cost.step_seconds
    return StageEstimate(name, work, seconds, cost.peak_bytes, disk_bytes)
