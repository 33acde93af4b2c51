"""`augment`: look at own images, try the model, choose settings, make the set, and prove what it gains."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from diffinv.artefacts.engine import Engine, using
from diffinv.artefacts.parts import only_part
from diffinv.artefacts.writing import ArtefactError, check_output
from diffinv.classifiers.policies import Policy
from diffinv.datasets import LabelledImages
from diffinv.datasets.decoding import Fit
from diffinv.datasets.layout.plan import ClassLevel
from diffinv.evaluation.gain import MEASURES
from diffinv.foundation.text import percent, text_table
from diffinv.lessons import methods
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import load_profile
from diffinv.method.cached import inversion_path
from diffinv.models.clip import load_clip
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.own_data.folder import card_text, save_set
from diffinv.own_data.look import OwnImages, read_own, wrapped
from diffinv.own_data.mixed import MixedImages, as_hugging_face
from diffinv.own_data.trial import fault_of_photographs, nearness_to_original, try_model
from diffinv.reproduce.talk import duration
from diffinv.studies.augmentation import NAMES, augmentation_conditions
from diffinv.studies.estimate import Estimate, estimate
from diffinv.studies.folds import cross_validate, gain_over_folds, overlap_of, sentence_on_gain
from diffinv.studies.grid import Condition, run_study
from diffinv.studies.search import chosen_settings, count_candidates, search
from diffinv.studies.statistics import describe_gain, summarise
from diffinv.synthesizers.real import Real

REAL, AUGMENTED, SYNTHETIC = "real", "real + augmentation", "real + synthetic"
UPDATES = "inversion.steps_per_image"
POLICY_SEEDS = 3  # classifiers that say which augmentation is best
Report = Callable[[str], Any]


@dataclass(frozen=True)
class Comparison:
    """Classifiers of a cross-validation; as text, their accuracies and what the synthetic images gain."""

    rows: pd.DataFrame  # one for each condition and fold
    num_images: int
    # Balanced accuracy, the mean of those of the classes, too where these are unequal.
    measures: tuple[str, ...] = ("accuracy",)

    @cached_property
    def summaries(self) -> dict[str, pd.DataFrame]:
        """Mean and corrected interval of each condition, by measure."""
        overlap = overlap_of(self.rows)
        return {
            value: summarise(self.rows, ["condition"], value=value, overlap=overlap)
            for value in self.measures
        }

    @property
    def summary(self) -> pd.DataFrame:
        """That of accuracy."""
        return self.summaries["accuracy"]

    @property
    def baseline(self) -> str:
        """The better of the trainings without synthetic images; chosen afterwards, which is hard on these."""
        return self.summary.set_index("condition")["mean"].drop(SYNTHETIC).idxmax()

    @cached_property
    def gain(self) -> pd.DataFrame:
        """How much synthetic images are ahead of `baseline`: `gain_over_folds`."""
        return gain_over_folds(self.rows, SYNTHETIC, self.baseline)

    @property
    def verdict(self) -> str:
        """Helps by how much, does not help, or not decided: one sentence."""
        return sentence_on_gain(self.gain, self.num_images, self.rows["fold"].nunique())

    def __str__(self) -> str:
        found = {value: table.set_index("condition") for value, table in self.summaries.items()}
        table = [
            [name, *(percent(*means.loc[name, ["mean", "low", "high"]]) for means in found.values())]
            for name in found["accuracy"].index
        ]
        columns = ["trained on", *(value.replace("_", " ") for value in found)]
        count, steps = self.rows["seed"].nunique(), self.rows["optimiser_steps"].iloc[0]
        said = [
            f"{count} classifiers of each kind, each tested on a fold of its own and trained for {steps} "
            "steps; the lower two kinds with the same augmentation; in brackets 95 % intervals:",
            *text_table(columns, table),
            f"{SYNTHETIC} against {self.baseline}: {self.verdict}",
        ]
        for value in self.measures[1:]:
            gain = gain_over_folds(self.rows, SYNTHETIC, self.baseline, value)
            said.append(f"in {value.replace('_', ' ')}: {describe_gain(gain)}")
        return wrapped(said)

    def record(self) -> dict[str, Any]:
        """The comparison as plain values for JSON."""
        means = {value: table.to_dict("records") for value, table in self.summaries.items()}
        gain = {"of": SYNTHETIC, "against": self.baseline, **self.gain.iloc[0].to_dict()}
        return {"means": means, "gain": gain, "verdict": self.verdict}


@dataclass(frozen=True, eq=False)
class Augmented:
    """A synthetic set, with the real images that it was made from and what it gains."""

    images: LabelledImages  # the synthetic ones
    real: LabelledImages
    comparison: Comparison
    card: str  # Markdown, for a reader of the set
    settings: dict[str, Any]  # those that were chosen on validation images
    record: dict[str, Any]
    report: dict[str, Any]  # plan, trial and comparison, for JSON

    def save(self, folder: str | Path) -> Path:
        """Write both kinds of images, train.csv and the card; whole or not at all."""
        return save_set(Path(folder), self.real, self.images, self.card, self.comparison.rows, self.record)

    def dataset(
        self, *, synthetic_share: float = 0.5, transform: Callable[..., Any] | None = None
    ) -> MixedImages:
        """Both kinds of images as a `torch.utils.data.Dataset`; see `MixedImages`."""
        return MixedImages(self.real, self.images, synthetic_share=synthetic_share, transform=transform)

    def hugging_face(self) -> Any:
        """Both kinds of images as a `datasets.Dataset`; ValueError where that library is not installed."""
        return as_hugging_face(self.real, self.images)


@dataclass(frozen=True, eq=False)
class Plan:
    """What `augment` is about to do: images that were looked at, settings, the model, and its cost."""

    own: OwnImages
    settings: Profile
    diffusion: FrozenDiffusion
    estimate: Estimate
    photographs: str  # why the model is no good for them, or ""

    def record(self) -> dict[str, Any]:
        """The plan as plain values for JSON."""
        stages = self.estimate.table().astype(object).where(self.estimate.table().notna(), None)
        return {
            "data": self.own.record(),
            "model": {"name": self.diffusion.name, "fingerprint": self.diffusion.fingerprint},
            "warnings": [self.photographs] if self.photographs else [],
            "estimate": stages.to_dict("records"),
        }


def prepare(
    data: str | Path,
    out: str | Path | None = None,
    *,
    profile: str = "tiny",
    model: str = "",
    device: str | None = None,
    diffusion: FrozenDiffusion | None = None,
    seed: int = 0,
    resolution: int | None = None,
    images_per_real: int | None = None,
    num_folds: int | None = None,
    repetitions: int | None = None,
    optimiser_steps: int | None = None,
    fit: Fit = "crop",
    class_level: ClassLevel | None = None,
    skip_damaged: bool = False,
    report: Report = print,
) -> Plan:
    """Look at the images, and estimate the work by a measured step: what `augment` does first.

    Arguments as for `augment`; `diffusion` is a model that is loaded already. ValueError names at once all
    that stands in the way.
    """
    settings = load_profile(profile).for_dataset(str(data))
    asked = {"images_per_real": images_per_real, "num_folds": num_folds, "repetitions": repetitions}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    counts = replace(settings.own_data_lesson, **given)
    training = settings.training_for(str(data))
    if optimiser_steps is not None:
        training = training.of_length(optimiser_steps)
    how: dict[str, Any] = {"fit": fit, "class_level": class_level}
    own = read_own(data, resolution=resolution, seed=seed, skip_damaged=skip_damaged, **how)
    report(str(own))
    problems = [*own.problems(counts.num_folds), *_output_problem(out, Path(data).expanduser())]
    if problems:
        raise ValueError(f"{'; '.join(problems)}.")

    settings = settings.using(model, own.real.resolution)
    diffusion = diffusion or load_diffusion(
        settings.model,
        device=device or settings.device,
        dtype=settings.torch_dtype,
        memory=settings.memory_request,
        fast=settings.fast,
    )
    # Larger ones come out worse, and take a multiple of the time.
    side = min(own.real.resolution, diffusion.native_resolution) if resolution is None else resolution
    if side != own.real.resolution:
        report(wrapped([f"- images become {side} px, the most that {diffusion.name!r} draws well."]))
        own = own.at(side)
    least_side = load_profile(profile).sampling.resolution or 0
    drawn_at = diffusion.suitable_resolution(max(side, min(least_side, diffusion.native_resolution)))
    settings = replace(settings.using("", drawn_at), own_data_lesson=counts, training=training)
    photographs = fault_of_photographs(diffusion, own.real)
    if photographs:
        report(wrapped([f"- {photographs}"]))
    cost = _estimate(diffusion, own, settings)
    report(_said_of(cost))
    return Plan(own, settings, diffusion, cost, photographs)


def augment(
    data: str | Path,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    anyway: bool = False,
    report: Report = print,
    engine: Engine | str | None = None,
    **options: Any,
) -> Augmented:
    """Make synthetic images of one's own, choose their settings, and prove what they gain.

    `data` is what `load_dataset` takes; `out` receives the set: class folders, Parquet, train.csv and a card.
    `options` are those of `prepare`: `profile`, `model`, `device`, `diffusion`; `resolution`; how the folder
    is read (`fit`, `class_level`, `skip_damaged`); `images_per_real`, `num_folds` and `repetitions` of the
    cross-validation, and `optimiser_steps` of each classifier. `report` is called with each part of the
    report, as text of 80 columns. An `engine` shares the work among its workers (`artefacts.engine`). All
    work is cached as soon as it is done, so that the same call goes on where an interrupted one stopped, and
    ends with the same bytes.

    ValueError before the work for all that would stop it, and, unless `anyway`, where a trial on a few images
    says that the model cannot show them.
    """
    with using(engine):
        return _augment(prepare(data, out, seed=seed, report=report, **options), out, seed, anyway, report)


def _augment(plan: Plan, out: str | Path | None, seed: int, anyway: bool, report: Report) -> Augmented:
    own, diffusion, real = plan.own, plan.diffusion, plan.own.real
    _refuse([plan.photographs] if plan.photographs else [], anyway)
    clip = load_clip(plan.settings.clip, device=diffusion.device)
    with only_part(None):  # its few images are one file of the cache
        trial = try_model(diffusion, clip, real, plan.settings, seed=seed)
    report(wrapped([str(trial)]))
    _refuse(list(trial.faults()), anyway)
    faults = [*trial.faults(), *([plan.photographs] if plan.photographs else [])]

    policy = {"training.policy": _best_policy(plan, seed, report)}
    plan = replace(plan, settings=plan.settings.changed(policy))
    chosen = {**policy, **_choose(plan, seed)}
    settings = plan.settings.changed(chosen)
    values = ", ".join(f"{name.partition('.')[2]} {value}" for name, value in chosen.items())
    report(wrapped([f"chosen on {len(own.validation)} validation images: {values}"]))
    synthesizer = methods.diffusion_inversion(settings, diffusion)
    counts = settings.own_data_lesson
    images = synthesizer(real, images_per_real=counts.images_per_real, seed=seed)
    comparison = _compare(plan, synthesizer, seed)
    report(str(comparison))
    record = {
        "data": own.name,
        "model": {"name": diffusion.name, "fingerprint": diffusion.fingerprint},
        "profile": settings.name,
        "seed": seed,
        "chosen": chosen,
        "settings": synthesizer.describe(),
        "training": settings.training,
        "verdict": comparison.verdict,
    }
    said = {"plan": plan.record(), "trial": trial.record(), "comparison": comparison.record()}
    nearer = nearness_to_original(real, images, clip)
    card = card_text(own, images, comparison=str(comparison), faults=faults, nearer=nearer, record=record)
    result = Augmented(images, real, comparison, card, chosen, record, said)
    if out is not None:
        result.save(out)
        report(f"{out} holds {len(images)} synthetic and {len(real)} real images.")
    return result


def _refuse(faults: list[str], anyway: bool) -> None:
    if faults and not anyway:
        said = " ".join(faults).rstrip(".")
        raise ValueError(f"{said}; or go on with anyway=True.")


def _output_problem(out: str | Path | None, data: Path) -> list[str]:
    try:
        if out is not None and data.is_dir() and Path(out).resolve().is_relative_to(data.resolve()):
            # The next run would find the set among the images.
            return [f"{out} lies among the images in {data}: choose a folder elsewhere"]
        if out is not None:
            check_output(out, folder=True)
    except ArtefactError as error:
        return [str(error).rstrip(".")]
    return []


def planned_work(settings: Profile) -> tuple[int, int, int]:
    """Of each image: the updates and the samples that `augment` makes; and how many classifiers it trains."""
    counts = settings.own_data_lesson
    candidates, pairs = count_candidates(counts.search_grid), counts.num_folds * counts.repetitions
    # Each repetition samples from all images but those of a fold, for every fold.
    rounds = candidates + 1 + counts.repetitions * (counts.num_folds - 1)
    updates = max(counts.search_grid.get(UPDATES, (settings.inversion.steps_per_image,)))
    num_classifiers = POLICY_SEEDS * len(counts.policies) + 2 * candidates + 3 * pairs
    return updates, counts.images_per_real * rounds, num_classifiers


def _estimate(diffusion: FrozenDiffusion, own: OwnImages, settings: Profile) -> Estimate:
    updates, images_per_real, num_classifiers = planned_work(settings)
    return estimate(
        diffusion,
        own.real,
        images_per_real=images_per_real,
        inversion=replace(settings.inversion, steps_per_image=updates),
        sampling=settings.sampling,
        training=settings.training,
        num_classifiers=num_classifiers,
    )


def _said_of(cost: Estimate) -> str:
    memory = "" if cost.peak_bytes is None else f", {cost.peak_bytes / 2**30:.1f} GiB of memory"
    disk = f"{cost.disk_bytes / 2**20:.0f} MiB of disk"
    lines = [f"estimate, by measured steps: about {duration(cost.seconds)}{memory}, {disk}"]
    lines += [f"  {stage.stage}: {duration(stage.seconds)} for {stage.work}" for stage in cost.stages]
    return wrapped(lines)


def _best_policy(plan: Plan, seed: int, report: Report) -> Policy:
    """That of the real images alone: samples have to add to what costs nothing."""
    policies, training = plan.settings.own_data_lesson.policies, plan.settings.training
    conditions = augmentation_conditions(None, training, images_per_real=1, policies=policies)
    rows = run_study(
        conditions,
        train=plan.own.real,
        test=plan.own.validation,
        seeds=range(seed, seed + POLICY_SEEDS),
        dataset=plan.own.name,
    )
    means = rows.groupby("policy", sort=False)["accuracy"].mean()
    said = ", ".join(f"{100 * mean:.0f} % with {NAMES[policy]}" for policy, mean in means.items())
    report(wrapped([f"real images alone, on the validation images: {said}"]))
    return means.idxmax()


def _choose(plan: Plan, seed: int) -> dict[str, Any]:
    settings, counts, real = plan.settings, plan.settings.own_data_lesson, plan.own.real
    if updates := counts.search_grid.get(UPDATES):
        # The vectors of fewer updates are met on the way to those of more.
        resized = real.resize(settings.sampling.resolution or real.resolution)
        inversion_path(plan.diffusion, resized, settings.inversion, updates)
    rows = search(
        counts.search_grid,
        lambda values: methods.diffusion_inversion(settings.changed(values), plan.diffusion),
        train=real,
        validation=plan.own.validation,
        training=settings.training,
        seeds=(seed,),
        images_per_real=counts.images_per_real,
        dataset=plan.own.name,
    )
    return chosen_settings(rows)


def _compare(plan: Plan, synthesizer: Any, seed: int) -> Comparison:
    counts, training = plan.settings.own_data_lesson, plan.settings.training
    conditions = [
        Condition(REAL, Real(), replace(training, augmentation="none", policy="none")),
        Condition(AUGMENTED, Real(), training),
        Condition(SYNTHETIC, synthesizer, training, counts.images_per_real, with_real=True),
    ]
    real = plan.own.real
    rows = cross_validate(
        conditions,
        real,
        num_folds=counts.num_folds,
        repetitions=counts.repetitions,
        seed=seed,
        groups=plan.own.groups,
        dataset=plan.own.name,
        by_class=True,
    )
    unequal = len(set(real.class_counts().values())) > 1
    rows = rows.drop(columns=["wall_seconds", "by_class"])
    return Comparison(rows, len(real), MEASURES if unequal else MEASURES[:1])
