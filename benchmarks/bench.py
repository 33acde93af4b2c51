"""How much of stage 1 and stage 2 is the network itself: `python -m benchmarks.bench`.

Each stage takes turns with the bare network calls that it needs, step by step, so that whatever else the
machine does slows both. A ratio of 1 would mean that all the rest (random numbers, noise schedule, optimiser,
scheduler) is free.
"""

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from diffinv.artefacts.writing import provenance, write_json
from diffinv.datasets import LabelledImages
from diffinv.foundation.randomness import stream
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.method.sampling import Sampling, denoising_steps
from diffinv.models.checkpoint import CheckpointError
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion

GOALS = {"inversion": 0.9, "sampling": 0.95}
WARM_UP_STEPS = 2  # of each side, not counted: the first calls of a network allocate and choose kernels


@dataclass(frozen=True)
class Measurement:
    """Medians over the repeats, in seconds; the ratio is the median of each repeat's own."""

    stage: str
    what: str
    ours_seconds: float
    bare_seconds: float
    ratio: float  # bare / ours
    ratio_range: tuple[float, float]
    goal: float
    ours_ms_per_image: float  # of one update, or of one finished image


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tinysd", help="a checkpoint, as load_diffusion takes it")
    parser.add_argument("--device", default=None, help="default: the fastest one found")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--resolution", type=int, default=32)
    # A minute on one slow core, with no more images side by side than the profiles have.
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--updates", type=int, default=25, help="updates of stage 1 in one repeat")
    parser.add_argument("--inference-steps", type=int, default=10, help="denoising steps of stage 2")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("runs/bench.json"))
    chosen = parser.parse_args(arguments)
    try:
        diffusion = load_diffusion(chosen.model, device=chosen.device, dtype=getattr(torch, chosen.dtype))
        diffusion.check_resolution(chosen.resolution)
    except ValueError as error:  # a missing checkpoint, an unsuitable side: one sentence
        kind = "No checkpoint to measure" if isinstance(error, CheckpointError) else "Cannot measure"
        print(f"{kind}: {error}")
        return 2
    measurements = [
        measure_inversion(diffusion, chosen.resolution, chosen.batch_size, chosen.updates, chosen.repeats),
        measure_sampling(
            diffusion, chosen.resolution, chosen.batch_size, chosen.inference_steps, chosen.repeats
        ),
    ]
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()
    }
    record = provenance(
        settings=settings,
        device=str(diffusion.device),
        threads=torch.get_num_threads(),
        model_fingerprint=diffusion.fingerprint,
        measurements=[asdict(each) for each in measurements],
    )
    write_json(chosen.output, record)
    print(table(measurements))
    print(f"{torch.get_num_threads()} threads on {diffusion.device}; written to {chosen.output}")
    return 0


def measure_inversion(
    diffusion: FrozenDiffusion, resolution: int, batch_size: int, updates: int, repeats: int
) -> Measurement:
    """Stage 1, with its encoding of the images, against forward and backward passes of the raw U-Net."""
    real = random_images(batch_size, resolution)
    settings = Inversion(steps_per_image=updates)
    latents, timesteps, vectors = network_inputs(diffusion, resolution, batch_size, settings.num_tokens)
    vectors.requires_grad_()

    def ours() -> Iterator[object]:
        return inversion_steps(diffusion, real, settings)

    def bare() -> Iterator[object]:
        for _ in range(updates):
            prediction = diffusion.unet(latents, timesteps, encoder_hidden_states=vectors, return_dict=False)
            yield torch.autograd.grad(prediction[0].float().square().mean(), vectors)

    what = f"{updates} updates of {batch_size} images"
    return measure("inversion", what, ours, bare, repeats, batch_size * updates, diffusion.device)


def measure_sampling(
    diffusion: FrozenDiffusion, resolution: int, batch_size: int, inference_steps: int, repeats: int
) -> Measurement:
    """Stage 2 with guidance against the doubled forward passes and the one decoding that it needs."""
    settings = Sampling(num_inference_steps=inference_steps, batch_size=batch_size, resolution=resolution)
    _, _, vectors = network_inputs(diffusion, resolution, batch_size, tokens=5)
    unconditional = vectors.mean(dim=0, keepdim=True)
    latents, timesteps, doubled = network_inputs(diffusion, resolution, 2 * batch_size, tokens=5)

    def ours() -> Iterator[object]:  # what `sample` does to a batch, step by step
        streams = [stream(0, "bench", row) for row in range(batch_size)]
        for step in denoising_steps(diffusion, vectors, unconditional, settings, streams):
            yield step
        yield diffusion.decode(step.latents)

    @torch.no_grad()
    def bare() -> Iterator[object]:
        for _ in range(inference_steps):
            yield diffusion.unet(latents, timesteps, encoder_hidden_states=doubled, return_dict=False)
        yield diffusion.vae.decode(latents[:batch_size], return_dict=False)

    what = f"{batch_size} images in {inference_steps} guided steps"
    return measure("sampling", what, ours, bare, repeats, batch_size, diffusion.device)


def measure(
    stage: str,
    what: str,
    ours: Callable[[], Iterator[object]],
    bare: Callable[[], Iterator[object]],
    repeats: int,
    units: int,
    device: torch.device,
) -> Measurement:
    """Time both in turns, after a few steps each to warm up."""
    for side in (ours, bare):
        deque(islice(side(), WARM_UP_STEPS), maxlen=0)
    pairs = [timed_in_turns(ours(), bare(), device) for _ in range(repeats)]
    ratios = [bare_seconds / ours_seconds for ours_seconds, bare_seconds in pairs]
    median_ours, median_bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Measurement(
        stage=stage,
        what=what,
        ours_seconds=median_ours,
        bare_seconds=median_bare,
        ratio=statistics.median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        goal=GOALS[stage],
        ours_ms_per_image=1000 * median_ours / units,
    )


def timed_in_turns(
    ours: Iterator[object], bare: Iterator[object], device: torch.device
) -> tuple[float, float]:
    """Seconds that each of the two takes to its end, one step of the one after one step of the other.

    A GPU works behind Python's back and is not made to wait after every step: there each runs as a whole.
    """
    steps_a_turn = 1 if device.type == "cpu" else None
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = {ours: 0.0, bare: 0.0}
    order = [ours, bare]
    while order:
        for side in tuple(order):
            wait()
            started = time.perf_counter()
            ended = not sum(1 for _ in islice(side, steps_a_turn))
            wait()
            seconds[side] += time.perf_counter() - started
            if ended:
                order.remove(side)
        order.reverse()  # now one first, now the other: a slow trend then favours neither
    return seconds[ours], seconds[bare]


def network_inputs(
    diffusion: FrozenDiffusion, resolution: int, count: int, tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random latents, timesteps and vectors in the network's own dtype."""
    side = resolution // diffusion.downsampling_factor
    generator = stream(0, "bench inputs")
    latents = torch.randn(count, diffusion.latent_channels, side, side, generator=generator)
    vectors = torch.randn(count, tokens, diffusion.embedding_width, generator=generator)
    timesteps = torch.randint(diffusion.num_train_timesteps, (count,), generator=generator)
    place = {"device": diffusion.device, "dtype": diffusion.dtype}
    return latents.to(**place), timesteps.to(diffusion.device), vectors.to(**place)


def random_images(count: int, resolution: int) -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 256, (count, resolution, resolution, 3), dtype=np.uint8)
    return LabelledImages(
        images=pixels,
        labels=np.zeros(count, dtype=np.int64),
        class_names=("noise",),
        ids=tuple(f"noise/{number}" for number in range(count)),
    )


def table(measurements: list[Measurement]) -> str:
    layout = "{:<10} {:<32} {:>8} {:>8} {:>6} {:>12} {:>5} {:>9}".format
    lines = [layout("stage", "what", "ours s", "bare s", "ratio", "range", "goal", "ms/image")]
    for each in measurements:
        seconds = (f"{value:.2f}" for value in (each.ours_seconds, each.bare_seconds))
        spread = "{:.2f} - {:.2f}".format(*each.ratio_range)
        ratio, each_image = f"{each.ratio:.3f}", f"{each.ours_ms_per_image:.2f}"
        lines.append(layout(each.stage, each.what, *seconds, ratio, spread, each.goal, each_image))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
