"""What every synthesizer is, and the one way in which samples are numbered, cached and labelled."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from diffinv.artefacts.keys import content_key, default_cache_dir, described
from diffinv.artefacts.parts import end_of_part, groups_of, own
from diffinv.artefacts.rows import RowsOnDisk, pick
from diffinv.artefacts.writing import (
    claimed,
    provenance,
    read_cached_array,
    read_cached_json,
    write_array,
    write_cached_json,
)
from diffinv.datasets import LabelledImages
from diffinv.datasets.decoding import resize_images
from diffinv.foundation.progress import progress
from diffinv.method.sampling import Sampling
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion

SAMPLES_PER_SHARD = 256  # what a kill can lose
RECIPE = 1  # part of every cache key: to be raised when the same settings would give other images

Draw = Callable[[list[int], list[int]], UInt8[np.ndarray, "sample height width 3"]]
Originals = LabelledImages | EmbeddingStore  # what samples are made from: images, or their vectors alone


@runtime_checkable
class Synthesizer(Protocol):
    """Turns a real dataset into a synthetic one: a pure function of its fields, the images and the seed."""

    def __call__(self, real: LabelledImages, *, images_per_real: int, seed: int) -> LabelledImages:
        """Make `images_per_real` images for each real one, labelled like it."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return, ready for JSON, all that the result depends on besides the real images and the seed."""
        ...


@dataclass(frozen=True)
class Stage:
    """Work done once, however many samples follow: an inversion, the training of a GAN, an index.

    `seconds` is the time of the run that did it, None where a cache of an earlier version kept none.
    `image_updates` counts gradient updates, each once for every image in its batch, so that batches of
    different sizes compare: for an inversion, images times updates of each.
    """

    name: str
    seconds: float | None
    image_updates: int = 0


def check_request(real: Originals, images_per_real: int) -> None:
    """Raise ValueError where there is nothing to synthesize."""
    if images_per_real < 1:
        raise ValueError(f"images_per_real is {images_per_real}; choose at least 1.")
    if len(real) == 0:
        raise ValueError("The real dataset holds no image; give at least one.")


def describe_model(diffusion: FrozenDiffusion) -> dict[str, str]:
    """Name the model by its content, so that a moved checkpoint keeps its cached samples."""
    return {"fingerprint": diffusion.fingerprint, "dtype": str(diffusion.dtype).removeprefix("torch.")}


def describe_settings(settings: Any) -> dict[str, Any]:
    """List a settings dataclass without its batch size, which changes only the speed."""
    return {name: value for name, value in described(settings).items() if name != "batch_size"}


def describe_sampling(sampling: Sampling) -> dict[str, Any]:
    """List the settings of samples that are drawn at the real images' side where they name none."""
    # Not None, which stood for the model's native side in earlier versions.
    return {**describe_settings(sampling), "resolution": sampling.resolution or "that of the real images"}


def numbered(count: int, images_per_real: int) -> tuple[list[int], list[int]]:
    """The source and the copy number of every sample, by copy first.

    So fewer images per real image are a prefix of more, on disk as in memory.
    """
    sources = np.tile(np.arange(count), images_per_real).tolist()
    return sources, np.repeat(np.arange(images_per_real), count).tolist()


def labelled(
    real: Originals,
    images: UInt8[np.ndarray, "sample height width 3"] | RowsOnDisk,
    sources: Sequence[int],
    copies: Sequence[int],
    record: dict[str, Any],
) -> LabelledImages:
    """Samples with the label of their source, called by it and by their copy number."""
    return LabelledImages(
        images=cast(np.ndarray, images),
        labels=np.asarray(real.labels)[list(sources)],
        class_names=real.class_names,
        ids=tuple(f"{real.ids[source]}#{copy}" for source, copy in zip(sources, copies, strict=True)),
        sources=tuple(real.ids[source] for source in sources),
        provenance=record,
    )


def sample_record(
    real: Originals,
    description: dict[str, Any],
    *,
    images_per_real: int,
    seed: int,
    started: float,
    seconds_per_sample: float,
    stages: Sequence[Stage] = (),
    **more: Any,
) -> dict[str, Any]:
    """What samples carry as their provenance; `started` is when the call began, by time.perf_counter().

    Under "cost" stand the stages and the seconds of a sample.
    """
    return provenance(
        synthesizer=description,
        seed=seed,
        images_per_real=images_per_real,
        real=real.provenance,
        real_fingerprint=real.fingerprint,
        cost={"stages": [asdict(stage) for stage in stages], "seconds_per_sample": seconds_per_sample},
        wall_seconds=round(time.perf_counter() - started, 3),
        **more,
    )


def synthesize(
    real: Originals,
    draw: Draw,
    description: dict[str, Any],
    *,
    images_per_real: int,
    seed: int,
    stages: Sequence[Stage] = (),
    **more: Any,
) -> LabelledImages:
    """Draw `images_per_real` samples of each real image, shard by shard through the cache.

    `draw(sources, copies)` makes images of any side, which are saved at the real images' side. `stages` is
    the work done before the first sample, for the record of what the samples cost; `more` goes into the
    provenance.
    """
    started = time.perf_counter()
    sources, copies = numbered(len(real), images_per_real)
    key = content_key(RECIPE, description, real.fingerprint, list(real.ids), seed)
    folder = default_cache_dir() / "samples" / key
    rows_of = {folder / f"{rows.start:08d}.npy": rows for rows in groups_of(len(sources), SAMPLES_PER_SHARD)}
    seconds: dict[Path, float] = {}
    paths = list(rows_of)
    mine = own(paths, lambda: _lacking(paths))
    for path in progress(claimed(mine), total=len(mine), desc="samples"):
        rows = slice(rows_of[path].start, rows_of[path].stop)
        seconds[path] = _cached_shard(path, real, draw, sources[rows], copies[rows])
    end_of_part(paths, lambda: _lacking(paths) > 0)
    sizes = [len(rows) for rows in rows_of.values()]
    shape = (real.resolution, real.resolution, 3)
    images = RowsOnDisk(_rows_of_shard, list(zip(paths, sizes, strict=True)), sizes, shape, np.uint8)
    record = sample_record(
        real,
        description,
        images_per_real=images_per_real,
        seed=seed,
        started=started,
        seconds_per_sample=sum(len(rows) * seconds[path] for path, rows in rows_of.items()) / len(sources),
        stages=stages,
        **more,
    )
    return labelled(real, pick(images, range(len(sources))), sources, copies, record)


def _rows_of_shard(
    piece: tuple[Path, int], rows: Sequence[int] | None
) -> UInt8[np.ndarray, "sample height width 3"]:
    path, count = piece  # a larger request may have made the shard longer
    shard = np.load(path, mmap_mode="r", allow_pickle=False)
    return shard[:count] if rows is None else shard[rows]


def _lacking(paths: Sequence[Path]) -> int:
    return sum(not path.exists() for path in paths)


def _cached_shard(path: Path, real: Originals, draw: Draw, sources: list[int], copies: list[int]) -> float:
    """Draw what a file lacks of these samples; the seconds that each took when it was drawn."""
    record = path.with_suffix(".json")  # beside the images, so that what is found does not look free
    about, images = read_cached_json(record) or {}, read_cached_array(path)
    seconds = about.get("seconds_per_sample")
    if images is None or seconds is None or about.get("checksum") != content_key(images):
        images, seconds = np.empty((0, real.resolution, real.resolution, 3), np.uint8), 0.0
    # The last shard of a smaller request is the beginning of the same shard of a larger one.
    sources, copies = sources[len(images) :], copies[len(images) :]
    if not sources:
        return seconds
    started = time.perf_counter()
    fresh = resize_images(draw(sources, copies), real.resolution)
    whole = np.concatenate([images, fresh])
    seconds = (len(images) * seconds + time.perf_counter() - started) / len(whole)
    write_cached_json(record, {"seconds_per_sample": seconds, "checksum": content_key(whole)})
    write_array(path, whole)
    return seconds
