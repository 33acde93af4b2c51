"""Stage 1 through the cache: vectors that were learned once are not learned again."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from diffinv.artefacts.engine import Engine, on_engine
from diffinv.artefacts.keys import content_key
from diffinv.artefacts.parts import end_of_part, groups_of, own
from diffinv.artefacts.vectors import VectorCache
from diffinv.artefacts.writing import claimed, provenance
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
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion


def invert(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    settings: Inversion | None = None,
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    engine: Engine | str | None = None,
) -> EmbeddingStore:
    """Learn, or take from the cache, the vectors of every image.

    The vectors of an image depend on the model, the settings, its pixels and its id (and its class name if
    they start from it); to float tolerance, not on the other images. Each finished group of `batch_size`
    images is cached at once: an interrupted run loses one group, and a subset of the images is free. An
    `engine` shares the groups among its workers (`artefacts.engine`). Raises ValueError for an unsuitable
    resolution and InversionDiverged for a loss that is not finite.
    """
    settings = settings or Inversion()
    last = (settings.steps_per_image,)
    how: dict[str, Any] = {"cache_dir": cache_dir, "progress": progress, "engine": engine}
    return inversion_path(diffusion, real, settings, last, **how)[last[0]]


def inversion_path(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    settings: Inversion,
    updates: Sequence[int],
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    engine: Engine | str | None = None,
) -> dict[int, EmbeddingStore]:
    """The vectors of every image after each of these numbers of updates, learned in one go.

    Each is what `invert` gives, and caches, with `steps_per_image` so many; `settings.steps_per_image` itself
    has no bearing. ValueError for no number of updates, or one below 1; else raises as `invert` does.
    """
    check_invertible(diffusion, real, settings)
    if not updates or min(updates) < 1:
        raise ValueError(f"updates are {list(updates)}: give at least one number, each of at least 1.")
    return on_engine(engine, _path, diffusion, real, settings, updates, cache_dir, progress)


def _path(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    settings: Inversion,
    updates: Sequence[int],
    cache_dir: Path | None,
    progress: bool,
) -> dict[int, EmbeddingStore]:
    stops = {after: replace(settings, steps_per_image=after) for after in sorted(set(updates))}
    longest = stops[max(stops)]
    caches, model = {}, (RECIPE, diffusion.fingerprint, str(diffusion.dtype))
    for after, stop in stops.items():
        # The batch size is no part of the key: it does not change the vectors.
        recipe = (*model, replace(stop, batch_size=1), real.resolution)
        record = inversion_record(diffusion, real.resolution, stop)
        caches[after] = VectorCache("inversion", recipe, record, cache_dir)
    keys = _image_keys(real, settings)
    learn_missing(
        caches,
        real,
        keys,
        groups_of(len(real), settings.batch_size),
        lambda images: inversion_steps(diffusion, images, longest),
        progress=progress,
    )
    return {after: store_of(cache, real, keys) for after, cache in caches.items()}


def inversion_record(
    diffusion: FrozenDiffusion, resolution: int, settings: Inversion, **more: Any
) -> dict[str, Any]:
    """Where vectors come from: model, resolution, precision, device, settings, and `more`."""
    return provenance(
        model=diffusion.name,
        model_fingerprint=diffusion.fingerprint,
        resolution=resolution,
        dtype=str(diffusion.dtype),
        device=str(diffusion.device),
        settings=asdict(settings),
        **more,
    )


def store_of(cache: VectorCache, real: LabelledImages, keys: Sequence[str]) -> EmbeddingStore:
    """The vectors of these images, each under its key; KeyError if one is not there."""
    vectors, losses, seconds = cache.read(keys)
    return EmbeddingStore(
        embeddings=vectors,
        labels=torch.tensor(real.labels, dtype=torch.int64),
        class_names=real.class_names,
        ids=real.ids,
        losses=losses,
        provenance={**cache.record, "learning_seconds": seconds},
    )


def learn_missing(
    caches: Mapping[int, VectorCache],
    real: LabelledImages,
    keys: Sequence[str],
    groups: Sequence[Sequence[int]],
    learn: Callable[[LabelledImages], Iterator[InversionStep]],
    *,
    desc: str = "inversion",
    averaged_share: float = 0.1,
    progress: bool = True,
) -> None:
    """Learn the images that no cache has, group by group, each cached as soon as it is done.

    `caches[n]` takes the vectors after n updates, and the mean of the last `averaged_share` of the losses.
    Groups are cut before looking into the caches: a resumed run has those of the first one, and its bits.
    """

    def lacking(group: Sequence[int]) -> list[int]:
        return [index for index in group if any(keys[index] not in cache for cache in caches.values())]

    def any_lacks() -> bool:
        for cache in caches.values():
            cache.look()
        return any(map(lacking, groups))

    mine = own(groups, lambda: sum(map(bool, map(lacking, groups))))
    missing = {caches[max(caches)].folder / keys[g[0]]: g for g in map(lacking, mine) if g}

    def steps() -> Iterator[None]:
        for path in claimed(missing):
            for cache in caches.values():
                cache.look()
            if not (group := lacking(missing[path])):
                continue  # another process has learned it meanwhile
            images, losses, started = real.subset(group), [], time.perf_counter()
            last = max(stop for stop, cache in caches.items() if any(keys[i] not in cache for i in group))
            for step in learn(images):
                losses.append(step.losses)
                yield
                if step.step not in caches:
                    continue
                check_finite(step.losses, step.embeddings, images.ids, step.step)
                tail = losses[-max(1, int(averaged_share * step.step)) :]
                caches[step.step].write(
                    [keys[index] for index in group],
                    step.embeddings,
                    torch.stack(tail).mean(dim=0),
                    time.perf_counter() - started,
                )
                if step.step == last:  # the rest of the way is in the cache
                    break

    for _ in progress_bar(steps(), len(missing) * max(caches), desc, enabled=progress and bool(missing)):
        pass
    end_of_part(groups, any_lacks)


def _image_keys(real: LabelledImages, settings: Inversion) -> list[str]:
    prompts: list[str | tuple[str, ...]] = [""] * len(real)
    if settings.initialisation == "class_prompt":
        prompts = [real.class_names[label] for label in real.labels]
    elif settings.initialisation == "mean_prompt":
        prompts = [real.class_names] * len(real)
    return [
        content_key(image_id, pixels, prompt)
        for image_id, pixels, prompt in zip(real.ids, real.images, prompts, strict=True)
    ]
