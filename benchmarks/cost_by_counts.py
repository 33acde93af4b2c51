"""What lessons take with Stable Diffusion, counted: `python -m benchmarks.cost_by_counts --profile paper`.

No GPU is needed: operations are counted on shapes alone, and hours follow from an assumed speed. They are no
measurement; the estimate that every lesson prints is one.
"""

import argparse
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from diffinv.artefacts.writing import write_atomically
from diffinv.classifiers.architectures import build_classifier
from diffinv.classifiers.training import Training
from diffinv.datasets import dataset_card
from diffinv.lessons.ablations import base_condition, declared, grids
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import load_profile
from diffinv.method.sampling import Sampling
from diffinv.models.memory import Workload, memory_need, memory_settings_for
from diffinv.models.random_weights import networks
from diffinv.own_data.augment import planned_work
from diffinv.studies import runtime
from diffinv.studies.claims import markdown_table
from diffinv.studies.grid import Condition
from diffinv.synthesizers.gan.architectures import build_networks, working_side

# Sustained, in 1e12 operations per second; assumed. Published: an A100 makes 31 guided steps per second at
# 512 px in float16, which is 49, and float32 takes more than twice as long. A T4 takes 5 to 10 seconds for 25
# steps, which is 4 to 8. What bfloat16 and compiling gain beyond that, and all that they gain classifiers, is
# not counted.
TERAFLOPS = {"paper": 20.0, "day": 49.0, "colab": 5.0}
TERAFLOPS_OF_CLASSIFIERS = {"paper": 20.0, "day": 20.0, "colab": 5.0}
GIB_OF = {"paper": 80, "day": 40, "colab": 15}
EXTRA = {"PNDMScheduler": 1}  # predictions beyond one per step
PROMPT_TOKENS = 77  # of a prompt
NUM_TOKENS, WIDTH = 5, 768  # vectors of an image, and numbers of a vector
NATIVE = 512  # side of Stable Diffusion's own images
CLASSES_OF_OWN, SIDE_OF_OWN = 4, 32  # of the folder that lesson 14 writes


class Work(NamedTuple):
    """How often one lesson does what, for one dataset."""

    images: int  # that are inverted
    image_updates: int
    samples: int
    classifiers: int
    predictions: int | None = None  # of all samples; None = as the profile samples
    training_flops: float | None = None  # of all classifiers; None = as the profile trains
    other_flops: float = 0.0  # GANs, and what is done at another side


def costs(profile: Profile, teraflops: float, of_classifiers: float | None = None) -> pd.DataFrame:
    """A row for every lesson on every dataset of the profile, each with its own settings.

    Lessons after 03 find the vectors of its pool, and its samples and classifiers, in the cache.
    """
    rows = []
    for name in profile.datasets:
        own = profile.for_dataset(name)
        side, small = own.sampling.resolution or 0, dataset_card(name).resolution
        for lesson, done in {**lessons(own, name), **later_lessons(own, name)}.items():
            predictions = done.samples * per_sample(own.sampling)
            if done.predictions is not None:
                predictions = done.predictions
            training = done.classifiers * training_of(own.training, small)
            operations = {
                "inversion_hours": done.image_updates * update_flops(side),
                "sampling_hours": predictions * prediction_flops(side) + done.samples * decoding_flops(side),
                "other_hours": done.other_flops,
            }
            hours = {stage: flops / (teraflops * 1e12) / 3600 for stage, flops in operations.items()}
            flops = training if done.training_flops is None else done.training_flops
            hours["training_hours"] = flops / ((of_classifiers or teraflops) * 1e12) / 3600
            disk = done.images * own.inversion.num_tokens * WIDTH * 4 + done.samples * 3 * small**2
            where = {"lesson": lesson, "dataset": name, "resolution": side}
            total = {"hours": sum(hours.values()), "disk_gib": disk / 2**30}
            rows.append({**where, **done._asdict(), **hours, **total})
    return pd.DataFrame(rows)


def per_sample(sampling: Sampling) -> int:
    """Predictions of one sample."""
    steps = sampling.num_inference_steps + EXTRA.get(sampling.scheduler, 0)
    return steps if sampling.guidance_scale == 1 else 2 * steps


def training_of(training: Training, side: int) -> float:
    """One classifier."""
    return training.optimiser_steps * training.batch_size * training_flops(training.architecture, side)


def lessons(own: Profile, name: str) -> dict[str, Work]:
    """What each of the first lessons does on one dataset."""
    classes, seeds, few_seeds = len(dataset_card(name).class_names), len(own.seeds), len(own.few_seeds)
    quick, inversion, sampling, classifier = (
        own.quickstart,
        own.inversion_lesson,
        own.sampling_lesson,
        own.classifier_lesson,
    )
    real = quick.real_per_class * classes
    pairs, few = 2 * classes, min(inversion.num_images, classes)
    again = few * (1 + len(inversion.tokens_grid)) * max(inversion.updates_grid)
    drawings = few * (len(inversion.updates_grid) + len(inversion.tokens_grid))
    shown, pool = sampling.real_per_class * classes, classifier.pool_per_class * classes
    updates = own.inversion.steps_per_image
    return {
        "00": Work(real, real * updates, real * quick.images_per_real * few_seeds, 3 * few_seeds),
        "01": Work(pairs, pairs * updates + again, drawings, 0),
        "02": Work(shown, shown * updates, shown * sampling.gallery_copies + sampling.sweep_samples, 0),
        "03": Work(
            pool,
            pool * updates,
            classifier.samples_per_class * classes * seeds,
            classifier.classifiers_per_seed * seeds,
        ),
    }


def later_lessons(own: Profile, name: str) -> dict[str, Work]:
    """What the others add on one dataset after 03; all but 13 and 90, which need no GPU."""
    classes, seeds, few_seeds = len(dataset_card(name).class_names), len(own.seeds), len(own.few_seeds)
    pool = own.classifier_lesson.pool_per_class
    generator, lecf, knn = own.generator_lesson, own.lecf_lesson, own.retrieval_lesson
    shots, policies = own.few_shot_lesson, own.augmentation_lesson

    def sampled(per_class: int, images_per_real: float, seeds: int = seeds) -> int:
        return round(min(pool, per_class) * classes * seeds * images_per_real)

    kinds = 5 + len(generator.autoencoding_grid)
    most, drawn = max(lecf.images_per_real_grid), 1 + lecf.max_draws_factor
    policed = len(policies.policies) + len({"none", *policies.with_samples}) + 1  # and the best, with samples
    found = {
        "04": Work(
            0,
            0,
            sampled(generator.real_per_class, generator.images_per_real),
            kinds * seeds,
            other_flops=gan_flops(own, name),
        ),
        "05": Work(
            0, 0, sampled(lecf.real_per_class, most * drawn), (3 + 2 * len(lecf.images_per_real_grid)) * seeds
        ),
        "06": Work(
            0, 0, sampled(knn.real_per_class, knn.images_per_real), (2 + len(knn.neighbours_grid)) * seeds
        ),
    }
    if name not in shots.left_out:
        made = sum(sampled(count, 2 * shots.images_per_real, few_seeds) for count in shots.shots)
        chosen = len(policies.policies) * policies.validation_seeds
        found["07"] = Work(0, 0, made, 5 * len(shots.shots) * few_seeds + chosen)
    if name in own.architecture_lesson.datasets:
        side = dataset_card(name).resolution
        # A pretrained network counts as the ResNet18 that it is.
        networks = (*own.architecture_lesson.architectures, "resnet18")
        flops = [training_of(replace(own.training, architecture=each), side) for each in networks]
        found["08"] = Work(0, 0, 0, 3 * seeds * len(networks), training_flops=3 * seeds * sum(flops))
    made = sampled(policies.real_per_class, policies.images_per_real, few_seeds)
    chosen = len(policies.policies) * policies.validation_seeds
    found["09"] = Work(0, 0, made, policed * few_seeds + chosen)
    found["10"] = ablations(own, name)
    found["11"] = timing(own)
    if name == own.storage_lesson.dataset:
        found["12"] = storage(own, name)
    found["14"] = own_folder(own)
    # Inverted once more and sampled twice: as here, and as upstream.
    classifier = own.classifier_lesson
    real = classes * classifier.real_per_class_grid[1]
    made = 2 * real * classifier.images_per_real_grid[1] * few_seeds
    found["91"] = Work(real, real * own.inversion.steps_per_image, made, 2 * few_seeds)
    return found


def ablations(own: Profile, name: str) -> Work:
    """Each vector, sample and classifier of the conditions that lesson 10 declares and draws, once."""
    classes, seeds = len(dataset_card(name).class_names), len(own.seeds)
    tokenizer = SimpleNamespace(model_max_length=PROMPT_TOKENS)
    diffusion: Any = SimpleNamespace(native_resolution=NATIVE, tokenizer=tokenizer)
    clip: Any = None
    sides = [side for each in declared(own, name, diffusion, clip) for side in (each.a, each.b)]
    drawn = grids(own, base_condition(own, name, diffusion)).values()
    conditions: list[Condition] = []
    for each in chain(sides, *drawn):
        if (plain := replace(each, name="", axes={})) not in conditions:
            conditions.append(plain)
    pool = own.classifier_lesson.pool_per_class * classes
    updates, samples, predictions, other = 0, 0, 0, 0.0
    vectors: set[Any] = {(own.inversion, own.sampling.resolution)}
    sets: dict[Any, int] = {}
    for condition in conditions:
        made: Any = condition.synthesizer
        made, number = getattr(made, "base", made), getattr(made, "drawn", condition.images_per_real)
        key = (made.inversion, made.perturbation, made.sampling)
        sets[key] = max(number, sets.get(key, 0))
    real = min(own.ablations_lesson.real_per_class, own.classifier_lesson.pool_per_class) * classes
    for (inversion, _, sampling), number in sets.items():
        count = real * seeds * number
        if sampling.resolution == own.sampling.resolution:
            samples, predictions = samples + count, predictions + count * per_sample(sampling)
        else:
            side = sampling.resolution
            other += count * (per_sample(sampling) * prediction_flops(side) + decoding_flops(side))
        if (learned := (inversion, sampling.resolution)) not in vectors:
            vectors.add(learned)
            work = min(pool, real * seeds) * inversion.steps_per_image  # of all seeds' images, not the pool
            if sampling.resolution == own.sampling.resolution:
                updates += work
            else:
                other += work * update_flops(sampling.resolution)
    return Work(0, updates, samples, (len(conditions) + 1) * seeds, predictions, other_flops=other)


def timing(own: Profile) -> Work:
    """Lesson 11: every stage at both sides, and of a larger network where there is one, warm-ups included."""
    counts, repeats = own.runtime_lesson, own.runtime_lesson.repeats + 1
    at_once, side = counts.images_at_once * repeats, own.sampling.resolution or 0
    stages = [update_flops(s) + prediction_flops(s) + decoding_flops(s) for s in (side, NATIVE)]
    return Work(0, 0, 0, 0, other_flops=float(at_once * sum(stages)))


def own_folder(own: Profile) -> Work:
    """Lesson 14: `augment` on the folder that it writes, whatever the dataset."""
    counts = own.own_data_lesson
    real = CLASSES_OF_OWN * counts.lesson_per_class
    updates, images_per_real, classifiers = planned_work(own)
    probe = 2 * counts.probe_images * counts.probe_updates
    training = own.training.of_length(counts.lesson_steps)
    # Initialised anew, the same updates are made again; guided, a prediction is two.
    starts = len(counts.search_grid.get("inversion.initialisation", (None,)))
    samples = real * images_per_real + counts.probe_images * counts.probe_samples
    return Work(
        real,
        real * updates * starts + probe,
        samples,
        classifiers,
        samples * 2 * own.sampling.num_inference_steps,
        training_flops=classifiers * training_of(training, SIDE_OF_OWN),
    )


def storage(own: Profile, name: str) -> Work:
    """Lesson 12: samples from each codec's vectors, from fewer tokens, and by each sampler."""
    counts, classes, seeds = own.storage_lesson, len(dataset_card(name).class_names), len(own.few_seeds)
    classifier = own.classifier_lesson
    real = classifier.number_real_per_class * classes * seeds
    by_codec = real * counts.images_per_real * (len(counts.codecs) + 2 * (counts.tokens_dataset == name))
    by_sampler = real * counts.sampler_images_per_real
    each = sum(
        per_sample(
            replace(own.sampling, scheduler=scheduler, num_inference_steps=steps, guidance_scale=guidance)
        )
        for scheduler, steps, guidance in counts.samplers
    )
    pool = classifier.pool_per_class * classes * (counts.tokens_dataset == name)
    return Work(
        pool,
        pool * own.inversion.steps_per_image,
        by_codec + by_sampler * len(counts.samplers),
        (len(counts.codecs) + 2 + len(counts.samplers)) * seeds,
        predictions=by_codec * per_sample(own.sampling) + by_sampler * each,
    )


def gan_flops(own: Profile, name: str) -> float:
    """The training of a GAN for each seed, and the inversion of the real images into it."""
    counts, card = own.generator_lesson, dataset_card(name)
    classes, training = len(card.class_names), counts.gan
    side = working_side(card.resolution)
    networks = build_networks(side, classes, training.latent_dim, training.channels, seed=0)
    generator, discriminator = (network.to("meta").eval() for network in networks)
    codes = torch.zeros(1, generator.num_layers, generator.code_width, device="meta", requires_grad=True)
    pixels = torch.zeros(1, 3, side, side, device="meta", requires_grad=True)
    drawing = runtime.counted(lambda: generator(codes).sum().backward())
    judging = runtime.counted(lambda: discriminator.features(pixels)[-1].sum().backward())
    # Each judges real and drawn images, and the drawn ones once more for the generator.
    step = training.batch_size * (2 * drawing + (2 * training.discriminator_updates + 1) * judging)
    images = min(counts.real_per_class, own.classifier_lesson.pool_per_class) * classes
    inversion = images * counts.latent_inversion.steps_per_image * (drawing + judging)
    return float(len(own.seeds) * (training.optimiser_steps * step + inversion))


def markdown(profile: Profile, table: pd.DataFrame) -> list[str]:
    """Lesson 03, dataset by dataset, as the lines of a table."""
    columns = (
        "dataset", "settings", "side", "real", "samples", "inversion", "sampling", "classifiers", "hours",
        "disk",
    )  # fmt: skip
    lines = []
    for row in table[table["lesson"] == "03"].itertuples():
        hours = (row.inversion_hours, row.sampling_hours, row.training_hours, row.hours)
        cells = [
            row.dataset,
            profile.dataset_settings[row.dataset].origin,
            f"{row.resolution} px",
            f"{row.images:,}",
            f"{row.samples:,}",
            *(f"{each:.0f} h" if each >= 1 else f"{each:.1f} h" for each in hours),
            f"{row.disk_gib:.1f} GiB",
        ]
        lines.append(cells)
    return markdown_table(columns, lines).splitlines()


@cache
def prediction_flops(resolution: int) -> int:
    """One prediction of the U-Net, for one image."""
    return runtime.prediction_flops(networks_on_meta()[1], resolution // 8, NUM_TOKENS)


@cache
def update_flops(resolution: int) -> int:
    """One update of the vectors of one image: forwards, and backwards to the vectors alone."""
    return runtime.update_flops(networks_on_meta()[1], resolution // 8, NUM_TOKENS)


@cache
def decoding_flops(resolution: int) -> int:
    """The autoencoder drawing one image."""
    return runtime.decoding_flops(networks_on_meta()[0], resolution // 8)


@cache
def training_flops(architecture: str, resolution: int) -> int:
    """One image in one optimiser step of a classifier."""
    model = build_classifier(architecture, 10, resolution).to("meta")
    pixels = torch.zeros(1, 3, resolution, resolution, device="meta")
    model.eval()  # as many operations, and no batch of one to normalise
    return runtime.counted(lambda: model(pixels).sum().backward())


def memory(profile: Profile, name: str, gib: float) -> dict[str, Any]:
    """GiB that an update of the profile's batch keeps, and what is traded for it on a GPU of that many."""
    own = profile.for_dataset(name)
    vae, _, text_encoder = networks_on_meta()
    with torch.device("meta"):
        unet: nn.Module = networks("sd-v1")[1]
    unet.to_empty(device="cpu")  # the count runs it once, on whatever numbers there are
    workload = Workload(own.sampling.resolution, own.inversion.batch_size)
    need = memory_need(workload, (vae, unet, text_encoder), profile.torch_dtype)
    traded = memory_settings_for(round(gib * 2**30), need)
    return {
        "weights_gib": need.weights / 2**30,
        "activations_gib": need.activations / 2**30,
        "decoding_gib": need.decoding / 2**30,
        "traded": ", ".join(key for key, value in vars(traded).items() if value) or "nothing",
    }


@cache
def networks_on_meta() -> list[Any]:
    """Autoencoder, U-Net and text encoder as shapes without numbers."""
    with torch.device("meta"):
        found: list[nn.Module] = list(networks("sd-v1"))
    return [network.requires_grad_(False).eval() for network in found]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost_by_counts", description=__doc__.split(":")[0]
    )
    parser.add_argument("--profile", choices=TERAFLOPS, default="paper")
    parser.add_argument(
        "--teraflops", type=float, default=None, help="sustained, by all; default: as the page on GPUs says"
    )
    parser.add_argument("--memory", action="store_true", help="count that too: takes 4 GB of memory")
    parser.add_argument("--markdown", action="store_true", help="lesson 03 as the table of docs/gpu.md")
    parser.add_argument("--output", type=Path, default=None, help="a CSV file")
    chosen = parser.parse_args(arguments)
    profile = load_profile(chosen.profile)
    speed = chosen.teraflops or TERAFLOPS[chosen.profile]
    table = costs(profile, speed, chosen.teraflops or TERAFLOPS_OF_CLASSIFIERS[chosen.profile])
    if chosen.markdown:
        print("\n".join(markdown(profile, table)))
        return 0
    print(table.round(2).to_string(index=False))
    print(table.groupby("lesson")["hours"].sum().round(2).to_string())
    print(table.groupby("dataset", sort=False)["hours"].sum().round(2).to_string())
    if chosen.memory:
        gib = GIB_OF[chosen.profile]
        needs = {name: memory(profile, name, gib) for name in profile.datasets}
        print(pd.DataFrame.from_dict(needs, orient="index").round(1).to_string())
    if chosen.output is not None:
        with write_atomically(chosen.output, "w") as file:
            table.to_csv(file, index=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
