"""``diffinv pretrain``: make TinySD again, stage by stage, on a CPU or a GPU, resumable at any point.

To use both cores of a laptop or several GPUs for the long stage:
``torchrun --nproc-per-node 2 -m diffinv.tinysd.pretrain --stage unet --minutes 60 --resume``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from diffinv.foundation.errors import guarded
from diffinv.tinysd.stages import RECIPE, STAGES, TRAINED, Pretraining, check_forerunners
from diffinv.tinysd.training.training_loop import SCHEDULES


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run one stage, or all in order.

    ValueError, one sentence, for impossible options, a stage whose forerunners are missing, and a checkpoint
    that would be overwritten.
    """
    options = _parser().parse_args(arguments)
    stages = [*RECIPE] if options.stage == "all" else [options.stage]
    _check(options, stages)
    if "LOCAL_RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.set_num_threads(options.threads)
    chosen = {
        "total_samples": options.samples,
        "batch_size": options.batch_size,
        "decay_share": options.decay_share,
    }
    changes: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    schedules = {
        stage: replace(schedule, **changes) if stage in stages else schedule
        for stage, schedule in SCHEDULES.items()
    }
    settings = Pretraining(
        options.work,
        options.minutes,
        options.concepts,
        schedules,
        options.device,
        options.iconify,
        options.note,
        options.wider,
        options.packed,
        options.start,
    )
    for stage in stages:
        check_forerunners(stage, settings.work)
        STAGES[stage](settings)
    return 0


def _check(options: argparse.Namespace, stages: list[str]) -> None:
    if options.wider < 0:
        raise ValueError(f"--wider must be 0 or more, not {options.wider}.")
    for name in ("samples", "batch_size", "concepts", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")
    if options.decay_share is not None and not 0 <= options.decay_share <= 1:
        raise ValueError(f"--decay-share must be from 0 to 1, not {options.decay_share}.")
    if not options.minutes >= 0:
        raise ValueError(f"--minutes must be 0 or more, not {options.minutes}.")
    kind = options.device.split(":")[0]
    if kind not in {"cpu", "cuda"}:
        raise ValueError(f"--device is cpu or cuda, not {options.device!r}.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here: use --device cpu.")
    for stage in stages:
        checkpoint = options.work / f"{stage}.safetensors"
        if stage in TRAINED and checkpoint.exists() and not options.resume:
            raise ValueError(f"{checkpoint} exists: add --resume to continue it, or choose another --work.")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="diffinv pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--stage", choices=[*STAGES, "all"], default="all", help="stages build on one another"
    )
    parser.add_argument(
        "--minutes", type=float, default=1e6, help="stop each stage after so long; resume later"
    )
    parser.add_argument("--samples", type=int, help="samples that a trained stage sees in all")
    parser.add_argument("--note", default="", help="what the card should say beyond its logs")
    parser.add_argument("--batch-size", type=int, help="samples per update; fewer mean more updates per hour")
    parser.add_argument(
        "--decay-share", type=float, help="last share of the samples, in which the rate falls to 0"
    )
    parser.add_argument(
        "--concepts", type=int, default=200, help="how many of the commonest concepts to learn"
    )
    parser.add_argument(
        "--wider", type=int, default=1300, help="how many of the next commonest concepts to learn after them"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoints in --work")
    parser.add_argument("--work", type=Path, default=Path(".pretrain"), help="folder of checkpoints and logs")
    parser.add_argument("--iconify", type=Path, help="an unpacked @iconify/json, instead of fetching it")
    parser.add_argument(
        "--packed", type=Path, help="a corpus packed by --stage pack, instead of drawing it; or where to pack"
    )
    parser.add_argument(
        "--start", type=Path, help="an earlier TinySD: stage vision starts from the image half of its CLIP"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    # More than one thread gains little at 8 x 8 latents; more processes (torchrun) do.
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    return parser


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(sys.argv[1:]) or 0))
