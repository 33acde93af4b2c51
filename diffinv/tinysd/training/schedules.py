"""How long and how fast each stage learns: the numbers of the recipe."""

from __future__ import annotations

from collections.abc import Mapping

from diffinv.tinysd.training.training_loop import Schedule

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
