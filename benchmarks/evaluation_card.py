"""How long an evaluation card takes, and how much memory: `python -m benchmarks.evaluation_card`.

The whole card but for the accuracy of classifiers: features, neighbours, Fréchet distance, diversity, copies
and leaks, for as many real as synthetic images, with test images beside them. Once with features of the width
of a large CLIP, which are given, and once with those of the embedded CLIP, which are computed.
"""

import argparse
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from diffinv.artefacts.writing import provenance, write_json
from diffinv.datasets import LabelledImages
from diffinv.evaluation.card import evaluation_card
from diffinv.models.clip import load_clip

GOAL_SECONDS = 60
SMALL = 2_000
SEED_OF = {"real": 0, "synthetic": 1, "test": 2}


@dataclass(frozen=True)
class Measurement:
    """What one card took; CPU seconds say what it would take on an idle machine, divided by the threads."""

    features: str
    width: int
    num_real: int
    num_synthetic: int
    num_test: int
    seconds: float
    cpu_seconds: float
    peak_mib: float  # of the process so far
    goal_seconds: float = GOAL_SECONDS


class GivenFeatures:
    """Stands in for a CLIP whose features are known already: random ones of length 1."""

    name = "given"

    def __init__(self, width: int) -> None:
        self.width = width

    def image_features(self, images: np.ndarray) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(images[0].sum()))
        features = torch.randn(len(images), self.width, generator=generator)
        return torch.nn.functional.normalize(features, dim=1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation_card",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=10_000, help="real ones, and as many synthetic ones")
    parser.add_argument("--test-images", type=int, default=2_000, help="beside them")
    parser.add_argument("--small", action="store_true", help=f"{SMALL:,} images of each kind, in a minute")
    parser.add_argument("--width", type=int, default=512, help="numbers in a feature that is given")
    parser.add_argument("--resolution", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--skip-clip", action="store_true", help="measure with given features alone")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_evaluation_card.json"), help="record")
    chosen = parser.parse_args(arguments)
    if chosen.small:
        chosen.images = chosen.test_images = SMALL
    clips = [GivenFeatures(chosen.width)] + ([] if chosen.skip_clip else [load_clip(device="cpu")])
    measurements = [measure(clip, chosen.images, chosen.test_images, chosen.resolution) for clip in clips]
    settings = {name: str(value) for name, value in vars(chosen).items()}
    record = provenance(
        settings=settings,
        threads=torch.get_num_threads(),
        measurements=[asdict(each) for each in measurements],
    )
    write_json(chosen.output, record)
    print(table(measurements))
    print(f"{torch.get_num_threads()} threads; written to {chosen.output}")
    return 0


def measure(clip: object, images: int, test_images: int, resolution: int) -> Measurement:
    """Make three sets of noise, which cost nothing here, and time their card."""
    sets = {
        role: noise(role, test_images if role == "test" else images, resolution)
        for role in ("real", "synthetic", "test")
    }
    started, cpu_started = time.perf_counter(), time.process_time()
    evaluation_card(sets["real"], sets["synthetic"], test=sets["test"], clip=clip)
    return Measurement(
        features=getattr(clip, "name", "in memory"),
        width=clip.image_features(sets["test"].images[:1]).shape[1],
        num_real=images,
        num_synthetic=images,
        num_test=test_images,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        peak_mib=peak_mib(),
    )


def noise(role: str, count: int, resolution: int) -> LabelledImages:
    """Ten classes of noise; two samples of each original, where the images are synthetic."""
    generator = np.random.default_rng(SEED_OF[role])
    return LabelledImages(
        images=generator.integers(0, 256, (count, resolution, resolution, 3), dtype=np.uint8),
        labels=np.arange(count) % 10,
        class_names=tuple(f"class {label}" for label in range(10)),
        ids=tuple(f"{role}/{index}" for index in range(count)),
        sources=tuple(f"real/{index // 20 * 10 + index % 10}" for index in range(count))
        if role == "synthetic"
        else None,
    )


def peak_mib() -> float:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def table(measurements: list[Measurement]) -> str:
    layout = "{:<10} {:>6} {:>18} {:>9} {:>9} {:>9} {:>7}".format
    lines = [layout("features", "width", "real + made + test", "s", "CPU s", "peak MiB", "goal s")]
    for each in measurements:
        counts = f"{each.num_real} + {each.num_synthetic} + {each.num_test}"
        seconds = (f"{value:.1f}" for value in (each.seconds, each.cpu_seconds))
        lines.append(
            layout(each.features, each.width, counts, *seconds, f"{each.peak_mib:.0f}", each.goal_seconds)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
