"""The table of a GPU's throughput says why it has no numbers: no GPU, or not enough memory on it."""

import pandas as pd
import pytest
import torch

from benchmarks import gpu_throughput
from benchmarks.gpu_throughput import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("arguments", [[], ["--device", "cuda"]])
def test_without_a_gpu_it_says_so_and_writes_nothing(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_throughput, "best_device", lambda: "cpu")
    output = tmp_path / "table.csv"
    assert main([*arguments, "--output", str(output)]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith("No ") and "is found: " in printed and printed.count("\n") == 1
    assert not output.exists()


def test_a_row_that_does_not_fit_is_empty_and_the_others_are_kept(tmp_path, capsys, monkeypatch):
    measured = iter([(20.0, 2.0, 1.5), torch.OutOfMemoryError("CUDA out of memory")])

    def measure_speeds(*_):
        result = next(measured)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(gpu_throughput, "measure_speeds", measure_speeds)
    assert main(["--smoke", "--device", "cpu", "--output", str(tmp_path / "table.csv")]) == 0
    fits, does_not = pd.read_csv(tmp_path / "table.csv").to_dict("records")
    assert (fits["updates_per_second"], fits["samples_per_second"], fits["peak_gib"]) == (20, 2, 1.5)
    assert pd.isna([does_not["updates_per_second"], does_not["samples_per_second"]]).all()
    assert "compiled at 64 px: the memory ran out" in capsys.readouterr().out
