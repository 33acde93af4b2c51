"""The benchmark runs, counts both stages, writes what it prints, and refuses in one sentence."""

import json
from collections.abc import Iterator

import pandas as pd
import pytest
import torch

from benchmarks import bench, engines


def test_both_stages_are_measured_and_written(tiny_checkpoint, tmp_path, capsys):
    output = tmp_path / "bench.json"
    small = [
        "--batch-size",
        "2",
        "--updates",
        "2",
        "--inference-steps",
        "2",
        "--repeats",
        "2",
        "--device",
        "cpu",
    ]
    assert bench.main(["--model", str(tiny_checkpoint), "--output", str(output), *small]) == 0
    record = json.loads(output.read_text())
    printed = capsys.readouterr().out
    assert [each["stage"] for each in record["measurements"]] == ["inversion", "sampling"]
    for each in record["measurements"]:
        low, high = each["ratio_range"]
        assert 0 < low <= each["ratio"] <= high
        assert f"{each['ratio']:.3f}" in printed


def test_a_missing_checkpoint_and_an_unsuitable_side_are_one_sentence(tiny_checkpoint, tmp_path, capsys):
    output = tmp_path / "bench.json"
    assert bench.main(["--model", str(tmp_path / "nowhere"), "--output", str(output)]) == 2
    assert capsys.readouterr().out.startswith("No checkpoint to measure: ")
    assert bench.main(["--model", str(tiny_checkpoint), "--resolution", "20", "--output", str(output)]) == 2
    assert capsys.readouterr().out.startswith("Cannot measure: resolution 20")
    assert not output.exists()


class Clock:
    """Time that passes only where `busy` says so, and who has spent it."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def busy(self, name: str, steps: int, seconds: float) -> Iterator[None]:
        for _ in range(steps):
            self.log.append(name)
            self.now += seconds
            yield


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    return clock


def test_the_two_sides_take_turns_and_every_step_of_both_counts(clock):
    sides = clock.busy("ours", 4, seconds=2), clock.busy("bare", 6, seconds=1)
    assert bench.timed_in_turns(*sides, torch.device("cpu")) == (8, 6)
    assert clock.log == ["ours", "bare", "bare", "ours", "ours", "bare", "bare", "ours", "bare", "bare"]


def test_the_ratio_is_the_share_that_the_network_alone_takes(clock):
    found = bench.measure(
        "sampling",
        "nothing",
        lambda: clock.busy("ours", 5, seconds=2),
        lambda: clock.busy("bare", 5, seconds=1),
        repeats=3,
        units=5,
        device=torch.device("cpu"),
    )
    assert (found.ratio, found.ratio_range, found.goal) == (0.5, (0.5, 0.5), bench.GOALS["sampling"])
    assert (found.ours_seconds, found.bare_seconds, found.ours_ms_per_image) == (10, 5, 2000)


def test_engines_are_measured_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.engines.sizes_up_to", lambda most: [40])
    table = tmp_path / "engines.csv"
    short = ["--workers", "1", "--updates", "1", "--repeats", "1", "--engines", "local", "--images", "40"]
    assert engines.main([*short, "--output", str(table)]) == 0
    rows = pd.read_csv(table).set_index(["measure", "engine"])["value"]
    assert rows["parts per second", "local"] > 0 and rows["overhead per part, ms", "local"] >= 0
    assert all(rows["peak memory, MiB", what] > 50 for what in ("store", "driver", "worker"))
