"""The practitioner's verbs behind the command line: invert a folder, sample a store, and is it worth it?"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from diffinv.artefacts.writing import provenance, write_json
from diffinv.datasets import LabelledImages, load_dataset
from diffinv.foundation.randomness import stream
from diffinv.lessons.profiles import Profile, load_profile
from diffinv.method.cached import invert
from diffinv.method.perturbation import Perturbation, conditioning_for, unconditional_embedding
from diffinv.method.sampling import Sampling, sample
from diffinv.method.store import EmbeddingStore
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion

if TYPE_CHECKING:
    import pandas as pd

Settings = TypeVar("Settings")

LEAST_SEEDS = 3  # with fewer, an interval says nothing
IMAGES_PER_REAL = 5
REAL, SYNTHETIC, BOTH = "real", "synthetic", "real + synthetic"


def invert_folder(options: argparse.Namespace) -> EmbeddingStore:
    """Learn the vectors of a folder's images and save them to `options.out`."""
    profile = load_profile(options.profile).for_dataset(str(options.folder))
    profile = profile.using("", options.resolution or 0)
    settings = override(profile.inversion, options, "num_tokens", "steps_per_image", "learning_rate", "seed")
    real = load_dataset(options.folder, split=options.split, resolution=profile.sampling.resolution)
    store = invert(_load_model(options, profile), real, settings)
    store.save(options.out)
    return store


def sample_store(options: argparse.Namespace) -> LabelledImages:
    """Draw `options.images_per_real` images of each of a store's images and save them to `options.out`."""
    store = EmbeddingStore.load(options.store)
    # Vectors are meant for the resolution at which they were learned.
    profile = load_profile(options.profile).using("", store.provenance["resolution"])
    perturbation = override(
        profile.perturbation, options, "noise_std", "interpolation_weight", "unconditional"
    )
    sampling = override(profile.sampling, options, "guidance_scale", "num_inference_steps", "scheduler")
    if options.images_per_real < 1:
        raise ValueError(f"images_per_real is {options.images_per_real}: choose at least 1.")
    diffusion = _load_model(options, profile, store.provenance["model"])
    store.check_matches(diffusion)
    synthetic = draw(diffusion, store, perturbation, sampling, options.images_per_real, options.seed)
    synthetic.save(options.out)
    return synthetic


def draw(
    diffusion: FrozenDiffusion,
    store: EmbeddingStore,
    perturbation: Perturbation,
    sampling: Sampling,
    images_per_real: int,
    seed: int,
) -> LabelledImages:
    """Samples of every image of a store: those of DiffusionInversion for the same real images and seed."""
    sources = np.tile(np.arange(len(store)), images_per_real).tolist()
    copies = np.repeat(np.arange(images_per_real), len(store)).tolist()
    labels = store.labels[sources]
    images = sample(
        diffusion,
        conditioning_for(store, sources, copies, perturbation, seed),
        unconditional_embedding(store, perturbation.unconditional, diffusion, labels),
        sampling,
        [stream(seed, "sample", store.ids[s], copy) for s, copy in zip(sources, copies, strict=True)],
        progress=True,
    )
    return LabelledImages(
        images=images,
        labels=labels.numpy(),
        class_names=store.class_names,
        ids=tuple(f"{store.ids[s]}#{copy}" for s, copy in zip(sources, copies, strict=True)),
        sources=tuple(store.ids[s] for s in sources),
        provenance=provenance(
            perturbation=asdict(perturbation),
            sampling=asdict(sampling),
            seed=seed,
            images_per_real=images_per_real,
            store=store.provenance,
        ),
    )


def evaluate(options: argparse.Namespace) -> str:
    """Train classifiers on real images, on synthetic ones and on both; write JSON and return the report."""
    from diffinv.studies.grid import run_study

    if options.images_per_real is None:  # the parser leaves it open, to tell who asks for it in vain
        options.images_per_real = IMAGES_PER_REAL
    if options.seeds < LEAST_SEEDS:
        raise ValueError(
            f"seeds is {options.seeds}: an interval needs at least {LEAST_SEEDS} trainings of each kind."
        )
    train = load_dataset(options.folder, split="train", resolution=options.resolution, seed=options.seed)
    resolution = train.resolution  # the folder's splits may differ in their natural one
    test = load_dataset(options.folder, split="test", resolution=resolution, seed=options.seed)
    name = Path(options.folder).resolve().name
    rows = run_study(
        list(_conditions(options, train)),
        train=train,
        test=test,
        seeds=range(options.seed, options.seed + options.seeds),
        dataset=name,
    )
    out = options.out or Path(f"{name}-evaluation.json")
    results, gains = _summary(rows)
    counts = {"train": train.class_counts(), "test": test.class_counts()}
    record = {"dataset": name, "resolution": resolution, "images": counts, "results": results, "gains": gains}
    asked = {key: value for key, value in vars(options).items() if key != "verb"}
    write_json(out, {**provenance(options=asked), **record, "rows": rows.to_dict("records")})
    return _report(name, len(train), len(test), options.seeds, results, gains, out)


def _conditions(options: argparse.Namespace, train: LabelledImages) -> Iterator[Any]:
    from diffinv.studies.grid import Condition
    from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
    from diffinv.synthesizers.real import Real

    profile = load_profile(options.profile).for_dataset(str(options.folder))
    # Vectors are learned at the images' own side, or above where the profile's model wants more.
    profile = profile.using("", max(train.resolution, profile.sampling.resolution or 0))
    training = override(profile.training_for(str(options.folder)), options, "optimiser_steps")
    synthesizer = DiffusionInversion(
        _load_model(options, profile),
        override(profile.inversion, options, "seed"),
        profile.perturbation,
        profile.sampling,
    )
    shared = {"training": training, "real_per_class": options.real_per_class}
    yield Condition(name=REAL, synthesizer=Real(), **shared)
    for name, with_real in ((SYNTHETIC, False), (BOTH, True)):
        yield Condition(
            name=name,
            synthesizer=synthesizer,
            images_per_real=options.images_per_real,
            with_real=with_real,
            **shared,
        )


def _summary(rows: "pd.DataFrame") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from diffinv.studies.statistics import paired_difference, summarise

    summary = summarise(rows, ["condition"]).set_index("condition")
    sizes = rows.groupby("condition")["num_training_images"].first()
    results = [
        {
            "trained_on": name,
            "training_images": int(sizes[name]),
            **summary.loc[name, ["mean", "low", "high"]].to_dict(),
        }
        for name in (REAL, SYNTHETIC, BOTH)
    ]
    gains = [
        {"trained_on": name, **paired_difference(rows, name, REAL).iloc[0].to_dict()}
        for name in (SYNTHETIC, BOTH)
    ]
    return results, gains


def _report(
    name: str,
    num_train: int,
    num_test: int,
    num_seeds: int,
    results: list[dict[str, Any]],
    gains: list[dict[str, Any]],
    out: Path,
) -> str:
    lines = [
        f"{name}: {num_train} training and {num_test} test images, {num_seeds} seeds, the same steps for all",
        "",
        f"{'trained on':<18}{'images':>8}{'accuracy':>12}   95 % interval",
    ]
    for row in results:
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
        lines.append(f"{row['trained_on']:<18}{row['training_images']:>8}{row['mean']:>12.1%}   {interval}")
    lines.append("")
    for row in gains:
        points = [100 * row[end] for end in ("difference", "low", "high")]
        verdict = "better" if points[1] > 0 else "worse" if points[2] < 0 else "not told apart"
        lines.append(
            f"{row['trained_on']} against {REAL}: {points[0]:+.1f} points "
            f"({points[1]:+.1f} to {points[2]:+.1f}), {verdict}"
        )
    return "\n".join([*lines, "", f"{out} holds every row.", ""])


def override(settings: Settings, options: argparse.Namespace, *names: str) -> Settings:
    """The settings with those of the named options that were given."""
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(settings, **given)  # type: ignore[type-var]


def _load_model(options: argparse.Namespace, profile: Profile, default: str | None = None) -> FrozenDiffusion:
    return load_diffusion(
        options.model or default or profile.model,
        device=options.device or profile.device,
        dtype=profile.torch_dtype,
        memory=profile.memory_request,
    )
