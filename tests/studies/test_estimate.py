"""The estimate is what the run then takes, and what it leaves on disk."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.gpu_throughput import main as measure_throughput
from diffinv.classifiers.training import Training, train_classifier
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion
from diffinv.method.sampling import Sampling
from diffinv.method.store import EmbeddingStore
from diffinv.studies.estimate import Estimate, StageEstimate, embedding_bytes, estimate
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

INVERSION = Inversion(num_tokens=2, steps_per_image=60, batch_size=8)
SAMPLING = Sampling(num_inference_steps=20, batch_size=12, resolution=16)
TRAINING = Training(architecture="resnet8_narrow", optimiser_steps=20, warmup_steps=2, batch_size=16)


def stages(predicted: Estimate) -> dict[str, StageEstimate]:
    return {stage.stage: stage for stage in predicted.stages}


def cpu_seconds(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.fixture
def own_time(monkeypatch):
    """Seconds of this process alone, so that a busy machine does not decide the comparison."""
    monkeypatch.setattr("diffinv.studies.estimate.time.perf_counter", time.process_time)


def test_the_seconds_are_those_of_a_run(tiny_diffusion, toy_images, own_time):
    real = toy_images.subset(range(12))
    settings = {"inversion": INVERSION, "sampling": SAMPLING, "training": TRAINING}
    predicted = stages(estimate(tiny_diffusion, real, images_per_real=3, num_classifiers=2, **settings))
    inverted = cpu_seconds(lambda: invert(tiny_diffusion, real, INVERSION, progress=False))
    assert 0.5 < predicted["inversion"].seconds / inverted < 2
    synthesizer = DiffusionInversion(tiny_diffusion, inversion=INVERSION, sampling=SAMPLING)
    sampled = cpu_seconds(lambda: synthesizer(real, images_per_real=3, seed=0))  # the vectors are cached
    assert 0.5 < predicted["sampling"].seconds / sampled < 2
    trained = cpu_seconds(lambda: train_classifier(real, TRAINING, seed=0, device="cpu"))
    assert 0.5 < predicted["classifiers"].seconds / (2 * trained) < 2


def test_seconds_grow_with_the_work(tiny_diffusion, toy_images):
    real, sampling = toy_images.subset([0]), replace(SAMPLING, scheduler="PNDMScheduler")
    few = estimate(tiny_diffusion, real, inversion=replace(INVERSION, steps_per_image=1), sampling=sampling)
    many = estimate(
        tiny_diffusion, real, inversion=replace(INVERSION, steps_per_image=1000), sampling=sampling
    )
    assert stages(many)["inversion"].seconds > 20 * stages(few)["inversion"].seconds
    assert "21 steps" in stages(few)["sampling"].work, "one more than asked for, as PNDM does"
    assert "1 at once" in stages(few)["sampling"].work
    assert set(stages(few)) == {"inversion", "sampling"}


@pytest.mark.parametrize("count", [3, 1500])
def test_the_bytes_are_those_of_a_store_on_disk(toy_images, count, tmp_path):
    """With vectors as wide as Stable Diffusion's; the larger one has two shards."""
    real = replace(
        toy_images,
        images=np.zeros((count, 8, 8, 3), np.uint8),
        labels=np.zeros(count, np.int64),
        ids=tuple(f"train/disc/{number:04d}" for number in range(count)),
    )
    store = EmbeddingStore(
        embeddings=torch.zeros(count, 5, 768),
        labels=torch.zeros(count, dtype=torch.int64),
        class_names=real.class_names,
        ids=real.ids,
        losses=torch.zeros(count),
    )
    on_disk = sum(path.stat().st_size for path in store.save(tmp_path / "store").iterdir())
    assert embedding_bytes(real, 5, 768) == pytest.approx(on_disk, rel=0.05)


def test_the_bytes_are_those_of_the_cache(tiny_diffusion, toy_images, fresh_cache):
    real = toy_images.subset(range(12))
    settings = {"inversion": replace(INVERSION, num_tokens=64, steps_per_image=1), "sampling": SAMPLING}
    predicted = stages(estimate(tiny_diffusion, real, images_per_real=3, **settings))
    assert not list(fresh_cache.rglob("*.*")), "an estimate leaves nothing behind"
    DiffusionInversion(tiny_diffusion, **settings)(real, images_per_real=3, seed=0)
    for stage, folder in (("inversion", "inversion"), ("sampling", "samples")):
        kept = sum(path.stat().st_size for path in (fresh_cache / folder).rglob("*") if path.is_file())
        assert predicted[stage].disk_bytes == pytest.approx(kept, rel=0.1)


def test_the_table_has_a_row_a_stage_and_one_for_all():
    rows = (
        StageEstimate("inversion", "updates", 90.0, 2**31, 2**20),
        StageEstimate("sampling", "steps", 30.0, 2**30, 2**21),
    )
    table = Estimate(rows).table()
    assert list(table.stage) == ["inversion", "sampling", "all"]
    assert list(table.seconds) == [90, 30, 120]
    assert list(table.peak_gib) == [2, 1, 2], "the stages follow one another"
    assert list(table.disk_mib) == [1, 2, 3]
    unknown = Estimate(tuple(replace(row, peak_bytes=None) for row in rows))
    assert unknown.peak_bytes is None and unknown.table().peak_gib.isna().all()


def test_two_runs_take_the_sum_of_both():
    row = StageEstimate("inversion", "updates", 90.0, 2**31, 2**20)
    both = Estimate((row,)) + Estimate((replace(row, seconds=30.0, peak_bytes=2**30),))
    assert (both.seconds, both.peak_bytes, both.disk_bytes) == (120, 2**31, 2**21)


def test_the_package_offers_it_whatever_was_imported_before():
    import diffinv

    assert diffinv.estimate is estimate and callable(diffinv.dataset_card)


def test_the_peak_is_measured_while_the_stage_runs(tiny_diffusion, toy_images):
    predicted = estimate(tiny_diffusion, toy_images.subset([0]), inversion=INVERSION, sampling=SAMPLING)
    assert predicted.peak_bytes > sum(weight.nbytes for weight in tiny_diffusion.unet.parameters())


def test_no_image_is_refused(tiny_diffusion, toy_images):
    with pytest.raises(ValueError, match=r"no image to estimate.*at least one"):
        estimate(tiny_diffusion, toy_images.subset([]))


def test_the_throughput_table_is_written(tmp_path, capsys):
    output = tmp_path / "throughput.csv"
    assert measure_throughput(["--smoke", "--device", "cpu", "--output", str(output)]) == 0
    table = pd.read_csv(output)
    assert list(table["mode"]) == ["fp32", "compiled"] and set(table.resolution) == {64}
    assert (table[["updates_per_second", "samples_per_second", "peak_gib"]] > 0).all().all()
    assert table.device.notna().all() and set(table.network) == {"small"}
    assert str(table.resolution.iloc[-1]) in capsys.readouterr().out
