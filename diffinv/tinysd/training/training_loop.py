"""One resumable training loop for every stage: step-seeded data, EMA, a trapezoid schedule, checkpoints."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffinv.artefacts.writing import write_json, write_whole
from diffinv.foundation.randomness import numpy_stream, stream


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns."""

    total_samples: int
    batch_size: int
    learning_rate: float
    warmup_samples: int = 10_000
    decay_share: float = 0.3  # the last share of the samples, over which the learning rate falls to zero
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    optimiser: Literal["adamw", "muon"] = "adamw"  # Muon (Jordan et al. 2024) takes the hidden weights alone

    def factor(self, samples: int) -> float:
        """Learning-rate factor in [0, 1] after ``samples`` samples: up, flat, down."""
        left = (self.total_samples - samples) / max(1.0, self.decay_share * self.total_samples)
        return float(min(1.0, (samples + self.batch_size) / self.warmup_samples, max(0.0, left)))


@dataclass(frozen=True)
class Task:
    """Where, how and how long a stage is trained."""

    folder: Path
    schedule: Schedule
    minutes: float
    device: str = "cpu"


# The recipe of each stage.
SCHEDULES: Mapping[str, Schedule] = {
    "vae": Schedule(total_samples=120_000, batch_size=32, learning_rate=2e-3),
    "clip": Schedule(total_samples=240_000, batch_size=128, learning_rate=1e-3),
    "vision": Schedule(
        total_samples=2_000_000, batch_size=128, learning_rate=1e-3, weight_decay=0.05, optimiser="muon"
    ),
    "unet": Schedule(
        total_samples=5_000_192, batch_size=256, learning_rate=2.5e-3, decay_share=0.0, optimiser="muon"
    ),
    "unet64": Schedule(
        total_samples=864_000, batch_size=192, learning_rate=2.5e-3, decay_share=0.7, optimiser="muon"
    ),
}
FIRST_OR_LAST = re.compile(r"\bconv_in\b|\bconv_out\b|\bembeddings\b|_projection\b")  # of a U-Net, a CLIP
ADAMW_STATE, MUON_STATE = ("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)


def rank() -> int:
    """Number of this process among those that train together (0 when alone)."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together; each takes its share of every batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


class PretrainingDiverged(RuntimeError):
    """A stage's loss is no longer finite; the message says what to do."""


@contextmanager
def seeded_initialisation() -> Iterator[None]:
    """Draw a network's first weights from a seed, and leave the process's own random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def mixed_precision(device: str) -> Iterator[None]:
    """Compute in bfloat16 what bears it, where ``device`` has instructions for it: autocast."""
    on_cpu = device == "cpu"
    capable = not on_cpu or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    with ExitStack() as stack:
        if capable:
            stack.enter_context(torch.autocast(device.split(":")[0], torch.bfloat16))
            if on_cpu:
                # The fused attention's backward pass takes eleven times as long in bfloat16 as in float32,
                # and with it a third of a training step.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Those that the optimiser moves, by name, in the network's order."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def hidden_matrices(network: nn.Module) -> dict[int, nn.Parameter]:
    """Views ``[out, in * height * width]`` of the trained weights but those of the first and last layers.

    By their number among the trained parameters; they share the network's storage.
    """
    return {
        number: nn.Parameter(p.detach().view(len(p), -1))
        for number, (name, p) in enumerate(trained_parameters(network).items())
        if p.ndim > 1 and not FIRST_OR_LAST.search(name)
    }


LossFunction = Callable[[nn.Module, np.random.Generator, torch.Generator], Tensor]


class TrainingRun:
    """A stage's network, optimiser and EMA copy, continued from ``folder`` when a checkpoint lies there.

    The batch of a step is a pure function of (stage, step, process), so a run that was killed and resumed by
    as many processes sees exactly the batches that an unbroken run sees.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        folder: Path,
        *,
        name: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.network, self.schedule, self.folder, self.name = network, schedule, folder, name
        self.clock = clock or time.monotonic
        self.parameters = [*trained_parameters(network).values()]
        # By a parameter's number: its own storage as the matrix that Muon wants.
        self.matrices = hidden_matrices(network) if schedule.optimiser == "muon" else {}
        self.optimisers = self._new_optimisers()
        self.ema = [p.detach().clone() for p in self.parameters]
        self.samples, self.seconds = 0, 0.0
        self._load()

    def _new_optimisers(self) -> list[torch.optim.Optimizer]:
        rate, decay = self.schedule.learning_rate, self.schedule.weight_decay
        others = [p for number, p in enumerate(self.parameters) if number not in self.matrices]
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, weight_decay=decay, betas=(0.9, 0.99), fused=True)
        ]
        if matrices := [*self.matrices.values()]:
            # Steps of AdamW's size, so that one learning rate serves both (Liu et al. 2025).
            optimisers.append(
                torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            )
        return optimisers

    def _state_of(self, number: int) -> dict[str, Tensor]:
        """What its optimiser remembers of a parameter, to read and to change."""
        if number in self.matrices:
            return self.optimisers[1].state[self.matrices[number]]
        return self.optimisers[0].state[self.parameters[number]]

    @property
    def finished(self) -> bool:
        """Say whether the schedule has been run to its end."""
        return self.samples >= self.schedule.total_samples

    def run(
        self,
        loss_function: LossFunction,
        *,
        minutes: float,
        save_every_seconds: float = 180,
        milestone_samples: int | None = None,
    ) -> None:
        """Train for ``minutes`` at most, or to the schedule's end, logging to ``<name>.jsonl``.

        Every ``milestone_samples`` samples the EMA weights are kept in half precision, as
        ``<name>-<samples>.safetensors``.
        """
        started, saved, losses = self.clock(), self.clock(), []
        before = self.seconds
        self.network.train()
        while not self.finished and not self._out_of_time(self.clock() - started > 60 * minutes):
            losses.append(self._step(loss_function))
            self.seconds = before + self.clock() - started
            if milestone_samples and self.samples % milestone_samples < self.schedule.batch_size:
                self._keep_milestone()
            if len(losses) == 50:
                self._log(float(np.mean(losses)))
                losses.clear()
            if self.clock() - saved > save_every_seconds:
                self.save()
                saved = self.clock()
        if losses:
            self._log(float(np.mean(losses)))
        self.save()

    def ema_state(self) -> dict[str, Tensor]:
        """Return the network's state with the trained parameters replaced by their running mean."""
        state = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        return state | dict(zip(trained_parameters(self.network), self.ema, strict=True))

    def _step(self, loss_function: LossFunction) -> float:
        step = self.samples // self.schedule.batch_size
        factor = self.schedule.factor(self.samples)
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = self.schedule.learning_rate * factor
        keys = (self.name, step, rank())
        loss = loss_function(self.network, numpy_stream(0, *keys), stream(0, *keys, "noise"))
        if not torch.isfinite(loss):
            raise PretrainingDiverged(
                f"the {self.name} stage's loss is not finite at step {step}: "
                "resume it with a lower learning rate."
            )
        loss.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for number, matrix in self.matrices.items():
            gradient = self.parameters[number].grad
            matrix.grad = None if gradient is None else gradient.flatten(1)
        for optimiser in self.optimisers:
            optimiser.step()
        self.network.zero_grad(set_to_none=True)
        # A young average would be dominated by the random initialisation, hence the ramp.
        decay = min(self.schedule.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        self.samples += self.schedule.batch_size
        return float(loss.detach())

    @staticmethod
    def _out_of_time(late: bool) -> bool:
        if world_size() == 1:
            return late
        votes = torch.tensor(float(late))
        dist.all_reduce(votes)  # all stop at the same step, or the others would wait for ever
        return bool(votes)

    def _average_gradients(self) -> None:
        if world_size() == 1:
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, mean in zip(
            gradients, flat.div_(world_size()).split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))

    def _log(self, loss: float) -> None:
        if rank():
            return
        row = {"samples": self.samples, "seconds": round(self.seconds, 1), "loss": round(loss, 5)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _forget_log_after(self, samples: int) -> None:
        """A killed run logged steps beyond its checkpoint, which will be taken and logged again."""
        log = self.folder / f"{self.name}.jsonl"
        if rank() or not log.exists():
            return
        rows = [row for row in log.read_text().splitlines() if json.loads(row)["samples"] <= samples]
        write_whole(log, "".join(row + "\n" for row in rows))

    def _keep_milestone(self) -> None:
        if rank():
            return
        state = {key: value.half().cpu().contiguous() for key, value in self.ema_state().items()}
        write_whole(self.folder / f"{self.name}-{self.samples}.safetensors", save(state))

    def save(self) -> None:
        """Write network, EMA and optimiser state to ``<name>.safetensors`` atomically."""
        if rank():
            return
        tensors = {f"network.{key}": value.contiguous() for key, value in self.network.state_dict().items()}
        for index, mean in enumerate(self.ema):
            tensors[f"ema.{index}"] = mean.contiguous()
            for key, value in self._state_of(index).items():
                tensors[f"optimiser.{index}.{key}"] = value.detach().clone().contiguous()
        progress = {"samples": str(self.samples), "seconds": str(self.seconds)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{self.name}.safetensors", save(tensors, metadata=progress))
        write_json(self.folder / f"{self.name}.json", {key: float(value) for key, value in progress.items()})

    def _load(self) -> None:
        path = self.folder / f"{self.name}.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            progress = file.metadata()
        tensors = load_file(path)
        self.samples, self.seconds = int(progress["samples"]), float(progress["seconds"])
        self._forget_log_after(self.samples)
        self.network.load_state_dict(
            {
                key.removeprefix("network."): value
                for key, value in tensors.items()
                if key.startswith("network.")
            }
        )
        for index, parameter in enumerate(self.parameters):
            self.ema[index].copy_(tensors[f"ema.{index}"])
            for key in MUON_STATE if index in self.matrices else ADAMW_STATE:
                # A checkpoint of the other optimiser has none for this parameter, which then begins anew.
                if (stored := tensors.get(f"optimiser.{index}.{key}")) is not None:
                    self._state_of(index)[key] = stored.to(parameter.device)
