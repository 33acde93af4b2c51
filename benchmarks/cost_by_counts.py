"""What lessons take with Stable Diffusion, counted: `python -m benchmarks.cost_by_counts --profile paper`.

No GPU is needed: operations are counted on shapes alone, and hours follow from an assumed speed. They are no
measurement; the estimate that every lesson prints is one.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from diffinv.artefacts.writing import write_atomically
from diffinv.classifiers.architectures import build_classifier
from diffinv.datasets import dataset_card
from diffinv.lessons.profile import Profile
from diffinv.lessons.profiles import load_profile
from diffinv.models.memory import Workload, memory_need, memory_settings_for
from diffinv.models.random_weights import networks
from diffinv.studies import runtime
from diffinv.studies.claims import markdown_table

# Sustained, in 1e12 operations per second; assumed. Published: an A100 makes 31 guided steps per second at
# 512 px in float16, which is 49, and float32 takes more than twice as long. A T4 takes 5 to 10 seconds for 25
# steps, which is 4 to 8.
TERAFLOPS = {"paper": 20.0, "colab": 5.0}
GIB_OF = {"paper": 80, "colab": 15}
EXTRA = {"PNDMScheduler": 1}  # predictions beyond one per step
NUM_TOKENS, WIDTH = 5, 768  # vectors of an image, and numbers of a vector


class Work(NamedTuple):
    """How often one lesson does what, for one dataset."""

    images: int  # that are inverted
    image_updates: int
    samples: int
    classifiers: int


def costs(profile: Profile, teraflops: float) -> pd.DataFrame:
    """A row for every lesson on every dataset of the profile, each with its own settings."""
    rows = []
    for name in profile.datasets:
        own = profile.for_dataset(name)
        side, small = own.sampling.resolution or 0, dataset_card(name).resolution
        predictions = 2 * (own.sampling.num_inference_steps + EXTRA.get(own.sampling.scheduler, 0))
        sample = predictions * prediction_flops(side) + decoding_flops(side)
        image = training_flops(own.training.architecture, small)
        training = own.training.optimiser_steps * own.training.batch_size * image
        for lesson, done in lessons(own, name).items():
            operations = {
                "inversion_hours": done.image_updates * update_flops(side),
                "sampling_hours": done.samples * sample,
                "training_hours": done.classifiers * training,
            }
            hours = {stage: flops / (teraflops * 1e12) / 3600 for stage, flops in operations.items()}
            disk = done.images * own.inversion.num_tokens * WIDTH * 4 + done.samples * 3 * small**2
            where = {"lesson": lesson, "dataset": name, "resolution": side}
            total = {"hours": sum(hours.values()), "disk_gib": disk / 2**30}
            rows.append({**where, **done._asdict(), **hours, **total})
    return pd.DataFrame(rows)


def lessons(own: Profile, name: str) -> dict[str, Work]:
    """What each lesson does on one dataset."""
    classes, seeds = len(dataset_card(name).class_names), len(own.seeds)
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
        "00": Work(real, real * updates, real * quick.images_per_real * seeds, 3 * seeds),
        "01": Work(pairs, pairs * updates + again, drawings, 0),
        "02": Work(shown, shown * updates, shown * sampling.gallery_copies + sampling.sweep_samples, 0),
        "03": Work(
            pool,
            pool * updates,
            classifier.samples_per_class * classes * seeds,
            classifier.classifiers_per_seed * seeds,
        ),
    }


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
        "--teraflops", type=float, default=None, help="sustained; default: 20 or, for colab, 5"
    )
    parser.add_argument("--memory", action="store_true", help="count that too: takes 4 GB of memory")
    parser.add_argument("--markdown", action="store_true", help="lesson 03 as the table of docs/gpu.md")
    parser.add_argument("--output", type=Path, default=None, help="a CSV file")
    chosen = parser.parse_args(arguments)
    profile = load_profile(chosen.profile)
    table = costs(profile, chosen.teraflops or TERAFLOPS[chosen.profile])
    if chosen.markdown:
        print("\n".join(markdown(profile, table)))
        return 0
    print(table.round(2).to_string(index=False))
    print(table.groupby("lesson")["hours"].sum().round(2).to_string())
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
