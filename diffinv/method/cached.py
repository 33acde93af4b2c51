"""Stage 1 through the cache: vectors that were learned once are not learned again."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.writing import provenance
from diffinv.datasets import LabelledImages
from diffinv.foundation.progress import progress as progress_bar
from diffinv.method.inversion import (
    RECIPE,
    Inversion,
    InversionStep,
    check_finite,
    check_invertible,
    inversion_steps,
)
from diffinv.method.inversion_cache import InversionCache
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion


def invert(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    settings: Inversion | None = None,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> EmbeddingStore:
    """Learn, or take from the cache, the vectors of every image.

    The vectors of an image depend on the model, the settings, its pixels and its id (and its class name if
    they start from it); to float tolerance, not on the other images. Each finished group of `batch_size`
    images is cached at once: an interrupted run loses one group, and a subset of the images is free.
    Raises ValueError for an unsuitable resolution and InversionDiverged for a loss that is not finite.
    """
    settings = settings or Inversion()
    last = settings.steps_per_image
    return inversion_path(diffusion, real, settings, (last,), cache_dir=cache_dir, progress=progress)[last]


def inversion_path(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    settings: Inversion,
    updates: Sequence[int],
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> dict[int, EmbeddingStore]:
    """The vectors of every image after each of these numbers of updates, learned in one go.

    Each is what `invert` gives, and caches, with `steps_per_image` so many; `settings.steps_per_image` itself
    has no bearing. ValueError for no number of updates, or one below 1; else raises as `invert` does.
    """
    check_invertible(diffusion, real, settings)
    if not updates or min(updates) < 1:
        raise ValueError(f"updates are {list(updates)}: give at least one number, each of at least 1.")
    stops = {after: replace(settings, steps_per_image=after) for after in sorted(set(updates))}
    settings = stops[max(stops)]
    root = cache_dir or default_cache_dir()
    caches = {
        after: InversionCache(_cache_folder(diffusion, real, stop, root)) for after, stop in stops.items()
    }
    keys = _image_keys(real, settings)
    # Groups are cut by position before looking into the cache: a resumed run has the groups of the first
    # one, and with them its very bits.
    positions = range(len(real))
    groups = [positions[start : start + settings.batch_size] for start in positions[:: settings.batch_size]]
    missing = [
        [index for index in group if any(keys[index] not in cache for cache in caches.values())]
        for group in groups
    ]
    missing = [group for group in missing if group]
    steps = _fill(caches, diffusion, real, settings, keys, missing)
    total = len(missing) * settings.steps_per_image
    for _ in progress_bar(steps, total=total, desc="inversion", enabled=progress and total > 0):
        pass
    stores = {}
    for after, stop in stops.items():
        record = inversion_record(diffusion, real, stop)
        record["learning_seconds"] = caches[after].seconds(keys)
        stores[after] = stored_vectors(caches[after], real, keys, record)
    return stores


def stored_vectors(
    cache: InversionCache, real: LabelledImages, keys: Sequence[str], record: dict
) -> EmbeddingStore:
    """The cached vectors of these images, each under its key, with `record` as their provenance."""
    embeddings, losses = cache.read(keys)
    return EmbeddingStore(
        embeddings=embeddings,
        labels=torch.tensor(real.labels, dtype=torch.int64),
        class_names=tuple(real.class_names),
        ids=tuple(real.ids),
        losses=losses,
        provenance=record,
    )


def _fill(
    caches: Mapping[int, InversionCache],
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    settings: Inversion,
    keys: Sequence[str],
    groups: Sequence[Sequence[int]],
) -> Iterator[InversionStep]:
    """Learn the vectors of the groups; cache each after so many updates as its cache is for."""
    for group in groups:
        images, losses, started = real.subset(group), [], time.perf_counter()
        for step in inversion_steps(diffusion, images, settings):
            losses.append(step.losses)
            yield step
            if step.step not in caches:
                continue
            check_finite(step.losses, step.embeddings, images.ids, step.step)
            tail = max(1, step.step // 10)
            caches[step.step].write(
                [keys[index] for index in group],
                step.embeddings,
                torch.stack(losses[-tail:]).mean(dim=0),
                inversion_record(diffusion, real, replace(settings, steps_per_image=step.step)),
                time.perf_counter() - started,
            )


def _cache_folder(
    diffusion: FrozenDiffusion, real: LabelledImages, settings: Inversion, cache_dir: Path
) -> Path:
    # The batch size is no part of it: it does not change the vectors.
    recipe = content_key(
        RECIPE, diffusion.fingerprint, str(diffusion.dtype), replace(settings, batch_size=1), real.resolution
    )
    return Path(cache_dir) / "inversion" / recipe


def _image_keys(real: LabelledImages, settings: Inversion) -> list[str]:
    prompts: list[str | tuple[str, ...]] = [""] * len(real)
    if settings.initialisation == "class_prompt":
        prompts = [real.class_names[label] for label in real.labels]
    elif settings.initialisation == "mean_prompt":
        prompts = [tuple(real.class_names)] * len(real)
    return [
        content_key(image_id, pixels, prompt)
        for image_id, pixels, prompt in zip(real.ids, real.images, prompts, strict=True)
    ]


def inversion_record(
    diffusion: FrozenDiffusion, real: LabelledImages, settings: Inversion, **more: Any
) -> dict:
    """Where vectors come from: model, resolution, precision, device, settings, and `more`."""
    return provenance(
        model=diffusion.name,
        model_fingerprint=diffusion.fingerprint,
        resolution=real.resolution,
        dtype=str(diffusion.dtype),
        device=str(diffusion.device),
        settings=asdict(settings),
        **more,
    )
