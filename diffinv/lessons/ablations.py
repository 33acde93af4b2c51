"""What 10_ablations compares, declared in one place before anything is read: for any dataset of a profile."""

from dataclasses import replace

from diffinv.lessons import methods
from diffinv.lessons.profiles import Profile, prompt_for
from diffinv.models.clip import FrozenClip
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.studies.ablations import Comparison, MostConfident, OfSome, ablate
from diffinv.studies.grid import Condition

AS_CHOSEN = "as chosen"


def base_condition(own: Profile, dataset: str, diffusion: FrozenDiffusion) -> Condition:
    """Samples alone, of the settings that were chosen on validation images: what each comparison changes."""
    counts, training = own.ablations_lesson, own.training_for(dataset)
    method = methods.diffusion_inversion(own, diffusion)
    return Condition(AS_CHOSEN, method, training, counts.images_per_real, counts.real_per_class)


def declared(own: Profile, dataset: str, diffusion: FrozenDiffusion, clip: FrozenClip) -> list[Comparison]:
    """Every comparison of the lesson; conditions of the same name are the same condition."""
    counts, base = own.ablations_lesson, base_condition(own, dataset, diffusion)
    few, many = (
        replace(base, images_per_real=number) for number in (counts.number_grid[0], max(counts.number_grid))
    )
    few, many = replace(few, name=f"{AS_CHOSEN}, few"), replace(many, name=f"{AS_CHOSEN}, many")
    both = replace(base, name="real + DI", with_real=True)

    def changed(condition: Condition, name: str, **values) -> Condition:
        settings = {key.replace("__", "."): (value,) for key, value in values.items()}
        return replace(ablate(condition, settings)[0], name=name)

    def guided(scale: float) -> Condition:
        if scale == own.sampling.guidance_scale:
            return base
        return changed(base, f"guidance {scale:g}", sampling__guidance_scale=scale)

    scale, native = counts.guidance_scale, diffusion.native_resolution
    fewest, noise, weight = counts.updates_grid[0], max(counts.noise_grid), max(counts.weight_grid)
    steered = {"sampling__guidance_scale": scale}
    at_native = {
        **steered,
        "sampling__resolution": native,
        "sampling__num_inference_steps": counts.native_inference_steps,
    }
    empty = {"perturbation__unconditional": "empty_prompt"}
    mean_vector = guided(scale)
    mean_at_native = changed(base, f"mean, {native} px", **at_native)
    some = OfSome(base.synthesizer, counts.hard_share, base.training, counts.early_steps)
    sure = MostConfident(base.synthesizer, clip, prompt_for(dataset, "{}"), counts.drawn)  # type: ignore[arg-type]
    return [
        *(
            Comparison(f"(i) guidance {scale:g} or none?", guided(scale), guided(1.0))
            for scale in counts.guidance_grid
            if scale != 1
        ),
        Comparison(
            f"(i) its own updates or {fewest}?",
            base,
            changed(base, f"{fewest} updates", inversion__steps_per_image=fewest),
        ),
        Comparison(
            "(i) from the mean vector or the empty string?",
            mean_vector,
            changed(base, "empty string", **steered, **empty),
        ),
        Comparison(
            f"(i) the same at {native} px?",
            mean_at_native,
            changed(base, f"empty string, {native} px", **at_native, **empty),
        ),
        Comparison(
            "(i) from the mean of all or of the class?",
            mean_vector,
            changed(base, "class mean", **steered, perturbation__unconditional="class_mean"),
        ),
        *(
            Comparison(
                f"(j) {name}, {number.images_per_real} samples per real image?",
                changed(number, f"{name}, {number.name.split()[-1]}", **values),
                number,
            )
            for number in (few, many)
            for name, values in (
                (f"noise {noise:g}", {"perturbation__noise_std": noise}),
                ("no partner", {"perturbation__interpolation_weight": 0}),
                (f"partner {weight:g}", {"perturbation__interpolation_weight": weight}),
            )
        ),
        *(
            Comparison(
                f"share of samples {share:g} or {both.training.synthetic_share:g}?",
                changed(both, f"share {share:g}", training__synthetic_share=share),
                both,
            )
            for share in counts.share_grid
            if share != both.training.synthetic_share
        ),
        Comparison(
            f"the {base.images_per_real} of {counts.drawn} that CLIP is surest of?",
            replace(base, name="surest", synthesizer=sure),
            base,
        ),
        Comparison(
            "only images not learned early?",
            replace(both, name="not learned early", synthesizer=some),
            both,
        ),
        Comparison(
            "those, or others?",
            replace(both, name="not learned early", synthesizer=some),
            replace(both, name="as many at random", synthesizer=replace(some, judge=None)),
        ),
        *(
            Comparison(
                f"{number} vectors per image?",
                changed(base, f"{number} tokens", inversion__num_tokens=number),
                base,
            )
            for number in counts.tokens_grid
            if number != own.inversion.num_tokens
        ),
        *(
            Comparison(
                f"start from {start.replace('_', ' ')}?",
                changed(base, start.replace("_", " "), inversion__initialisation=start),
                base,
            )
            for start in counts.initialisations
        ),
    ]
