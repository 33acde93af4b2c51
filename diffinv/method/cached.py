"""Stage 1 through the cache: vectors that were learned once are not learned again."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffinv.artefacts.engine import Engine, on_engine
from diffinv.artefacts.keys import content_key, default_cache_dir
from diffinv.artefacts.parts import end_of_part, groups_of, own
from diffinv.artefacts.rows import RowsOnDisk, pick
from diffinv.artefacts.tensors import read_header, read_rows, read_tensors, tensor_bytes
from diffinv.artefacts.writing import (
    ArtefactError,
    claimed,
    provenance,
    read_cached_json,
    write_atomically,
    write_cached_json,
)
from diffinv.datasets import LabelledImages
from diffinv.foundation.progress import progress as progress_bar
from diffinv.method.inversion import (
    RECIPE,
    Inversion,
    InversionStep,
    check_finite,
    check_invertible,
    updates_of,
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
    `engine` shares the groups among its workers (`artefacts.engine`). Raises ValueError for an unsuitable resolution and InversionDiverged for a loss that is not finite.
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
        caches[after] = InversionCache("inversion", recipe, record, cache_dir)
    keys = _image_keys(real, settings)
    learn_missing(
        caches,
        real,
        keys,
        groups_of(len(real), settings.batch_size),
        lambda images: updates_of(diffusion, images, longest),
        progress=progress,
    )
    return {after: cache.store(real, keys) for after, cache in caches.items()}


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


class InversionCache:
    """A folder of shards, one for each finished group of images; all were made with the same settings.

    A shard says in its header which images it holds, so that any subset of them, grouped in any way, finds
    them again. `recipe` is all that vectors depend on besides the image, `record` their provenance.
    """

    def __init__(
        self, kind: str, recipe: Sequence[Any], record: dict[str, Any], cache_dir: Path | None = None
    ) -> None:
        self.record = record
        self.folder = Path(cache_dir or default_cache_dir()) / kind / content_key(*recipe)
        self._places: dict[str, tuple[Path, int]] = {}  # shard, and row in it
        self._sizes: dict[Path, int] = {}
        self._intact: set[Path] = set()
        self.look()

    def look(self) -> None:
        """Take in the shards that were written since the last look, by this process or another."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._sizes.keys()):
            self._sizes[path] = 0
            with self._relearning(path):
                self._register(path, read_header(path)["keys"])

    def __contains__(self, key: str) -> bool:
        path = self._places[key][0] if key in self._places else None
        if path and path not in self._intact:
            with self._relearning(path):
                read_tensors(path)  # only shards in use are worth the reading
                self._intact.add(path)
        return key in self._places

    @contextmanager
    def _relearning(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (ArtefactError, KeyError) as error:
            # Written in one piece, so the disk has spoilt it since.
            self._places = {key: place for key, place in self._places.items() if place[0] != path}
            warnings.warn(f"the images of {path} are learned again: {error}", stacklevel=4)

    def write(
        self,
        keys: Sequence[str],
        embeddings: Float[Tensor, "image token channel"],
        losses: Float[Tensor, " image"],
        seconds: float,
    ) -> None:
        """Keep the vectors of one group and, beside them, what learning them took, which differs each time."""
        path = self.folder / f"{content_key(list(keys))}.safetensors"
        tensors = {"embeddings": embeddings.cpu(), "losses": losses.cpu()}
        write_cached_json(path.with_suffix(".json"), {"seconds": seconds, "provenance": self.record})
        with write_atomically(path) as file:
            file.write(tensor_bytes(tensors, {"keys": list(keys)}))
        self._register(path, keys)

    def store(self, real: LabelledImages, keys: Sequence[str]) -> EmbeddingStore:
        """The vectors of these images, each under its key; KeyError if one is not there."""
        paths = list(dict.fromkeys(self._places[key][0] for key in keys))
        number = {path: at for at, path in enumerate(paths)}
        found = [self._places[key] for key in keys]
        places = np.array([number[path] for path, _ in found]), np.array([row for _, row in found])
        first, sizes = read_rows(paths[0], ("embeddings",), [0]), [self._sizes[path] for path in paths]
        how: dict[str, Any] = {"places": places, "wrap": torch.from_numpy}
        vectors, losses = (
            RowsOnDisk(partial(_read, name), paths, sizes, shape, np.float32, **how)
            for name, shape in (("embeddings", first["embeddings"].shape[1:]), ("losses", ()))
        )
        used = np.bincount(places[0], minlength=len(paths))
        shares = [self._seconds(path) * use / size for path, use, size in zip(paths, used, sizes, strict=True)]
        seconds = float(np.sum(shares))
        return EmbeddingStore(
            embeddings=pick(vectors, range(len(keys))),
            labels=torch.tensor(real.labels, dtype=torch.int64),
            class_names=real.class_names,
            ids=real.ids,
            losses=losses[:],
            provenance={**self.record, "learning_seconds": None if np.isnan(seconds) else round(seconds, 3)},
        )

    def _seconds(self, path: Path) -> float:
        # Earlier versions kept them in the shard itself, and still earlier ones nowhere.
        about = read_cached_json(path.with_suffix(".json")) or read_header(path)
        return about.get("seconds") or np.nan

    def _register(self, path: Path, keys: Sequence[str]) -> None:
        self._sizes[path] = len(keys)
        for row, key in enumerate(keys):
            self._places.setdefault(key, (path, row))


def _read(name: str, path: Path, rows: Sequence[int] | None) -> np.ndarray:
    return (read_tensors(path)[0] if rows is None else read_rows(path, (name,), rows))[name].numpy()


def learn_missing(
    caches: Mapping[int, InversionCache],
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

    mine = own(groups, sum(map(bool, map(lacking, groups))))
    missing = {caches[max(caches)].folder / keys[g[0]]: g for g in map(lacking, mine) if g}

    def steps() -> Iterator[None]:
        for path in claimed(missing):
            for cache in caches.values():
                cache.look()
            if not (group := lacking(missing[path])):
                continue  # another process has learned it meanwhile
            images, losses, started = real.subset(group), [], time.perf_counter()
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
