"""The benchmark runs, counts both stages, writes what it prints, and refuses in one sentence."""

import json

from benchmarks.bench import main


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
    assert main(["--model", str(tiny_checkpoint), "--output", str(output), *small]) == 0
    record = json.loads(output.read_text())
    printed = capsys.readouterr().out
    assert [each["stage"] for each in record["measurements"]] == ["inversion", "sampling"]
    for each in record["measurements"]:
        low, high = each["ratio_range"]
        assert 0 < low <= each["ratio"] <= high
        assert f"{each['ratio']:.3f}" in printed


def test_a_missing_checkpoint_and_an_unsuitable_side_are_one_sentence(tiny_checkpoint, tmp_path, capsys):
    output = tmp_path / "bench.json"
    assert main(["--model", str(tmp_path / "nowhere"), "--output", str(output)]) == 2
    assert capsys.readouterr().out.startswith("No checkpoint to measure: ")
    assert main(["--model", str(tiny_checkpoint), "--resolution", "20", "--output", str(output)]) == 2
    assert capsys.readouterr().out.startswith("Cannot measure: resolution 20")
    assert not output.exists()
