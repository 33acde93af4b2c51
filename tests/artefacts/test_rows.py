"""Arrays on disk give what arrays in memory give, and sets larger than memory are never held in it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from diffinv.artefacts import rows
from diffinv.artefacts.keys import content_key
from diffinv.artefacts.rows import RowsOnDisk, as_part_of_key, chunks, pick
from diffinv.datasets import LabelledImages
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion
from diffinv.method.sampling import Sampling
from diffinv.method.store import EmbeddingStore
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion

PIECES = [
    np.arange(start, start + 6 * size).reshape(size, 3, 2) for start, size in ((0, 4), (24, 1), (30, 5))
]
WHOLE = np.concatenate(PIECES)


def read(piece, wanted):
    return PIECES[piece] if wanted is None else PIECES[piece][wanted]


@pytest.fixture
def on_disk():
    return RowsOnDisk(read, range(3), [4, 1, 5], (3, 2), WHOLE.dtype)


INDICES = [
    3,
    -1,
    slice(2, 8),
    slice(None),
    [9, 0, 4, 4],
    np.array([5, 1]),
    torch.tensor([7]),
    WHOLE[:, 0, 0] % 4 > 1,
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_rows_are_those_of_the_whole(on_disk, index):
    expected = WHOLE[index.numpy() if isinstance(index, torch.Tensor) else index]
    assert np.array_equal(on_disk[index], expected)


def test_what_stands_in_for_an_array_looks_like_it(on_disk):
    assert (on_disk.shape, on_disk.dtype, on_disk.ndim, on_disk.nbytes, len(on_disk)) == (
        *(WHOLE.shape, WHOLE.dtype, WHOLE.ndim, WHOLE.nbytes),
        len(WHOLE),
    )
    assert np.array_equal(np.asarray(on_disk), WHOLE) and np.array_equal(np.stack(list(on_disk)), WHOLE)
    assert np.array_equal(np.concatenate(list(chunks(on_disk, 3))), WHOLE)
    assert content_key(as_part_of_key(on_disk)) == content_key(WHOLE)
    some = on_disk.take([8, 2, 2])
    assert np.array_equal(some[[2, 0]], WHOLE[[2, 8]]) and some.shape == (3, 3, 2)


def test_only_what_is_too_large_stays_on_disk(on_disk, monkeypatch):
    assert isinstance(pick(on_disk, [1, 2]), np.ndarray)
    monkeypatch.setattr(rows, "IN_MEMORY", 2 * WHOLE[0].nbytes)
    assert isinstance(pick(on_disk, [1, 2]), np.ndarray)
    assert isinstance(pick(on_disk, [1, 2, 3]), RowsOnDisk)
    assert isinstance(pick(WHOLE, range(10)), np.ndarray)


@pytest.mark.parametrize("codec", ["float32", "int3", "pca4"])
def test_a_method_on_disk_is_the_method_in_memory(tiny_diffusion, toy_images, tmp_path, monkeypatch, codec):
    real = toy_images.resize(32)
    plain = Sampling(num_inference_steps=1, guidance_scale=2, resolution=32)
    settings = Inversion(steps_per_image=1, batch_size=5)

    def everything(name):
        store = invert(tiny_diffusion, real, settings)
        saved = EmbeddingStore.load(store.save(tmp_path / name, compress=codec))
        made = DiffusionInversion.from_store(tiny_diffusion, saved, sampling=plain)(
            images_per_real=20, seed=0
        )
        again = LabelledImages.load(made.save(tmp_path / f"{name} images"))
        kinds = [
            isinstance(x, RowsOnDisk) for x in (store.embeddings, saved.embeddings, made.images, again.images)
        ]
        marks = store.fingerprint, saved.fingerprint, made.fingerprint, again.fingerprint
        means = saved.mean().tolist(), saved.class_mean(1).tolist()
        return kinds, (*marks, *means, made.subset([300, 4]).fingerprint, saved.subset([9, 2]).fingerprint)

    kinds, in_memory = everything("small")
    assert kinds == [False] * 4
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path / "other"))
    kinds, on_disk = everything("large")
    assert kinds == [True] * 4
    assert on_disk == in_memory


SCRIPT = """
import resource, sys
import numpy as np, torch
from benchmarks.large_sets import build, go_through
from pathlib import Path
count, folder = int(sys.argv[1]), Path(sys.argv[2])
go_through(build(40, folder / "warm", tokens=5, width=768), folder / "warm images")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
go_through(build(count, folder / "store", tokens=5, width=768), folder / "images")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.timeout(600)
def test_ten_thousand_images_take_the_memory_of_a_few_shards(tmp_path):
    """A hundredth of a million; their vectors are 154 MB, and of a shard 16 MB."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "10000", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 80_000, "KiB"
