"""The table of a GPU's throughput says why it has no numbers: no GPU, or not enough memory on it."""

import pandas as pd
import pytest
import torch

from benchmarks import gpu_throughput
from benchmarks.gpu_throughput import main
from diffinv.models.random_weights import random_diffusion
from diffinv.studies.runtime import on_meta, update_flops


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


def test_the_share_of_the_peak_is_that_of_the_card_and_of_the_precision(monkeypatch):
    diffusion, gpu = random_diffusion("small", torch.device("cpu"), torch.float32), torch.device("cuda")

    def share(card, mode, updates=1e6):
        monkeypatch.setattr(gpu_throughput, "device_name", lambda _: card)
        return gpu_throughput.peak_share(diffusion, gpu, mode, 64, updates)

    a100 = "NVIDIA A100-SXM4-80GB"
    assert share(a100, "fp32") == pytest.approx(8 * share(a100, "tf32"))
    assert share(a100, "tf32") == pytest.approx(2 * share(a100, "compiled"))
    assert share("NVIDIA A100 80GB PCIe", "bf16", 2e6) == pytest.approx(2 * share(a100, "bf16"))
    assert share("Some GPU", "bf16") is None and share(a100, "bf16", None) is None
    side = 64 // diffusion.downsampling_factor
    operations = update_flops(on_meta(diffusion.unet), side, 5)
    assert share(a100, "bf16") * 312e12 / 1e6 == pytest.approx(operations)
