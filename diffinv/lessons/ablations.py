"""What 10_ablations compares, declared in one place before anything is read: for any dataset of a profile."""

from dataclasses import replace
from typing import Any

from diffinv.lessons import methods
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import prompt_for
from diffinv.models.clip import FrozenClip
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.studies.ablations import Comparison, MostConfident, OfSome, ablate
from diffinv.studies.grid import Condition

AS_CHOSEN, BOTH = "as chosen", "real + DI"


def base_condition(own: Profile, dataset: str, diffusion: FrozenDiffusion) -> Condition:
    """Samples alone, of the settings that were chosen on validation images: what each comparison changes."""
    counts, training = own.ablations_lesson, own.training_for(dataset)
    method = methods.diffusion_inversion(own, diffusion)
    return Condition(AS_CHOSEN, method, training, counts.images_per_real, counts.real_per_class)


def declared(own: Profile, dataset: str, diffusion: FrozenDiffusion, clip: FrozenClip) -> list[Comparison]:
    """Every comparison of the lesson; conditions of the same name are the same condition.

    A count of 0, or a grid without another value than the dataset's own, leaves its comparison out.
    """
    base = base_condition(own, dataset, diffusion)
    return [
        *_guidance(own, base, diffusion.native_resolution),
        *_perturbation(own, base),
        *_beyond(own, dataset, base, clip),
    ]


def _changed(condition: Condition, name: str, values: dict[str, Any]) -> Condition:
    (changed,) = ablate(condition, {setting: (value,) for setting, value in values.items()})
    return replace(changed, name=name)


def _guidance(own: Profile, base: Condition, native: int) -> list[Comparison]:
    """Fig. 8a and 8b, claim (i)."""
    counts = own.ablations_lesson

    def guided(scale: float) -> Condition:
        if scale == own.sampling.guidance_scale:
            return base
        return _changed(base, f"guidance {scale:g}", {"sampling.guidance_scale": scale})

    found = [
        Comparison(f"(i) guidance {scale:g} or none?", guided(scale), guided(1.0))
        for scale in counts.guidance_grid
        if scale != 1
    ]
    fewest, scale = counts.updates_grid[0], counts.guidance_scale
    fewer = _changed(base, f"{fewest} updates", {"inversion.steps_per_image": fewest})
    found.append(Comparison(f"(i) its own updates or {fewest}?", base, fewer))
    steered, empty = {"sampling.guidance_scale": scale}, {"perturbation.unconditional": "empty_prompt"}
    from_empty = _changed(base, "empty string", {**steered, **empty})
    found.append(Comparison("(i) from the mean vector or the empty string?", guided(scale), from_empty))
    if counts.native_inference_steps:
        steps = {"sampling.num_inference_steps": counts.native_inference_steps}
        there = {**steered, "sampling.resolution": native, **steps}
        from_mean = _changed(base, f"mean, {native} px", there)
        from_empty = _changed(base, f"empty string, {native} px", {**there, **empty})
        found.append(Comparison(f"(i) the same at {native} px?", from_mean, from_empty))
    from_class = _changed(base, "class mean", {**steered, "perturbation.unconditional": "class_mean"})
    found.append(Comparison("(i) from the mean of all or of the class?", guided(scale), from_class))
    return found


def _perturbation(own: Profile, base: Condition) -> list[Comparison]:
    """Fig. 8c and 8d, Table 5, claim (j): each with few samples and with many."""
    counts = own.ablations_lesson
    noise, weight = max(counts.noise_grid), max(counts.weight_grid)
    values: dict[str, dict[str, Any]] = {
        f"noise {noise:g}": {"perturbation.noise_std": noise},
        "no partner": {"perturbation.interpolation_weight": 0},
    }
    if weight != own.perturbation.interpolation_weight:
        values[f"partner {weight:g}"] = {"perturbation.interpolation_weight": weight}
    found = []
    for amount, number in (("few", counts.number_grid[0]), ("many", counts.number_grid[-1])):
        as_chosen = replace(base, name=f"{AS_CHOSEN}, {amount}", images_per_real=number)
        for name, changes in values.items():
            changed = _changed(as_chosen, f"{name}, {amount}", changes)
            found.append(Comparison(f"(j) {name}, samples per real image: {number}?", changed, as_chosen))
    return found


def _beyond(own: Profile, dataset: str, base: Condition, clip: FrozenClip) -> list[Comparison]:
    """What the paper did not try."""
    counts = own.ablations_lesson
    both = replace(base, name=BOTH, with_real=True)
    found = []
    own_share = base.training.synthetic_share
    usual = "as they come" if own_share is None else f"{own_share:g}"
    for share in counts.share_grid:
        if share != own_share:
            other = _changed(both, f"share {share:g}", {"training.synthetic_share": share})
            question = f"share of samples {share:g} or {usual}?"
            found.append(Comparison(question, other, both))
    method: Any = base.synthesizer
    if counts.drawn:
        surest = MostConfident(method, clip, prompt_for(dataset, "{}"), counts.drawn)
        question = f"the {base.images_per_real} of {counts.drawn} that CLIP is surest of?"
        found.append(Comparison(question, replace(base, name="surest", synthesizer=surest), base))
    if counts.hard_share:
        some = OfSome(method, counts.hard_share, base.training, counts.early_steps)
        hard = replace(both, name="not learned early", synthesizer=some)
        any_ = replace(both, name="as many at random", synthesizer=replace(some, judge=None))
        found.append(Comparison("samples of images not learned early, or of all?", hard, both))
        found.append(Comparison("of those, or of as many others?", hard, any_))
    for number in counts.tokens_grid:
        if number != own.inversion.num_tokens:
            fewer = _changed(base, f"{number} vectors", {"inversion.num_tokens": number})
            question = f"{number} vectors per image, or {own.inversion.num_tokens}?"
            found.append(Comparison(question, fewer, base))
    for start in counts.initialisations:
        other = _changed(base, start.replace("_", " "), {"inversion.initialisation": start})
        found.append(Comparison(f"start from the {start.replace('_', ' ')}?", other, base))
    return found
