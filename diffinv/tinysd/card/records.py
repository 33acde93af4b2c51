"""What a pre-training has left behind, as tables: loss curves, figures of the card, and its goals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from diffinv.tinysd.card.text import goal_of

LEVEL = re.compile(r"denoising loss at timestep (?P<timestep>\d+)(?P<where>.*)")


def read_logs(folder: Path) -> pd.DataFrame:
    """The rows ``stage, samples, seconds, loss`` of all ``<stage>.jsonl`` in a folder.

    ValueError if there is none.
    """
    logs = {path.stem: pd.read_json(path, lines=True) for path in sorted(Path(folder).glob("*.jsonl"))}
    if not logs:
        raise ValueError(f"{folder} holds no log of a stage: give the folder of its .jsonl files.")
    return pd.concat(logs, names=["stage", "row"]).reset_index("stage").reset_index(drop=True)


def card_figures(folder: Path) -> pd.DataFrame:
    """The rows ``figure, value, goal, met`` of a shipped model's card; blank where there is no goal."""
    figures = json.loads((Path(folder) / "card.json").read_text())["figures"]
    rows = [(name, value, *goal_of(name, value)) for name, value in figures.items()]
    return pd.DataFrame(rows, columns=["figure", "value", "goal", "met"])


def loss_by_timestep(folder: Path) -> pd.DataFrame:
    """The rows ``timestep, where, loss`` of a card: its denoising losses, in whichever places it has them."""
    figures = json.loads((Path(folder) / "card.json").read_text())["figures"]
    found = [(LEVEL.fullmatch(name), value) for name, value in figures.items()]
    rows = [
        {
            "timestep": int(match["timestep"]),
            "where": match["where"].strip(", ") or "held-out icons",
            "loss": value,
        }
        for match, value in found
        if match
    ]
    return pd.DataFrame(rows).sort_values(["where", "timestep"], ignore_index=True)
