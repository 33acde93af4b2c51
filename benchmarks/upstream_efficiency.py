"""How much less work than upstream's teaches as much: `python -m benchmarks.upstream_efficiency --help`.

Upstream has all its switches and its documented numbers, but for the updates, which vary; ours has those of
the profile. Classifiers see samples alone, all train equally long, and each seed draws its own real images.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.settings_search import learn_path
from diffinv.artefacts.writing import write_atomically
from diffinv.datasets import load_dataset
from diffinv.lessons.methods import diffusion_inversion
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import PROFILES, load_profile
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.studies.economy import calls_per_sample
from diffinv.studies.grid import Condition, run_study
from diffinv.studies.statistics import paired_difference, summarise
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.upstream.settings import UPSTREAM, Switches, Upstream
from diffinv.synthesizers.upstream.synthesizer import UpstreamInversion

AS_UPSTREAM, LOOP = "as upstream", "upstream's loop, our sampler"
BY_UPDATES, BY_STEPS = "ours, by updates", "ours, by steps"
# What is to be fewer, whose accuracy is to be reached, by which of our conditions, and how many times fewer.
QUESTIONS = (
    ("updates", AS_UPSTREAM, BY_UPDATES, 5),
    ("updates", LOOP, BY_UPDATES, 5),  # stage 1 alone: what guidance does is no part of it
    ("calls", AS_UPSTREAM, BY_STEPS, 10),
)
# So far below upstream's best still counts as reached, by ours and by upstream with fewer updates: else a
# best that is so by chance, with many updates, would make upstream look slow.
MARGIN = 0.01
AXES = ["updates", "steps", "calls"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.upstream_efficiency", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--profile", choices=PROFILES, default="tiny")
    parser.add_argument("--dataset", default="icons10")
    parser.add_argument("--split", choices=["validation", "test"], default="validation", help="judged on")
    # One more than the samples of each: with fewer, upstream takes partners of other classes.
    parser.add_argument("--real-per-class", type=int, default=5)
    parser.add_argument("--images-per-real", type=int, default=4)
    parser.add_argument("--upstream-updates", type=int, nargs="+", default=[100, 200, 400, 800])
    parser.add_argument("--upstream-steps", type=int, default=UPSTREAM.sampling.num_inference_steps)
    parser.add_argument("--our-updates", type=int, nargs="+", default=[10, 25, 50, 100, 200])
    parser.add_argument("--our-steps", type=int, nargs="+", default=[2, 3, 4, 5, 10])
    parser.add_argument(
        "--updates-by-steps", type=int, help="of ours where steps vary; default: the profile's"
    )
    parser.add_argument("--our-guidance", type=float, help="default: the profile's")
    parser.add_argument("--seeds", type=int, default=5, help="how many, at least 2")
    parser.add_argument("--output", type=Path, default=Path("figures/upstream_efficiency.csv"))
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("an interval needs at least 2 seeds")  # now, not after the first one's hour
    rows = measure(options).assign(split=options.split)
    with write_atomically(options.output, "w") as file:
        rows.to_csv(file, index=False, lineterminator="\n")
    means = summarise(rows, by=["condition", *AXES])
    means[["mean", "std", "low", "high"]] *= 100
    print(means.to_string(index=False, float_format="%.1f"))
    for answer in answers(rows).itertuples():
        print(in_words(answer))
    return 0


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """The rows of `run_study` with AXES: updates per image, and steps and network calls per sample."""
    profile = load_profile(options.profile).for_dataset(options.dataset)
    if options.our_guidance is not None:
        profile = profile.changed({"sampling.guidance_scale": options.our_guidance})
    by_steps = options.updates_by_steps or profile.inversion.steps_per_image
    diffusion = load_diffusion(profile.model, device=profile.device, dtype=profile.torch_dtype)
    train = load_dataset(options.dataset, split="train")
    pool = train.per_class(profile.classifier_lesson.pool_per_class, seed=0)
    for seed in range(options.seeds):  # one path of updates gives all our numbers of them
        stops = [*options.our_updates, by_steps]
        learn_path(diffusion, pool.per_class(options.real_per_class, seed=seed), profile, stops)
    return run_study(
        conditions(options, profile, by_steps, diffusion),
        train=pool,
        test=load_dataset(options.dataset, split=options.split),
        seeds=range(options.seeds),
        dataset=options.dataset,
    )


def conditions(
    options: argparse.Namespace, profile: Profile, by_steps: int, diffusion: FrozenDiffusion
) -> list[Condition]:
    """Upstream and its loop by updates; ours by updates with the profile's steps, and by steps.

    Where ours varies its steps, it has `by_steps` updates.
    """
    steps, resolution = options.upstream_steps, profile.sampling.resolution
    documented = replace(
        UPSTREAM,
        inversion=replace(UPSTREAM.inversion, num_tokens=profile.inversion.num_tokens),
        sampling=replace(UPSTREAM.sampling, num_inference_steps=steps, resolution=resolution),
        # A seed's real images are the whole set here, so that the samples of "all" are its own.
        switches=replace(UPSTREAM.switches, samples="own"),
    )
    stage_1 = Switches(initialisation="linear", optimiser="dense", encoding="every_step")
    loop = Upstream(documented.inversion, profile.perturbation, profile.sampling, switches=stage_1)
    training = profile.training_for(options.dataset)
    counts = (options.images_per_real, options.real_per_class)

    def cell(name: str, maker: Synthesizer, own: Upstream | Profile) -> Condition:
        calls = calls_per_sample(diffusion, replace(own.sampling, eta=0.0))  # upstream's eta is ignored
        axes = (own.inversion.steps_per_image, own.sampling.num_inference_steps, calls)
        return Condition(name, maker, training, *counts, axes=dict(zip(AXES, axes, strict=True)))

    cells = []
    for name, settings in ((AS_UPSTREAM, documented), (LOOP, loop)):
        for updates in options.upstream_updates:
            own = replace(settings, inversion=replace(settings.inversion, steps_per_image=updates))
            cells.append(cell(name, UpstreamInversion(diffusion, own), own))
    changes = [(BY_UPDATES, {"inversion.steps_per_image": updates}) for updates in options.our_updates]
    varied = ("inversion.steps_per_image", "sampling.num_inference_steps")
    changes += [(BY_STEPS, dict(zip(varied, (by_steps, n), strict=True))) for n in options.our_steps]
    for name, change in changes:
        scale = profile.changed(change)
        cells.append(cell(name, diffusion_inversion(scale, diffusion), scale))
    return cells


def answers(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each of QUESTIONS: how many times fewer updates or calls ours takes to be as accurate.

    `best_mean`, `best_low`, `best_high`, `best_updates`: upstream at its best. `theirs`, `ours`: the fewest
    with which each reaches that, the mean difference no lower than -MARGIN; where ours never does, the
    nearest. `difference`, `low`, `high`: of ours there, paired by seed, as fractions. `ratio`: theirs over
    ours; `ratio_low` and `ratio_high` take an end of each paired 95 % interval in place of the mean, and
    theirs as it is. A ratio is 0 where nothing tried reaches the best. ValueError for a single seed.
    """
    found = []
    for what, upstream, ours, goal in QUESTIONS:
        means = summarise(rows[rows["condition"] == upstream], AXES)
        best = means.loc[means["mean"].idxmax()]  # of equals the first
        target = rows[(rows["condition"] == upstream) & (rows[AXES] == best[AXES]).all(axis=1)]
        both = pd.concat([rows, target.assign(condition="best")])
        gaps, own = (paired_difference(both, name, "best", AXES, baseline_by=[]) for name in (upstream, ours))
        theirs = fewest(gaps, what, "difference")
        reached = fewest(own, what, "difference")
        at = own.loc[own["difference"].idxmax() if math.isnan(reached) else (own[what] == reached).idxmax()]
        told = {"what": what, "upstream": upstream, "theirs": theirs, "ours": at[what], "goal": goal}
        told["best_is_most"] = best["updates"] == means["updates"].max()
        told["ours_is_fewest"] = at[what] == own[what].min()
        ratios = {"ratio": theirs / reached}
        ratios |= {f"ratio_{end}": theirs / fewest(own, what, end) for end in ("low", "high")}
        found.append({**told, **best.add_prefix("best_"), **at.drop(AXES), **ratios})
    return pd.DataFrame(found).fillna(0.0)


def fewest(gaps: pd.DataFrame, what: str, end: str) -> float:
    """The smallest number whose gap, or that end of its interval, is within the margin; nan if none is."""
    # Accuracies are fractions: a gap of just the margin may be off in its last digit.
    return float(gaps.loc[gaps[end] >= -MARGIN - 1e-9, what].min())


def in_words(answer: Any) -> str:
    """A row of `answers` as sentences, the last of which says whether the goal is met."""
    best = percent(answer.best_mean, answer.best_low, answer.best_high)
    gap = percent(answer.difference, answer.low, answer.high, sign="+")
    most = " (the most tried)" if answer.best_is_most else ""
    least = " (the fewest tried)" if answer.ours_is_fewest else ""
    does = "reaches that" if answer.ratio else "does not reach that, and is nearest"
    verdict = "met" if answer.ratio_low >= answer.goal else "met by the means, not by the whole interval"
    if answer.ratio < answer.goal:
        verdict = "not met" if answer.ratio_high < answer.goal else "not met, nor ruled out by the interval"
    return (
        f"{answer.what}, {answer.upstream}: {best} at its best, with {answer.best_updates:.0f} updates"
        f"{most}, and reached with {answer.theirs:.0f} {answer.what}. Ours {does} with {answer.ours:.0f}"
        f"{least}: {gap}. Times fewer: {answer.ratio:.1f} ({answer.ratio_low:.1f} to "
        f"{answer.ratio_high:.1f}; 0 where not reached). Goal {answer.goal}: {verdict}."
    )


def percent(mean: float, low: float, high: float, *, sign: str = "") -> str:
    """A mean with its interval, all fractions, in points of accuracy."""
    return f"{100 * mean:{sign}.1f} points ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
