"""Updates and samples per second at Stable Diffusion's size: `python -m benchmarks.gpu_throughput`.

The network is that of version 1 with random weights, on which speed does not depend: nothing is downloaded.
"""

import argparse
import gc
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from benchmarks.bench import random_images
from diffinv.artefacts.writing import write_atomically
from diffinv.foundation.networks import best_device, device_name
from diffinv.method.inversion import Inversion
from diffinv.method.sampling import Sampling
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.models.memory import reset_peak_memory
from diffinv.models.random_weights import random_diffusion
from diffinv.studies.estimate import measure_denoising, measure_update
from diffinv.studies.runtime import on_meta, update_flops

MODES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # products rounded to 10 bits, as GPUs from Ampere on can
    "fp16": torch.float16,  # for a GPU without bfloat16, such as a T4
    "bf16": torch.bfloat16,
    "compiled": torch.bfloat16,
}
# Published peaks of dense products, in 1e12 operations per second: float32, TF32, half precision.
PEAKS = {
    "T4": (8.1, 8.1, 65),
    "V100": (15.7, 15.7, 125),
    "A100": (19.5, 156, 312),
    "L4": (30.3, 60, 121),
    "H100": (67, 495, 989),
    "H200": (67, 495, 989),
}


@dataclass(frozen=True)
class Throughput:
    """One row of the table; an update is of one image, a sample one image of so many guided steps.

    The numbers measured are None where the memory ran out.
    """

    device: str
    network: str
    mode: str  # compiled: torch.compile of the U-Net, in bfloat16 on a GPU
    resolution: int
    batch_size: int
    num_inference_steps: int
    updates_per_second: float | None
    samples_per_second: float | None
    peak_gib: float | None
    peak_share: float | None  # of what the card can do at most, by operations of updates; None = not known
    torch: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_throughput", description=__doc__.split(":")[0]
    )
    parser.add_argument("--device", default=None, help="default: the GPU found")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["fp32", "tf32", "bf16", "compiled"])
    parser.add_argument("--batch-size", type=int, default=32, help="at 128 px; fewer above it, by the pixels")
    parser.add_argument("--inference-steps", type=int, default=50, help="guided steps of one sample")
    parser.add_argument(
        "--smoke", action="store_true", help="a small network, in float32, to see that it runs"
    )
    parser.add_argument("--output", type=Path, default=Path("figures/gpu_throughput.csv"))
    chosen = parser.parse_args(arguments)
    if chosen.smoke:
        chosen.resolutions, chosen.batch_size, chosen.modes = [64], 1, ["fp32", "compiled"]
    try:
        device = find_device(chosen.device, smoke=chosen.smoke)
    except ValueError as error:
        print(error)
        return 2
    rows = []
    for row in measure(chosen, device):
        rows.append(asdict(row))
        speed = f"{row.updates_per_second:.2f} updates/s" if row.updates_per_second else "the memory ran out"
        print(f"{row.mode} at {row.resolution} px: {speed}", flush=True)
        # After every row: what was measured is kept if a later one fails.
        table = pd.DataFrame(rows)
        with write_atomically(chosen.output, "w") as file:
            table.to_csv(file, index=False)
    print(table.to_string(index=False))
    return 0


def find_device(name: str | None, *, smoke: bool) -> torch.device:
    """The device of this name, or the fastest one; ValueError if it is not there or would take for ever."""
    device = torch.device(name or best_device())
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA device is found: install torch for CUDA, or choose another --device.")
    if device.type == "cpu" and not (name or smoke):
        raise ValueError(
            "No GPU is found: run this where there is one, with --smoke to see that it runs, or with "
            "--device cpu --modes fp32 if you have an hour."
        )
    return device


def measure(chosen: argparse.Namespace, device: torch.device) -> Iterator[Throughput]:
    """One row for each resolution and mode, each with networks of its own."""
    network = "small" if chosen.smoke else "sd-v1"
    for resolution in chosen.resolutions:
        batch_size = max(1, round(chosen.batch_size * 128**2 / resolution**2))
        sampling = Sampling(num_inference_steps=chosen.inference_steps, resolution=resolution)
        for mode in chosen.modes:
            torch.set_float32_matmul_precision("highest" if mode == "fp32" else "high")
            torch.backends.cudnn.allow_tf32 = mode != "fp32"
            diffusion = random_diffusion(network, device, torch.float32 if chosen.smoke else MODES[mode])
            if mode == "compiled":
                # Traced but not turned into code in a smoke test, which needs no compiler then.
                diffusion.unet.compile(backend="eager" if chosen.smoke else "inductor", dynamic=False)
            try:
                speeds = measure_speeds(diffusion, batch_size, sampling)
            except torch.OutOfMemoryError:
                speeds = (None, None, None)
            yield Throughput(
                device_name(device),
                network,
                mode,
                resolution,
                batch_size,
                sampling.num_inference_steps,
                *speeds,
                peak_share(diffusion, device, mode, resolution, speeds[0]),
                torch=torch.__version__,
            )
            del diffusion
            torch.compiler.reset()
            gc.collect()  # a compiled network refers to itself, and would count in the next one's peak
            if device.type == "cuda":
                torch.cuda.empty_cache()


def peak_share(
    diffusion: FrozenDiffusion, device: torch.device, mode: str, resolution: int, updates: float | None
) -> float | None:
    """So many updates per second, as a share of the card's published peak."""
    kind = {"fp32": 0, "tf32": 1}.get(mode, 2)
    peaks = [peak[kind] for name, peak in PEAKS.items() if name in device_name(device).split("-")[0].split()]
    if updates is None or not peaks or device.type != "cuda":
        return None
    side = resolution // diffusion.downsampling_factor
    flops = update_flops(on_meta(diffusion.unet), side, Inversion().num_tokens)
    return updates * flops / (peaks[0] * 1e12)


def measure_speeds(
    diffusion: FrozenDiffusion, batch_size: int, sampling: Sampling
) -> tuple[float, float, float | None]:
    """Updates and samples per second, and the GiB at the peak of the two stages."""
    reset_peak_memory(diffusion.device)
    images = random_images(batch_size, sampling.resolution)
    update = measure_update(diffusion, images, Inversion())
    denoising = measure_denoising(diffusion, batch_size, Inversion().num_tokens, sampling)
    seconds = denoising.setup_seconds + sampling.num_inference_steps * denoising.step_seconds
    peaks = [each.peak_bytes for each in (update, denoising) if each.peak_bytes is not None]
    return (
        batch_size / update.step_seconds,
        batch_size / seconds,
        max(peaks) / 2**30 if peaks else None,
    )


if __name__ == "__main__":
    raise SystemExit(main())
