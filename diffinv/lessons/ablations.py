"""What 10_ablations compares, declared in one place before anything is read: for any dataset of a profile."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffinv.lessons import methods
from diffinv.lessons.opening import Lesson
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import prompt_for
from diffinv.models.clip import FrozenClip
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.studies.ablations import Comparison, MostConfident, OfSome, ablate
from diffinv.studies.grid import Condition

AS_CHOSEN, BOTH = "as chosen", "real + DI"
STARTS: Mapping[str, str] = {
    "normal": "random vectors",
    "class_prompt": "the class prompt",
    "mean_prompt": "the mean prompt",
}


def base_condition(own: Profile, dataset: str, diffusion: FrozenDiffusion) -> Condition:
    """Samples alone, of the settings that were chosen on validation images: what each comparison changes."""
    counts, training = own.ablations_lesson, own.training_for(dataset)
    method = methods.diffusion_inversion(own, diffusion)
    real_per_class = min(counts.real_per_class, own.classifier_lesson.pool_per_class)
    return Condition(AS_CHOSEN, method, training, counts.images_per_real, real_per_class)


def declared(own: Profile, dataset: str, diffusion: FrozenDiffusion, clip: FrozenClip) -> list[Comparison]:
    """Every comparison of the lesson; conditions of the same name are the same condition.

    A count of 0, or a value that is the dataset's own already, leaves its comparison out.
    """
    base = base_condition(own, dataset, diffusion)
    found = [
        *_guidance(own, base, diffusion.native_resolution),
        *_perturbation(own, base),
        *_training(own, base),
        *_samples(own, dataset, base, clip),
        *_vectors(own, base, diffusion.tokenizer.model_max_length),
    ]
    return [each for each in found if each.compares]


def grids(own: Profile, base: Condition) -> dict[str, list[Condition]]:
    """The conditions of each part of Fig. 8: the values of the profile, and the dataset's own."""
    counts = own.ablations_lesson

    def beside_own(setting: str, *values: float) -> dict[str, tuple[Any, ...]]:
        part, name = setting.split(".")
        return {setting: tuple(sorted({*values, getattr(getattr(base.synthesizer, part), name)}))}

    number = {"images_per_real": counts.number_grid}
    guided, kinds = {"sampling.guidance_scale": (counts.guidance_scale,)}, "perturbation.unconditional"
    updates = beside_own("inversion.steps_per_image", *counts.updates_grid)
    scales = beside_own("sampling.guidance_scale", *counts.guidance_grid)
    steps = beside_own("sampling.num_inference_steps", *counts.inference_steps_grid)
    own_steps = beside_own("sampling.num_inference_steps")
    noises = beside_own("perturbation.noise_std", *counts.noise_grid)
    weights = beside_own("perturbation.interpolation_weight", *counts.weight_grid)
    return {
        "8a": ablate(base, {**updates, **scales}),
        "8b": [
            *ablate(base, {**guided, kinds: ("mean", "empty_prompt"), **steps}),
            *ablate(base, {**guided, kinds: ("class_mean",), **own_steps}),
        ],
        "8c": ablate(base, {**noises, **number}),
        "8d": ablate(base, {**weights, **number}),
    }


def beyond(comparisons: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    """The conditions that the paper did not try, what they change first: samples alone, and beside real."""
    asked = [each for each in comparisons if each.question[0] != "("]
    sides = {side.name: side for side in (*(each.b for each in asked), *(each.a for each in asked))}
    # What is changed stands before the changes, and what has more samples last.
    names = sorted(sides, key=lambda name: (name not in (AS_CHOSEN, BOTH), sides[name].images_per_real))
    alone = [name for name in names if not sides[name].with_real]
    return alone, [name for name in names if name not in alone and not name.startswith("share")]


def cheapest_other(lesson: Lesson) -> list[str]:
    """The dataset, besides the first, that takes the fewest updates; none where one alone was asked for."""
    return sorted(lesson.datasets[1:], key=lambda name: lesson.own[name].inversion.steps_per_image)[:1]


def _changed(condition: Condition, name: str, values: dict[str, Any]) -> Condition:
    (changed,) = ablate(condition, {setting: (value,) for setting, value in values.items()})
    return replace(changed, name=name)


def _guidance(own: Profile, base: Condition, native: int) -> Iterator[Comparison]:
    """Fig. 8a and 8b, claim (i), and guidance at some timesteps alone."""
    counts = own.ablations_lesson

    def guided(scale: float) -> Condition:
        return _changed(base, f"guidance {scale:g}", {"sampling.guidance_scale": scale})

    for scale in counts.guidance_grid:
        yield Comparison(f"(i) guidance {scale:g} or none?", guided(scale), guided(1.0))
    fewest, scale = counts.updates_grid[0], counts.guidance_scale
    fewer = _changed(base, f"{fewest} updates", {"inversion.steps_per_image": fewest})
    own_updates = f"(i) {own.inversion.steps_per_image} updates, as chosen, or {fewest}?"
    yield Comparison(own_updates, base, fewer, "updates")
    steered, empty = {"sampling.guidance_scale": scale}, {"perturbation.unconditional": "empty_prompt"}
    from_empty = _changed(base, "empty string", {**steered, **empty})
    yield Comparison("(i) away from the mean or the empty string?", guided(scale), from_empty)
    if counts.native_inference_steps:
        steps = {"sampling.num_inference_steps": counts.native_inference_steps}
        there = {**steered, "sampling.resolution": native, **steps}
        if own.device != "cpu":  # as many pixels at once as at the target side, for which there is memory
            share = ((own.sampling.resolution or native) / native) ** 2
            for stage in ("inversion", "sampling"):
                there[f"{stage}.batch_size"] = max(1, int(share * getattr(own, stage).batch_size))
        there["inversion.steps_per_image"] = counts.native_updates
        few = replace(base, images_per_real=counts.native_images_per_real)
        from_mean = _changed(few, f"mean, {native} px", there)
        from_empty = _changed(from_mean, f"empty string, {native} px", empty)
        yield Comparison(
            f"(i) away from the mean or the empty string, at {native} px?", from_mean, from_empty
        )
    from_class = _changed(base, "class mean", {**steered, "perturbation.unconditional": "class_mean"})
    yield Comparison("(i) away from the mean of all or of the class?", guided(scale), from_class)
    for low, high in counts.guidance_intervals:
        name = f"guidance {scale:g} in {low:g} to {high:g}"
        part = _changed(guided(scale), name, {"sampling.guidance_interval": (low, high)})
        question = f"guidance {scale:g} at timesteps {low:g} to {high:g}, or at all?"
        yield Comparison(question, part, guided(scale))


def _perturbation(own: Profile, base: Condition) -> Iterator[Comparison]:
    """Fig. 8c and 8d, Table 5, claim (j): each with few samples and with many."""
    counts = own.ablations_lesson
    noise, weight = max(counts.noise_grid), max(counts.weight_grid)
    usual = own.perturbation
    values: dict[str, tuple[float, dict[str, Any]]] = {
        f"noise {noise:g}": (usual.noise_std, {"perturbation.noise_std": noise}),
        "partner 0": (usual.interpolation_weight, {"perturbation.interpolation_weight": 0}),
        f"partner {weight:g}": (usual.interpolation_weight, {"perturbation.interpolation_weight": weight}),
    }
    for amount, number in (("few", counts.number_grid[0]), ("many", counts.number_grid[-1])):
        as_chosen = replace(base, name=f"{AS_CHOSEN}, {amount}", images_per_real=number)
        for name, (other, changes) in values.items():
            changed = _changed(as_chosen, f"{name}, {amount}", changes)
            question = f"(j) {name} or {other:g}, with {number} per real image?"
            yield Comparison(question, changed, as_chosen, changed.name)


def _training(own: Profile, base: Condition) -> Iterator[Comparison]:
    """How a classifier is shown samples beside real images."""
    counts, both = own.ablations_lesson, replace(base, name=BOTH, with_real=True)
    own_share = base.training.synthetic_share
    usual = "as they come" if own_share is None else f"{own_share:g}"
    for share in counts.share_grid:
        other = _changed(both, f"share {share:g}", {"training.synthetic_share": share})
        yield Comparison(f"share of samples {share:g} or {usual}?", other, both)
    if counts.split_batch_norm:
        split = _changed(both, "batch norm apart", {"training.split_batch_norm": True})
        yield Comparison("batch norm of samples apart, or together?", split, both)


def _samples(own: Profile, dataset: str, base: Condition, clip: FrozenClip) -> Iterator[Comparison]:
    """Which samples there are: a choice among them, those of some images, those near their original."""
    counts, both = own.ablations_lesson, replace(base, name=BOTH, with_real=True)
    method: Any = base.synthesizer
    if counts.drawn:
        surest = MostConfident(method, clip, prompt_for(dataset, "{}"), counts.drawn)
        name = f"CLIP's surest {base.images_per_real} of {counts.drawn}"
        yield Comparison(f"{name}, or any?", replace(base, name=name, synthesizer=surest), base)
    if counts.hard_share:
        some = OfSome(method, counts.hard_share, base.training, counts.early_steps)
        hard = replace(both, name="samples of images not learned early", synthesizer=some)
        any_ = replace(both, name="samples of as many at random", synthesizer=replace(some, judge=None))
        yield Comparison("images not learned early, or all?", hard, both)
        yield Comparison("images not learned early, or as many at random?", hard, any_)
    for strength in counts.strength_grid:
        near = _changed(base, f"from the original noised by {strength:g}", {"sampling.strength": strength})
        yield Comparison(f"from the original noised by {strength:g}, or from noise?", near, base)


def _vectors(own: Profile, base: Condition, longest: int) -> Iterator[Comparison]:
    """How many vectors an image has, and where they start; a prompt has no more than the `longest`.

    The starts are compared with as many samples as lesson 03 has, for which the updates were chosen.
    """
    counts, inversion, many = own.ablations_lesson, own.inversion, own.classifier_lesson.images_per_real
    usual = replace(base, name=f"from {STARTS[inversion.initialisation]}, {many} each", images_per_real=many)
    for number in counts.tokens_grid:
        if inversion.initialisation == "normal" or number <= longest:
            fewer = _changed(base, f"{number} vectors", {"inversion.num_tokens": number})
            question = f"{number} vectors per image, or {inversion.num_tokens}?"
            yield Comparison(question, fewer, base, fewer.name)
    for start in counts.initialisations:
        if start != inversion.initialisation and (start == "normal" or inversion.num_tokens <= longest):
            changes: dict[str, Any] = {"inversion.initialisation": start}
            # Closer to their end, such vectors have a number of updates of their own.
            if start == "class_prompt" and counts.prompt_steps:
                changes["inversion.steps_per_image"] = counts.prompt_steps
            other = _changed(usual, f"from {STARTS[start]}, {many} each", changes)
            question = f"start from {STARTS[start]} or {STARTS[inversion.initialisation]}, {many} each?"
            yield Comparison(question, other, usual, "start")
