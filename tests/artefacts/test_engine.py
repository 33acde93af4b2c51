"""Work shared by processes and machines gives the files that one process gives."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from diffinv.artefacts.parts import Part, PartDone, end_of_part, only_part, own
from diffinv.commands.main import main
from diffinv.datasets import load_dataset
from diffinv.method.store import EmbeddingStore
from diffinv.studies.engine import EngineError, Place, run_parts

INVERT = ("invert", "--profile", "smoke", "--steps-per-image", "2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    images = load_dataset("icons10", split="train").per_class(4, seed=0)
    images.save(tmp_path / "images")
    return tmp_path / "images"


def count(part, folder="."):
    """Write a file for each of ten numbers that belong to the part."""
    with only_part(part):
        for number in own(range(10)):
            (Path(folder) / f"{number}.txt").write_text(str(os.getpid()))
        return len(own(range(10)))


def die_once(part):
    """Kill this process in the third part, unless that was tried before."""
    tried = Path("tried")
    if part.number == 3 and not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return count(part)


def fail(part):
    raise ValueError(f"there is no disk for {part.number}")


def vectors(folder):
    return EmbeddingStore.load(folder).embeddings


@pytest.mark.parametrize("of", [1, 3, 20])
def test_parts_cover_everything_once(of):
    taken = []
    for number in range(1, of + 1):
        with only_part(Part(number, of)), pytest.raises(PartDone) as done:
            taken += own(range(10))
            end_of_part(range(10))
        assert done.value.files == len(range(number - 1, 10, of))
    assert sorted(taken) == list(range(10))
    assert list(own(range(10))) == list(range(10)), "without parts, all of it"


@pytest.mark.parametrize("text", ["0/4", "5/4", "three", "3", "-1/4", "1/0"])
def test_a_part_that_there_is_not_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(text)):
        Part.parse(text)


def test_shards_by_hand_are_assembled_by_a_last_call_which_learns_nothing(folder, cache, capsys):
    assert main([*INVERT, str(folder), "--out", "whole"]) == 0
    os.environ["DIFFINV_CACHE"] = str(cache.parent / "other")
    for shard in ("2/2", "1/2"):
        assert main([*INVERT, str(folder), "--out", "parts", "--shard", shard]) == 0
        assert not Path("parts").exists()
    assert "part 1/2 is done: 1 files" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in Path("other").rglob("*.safetensors")}
    assert main([*INVERT, str(folder), "--out", "parts"]) == 0
    assert torch.equal(vectors("parts"), vectors("whole"))
    assert before == {path: path.stat().st_mtime_ns for path in Path("other").rglob("*.safetensors")}
    assert main(["sample", "parts", "--out", "samples", "--profile", "smoke", "--shard", "1/1"]) == 0
    assert list(Path("other/samples").rglob("*.npy")) and not Path("samples").exists()


def test_local_workers_make_what_one_process_makes(folder, cache):
    assert main([*INVERT, str(folder), "--out", "whole"]) == 0
    os.environ["DIFFINV_CACHE"] = str(cache.parent / "other")
    assert main([*INVERT, str(folder), "--out", "local", "--engine", "local", "--workers", "2"]) == 0
    assert torch.equal(vectors("local"), vectors("whole"))
    assert not list(Path("other").glob("*.token"))


def test_a_local_worker_that_is_killed_is_replaced(tmp_path):
    assert sum(run_parts(die_once, engine="local", workers=1)) == 10
    assert (tmp_path / "tried").exists() and len(list(tmp_path.glob("*.txt"))) == 10


def test_work_that_fails_is_named():
    with pytest.raises(EngineError, match=r"part \d/4 failed: there is no disk for \d"):
        run_parts(fail, engine="local", workers=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--shard 0/4", "of 4 parts the numbers are 1 to 4"),
        ("--engine dask", "no engine 'dask': choose one of local, ray"),
        ("--workers 2", "--workers is for an engine"),
        ("--shard 1/2 --engine local", "leave one out"),
        ("--engine local --ray-address auto", "an address is for the engine ray"),
        ("--engine ray --ray-address 127.0.0.1:9", "no Ray cluster answers at '127.0.0.1:9'"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_any_work(options, said, folder, cache, capsys):
    if "127" in options:
        pytest.importorskip("ray")
    assert main([*INVERT, str(folder), "--out", "out", *options.split()]) == 2
    assert said in capsys.readouterr().err
    assert not list(cache.rglob("*.safetensors"))


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install "diffinv\[ray\]"'):
        run_parts(count, engine="ray", workers=1)


def test_a_worker_in_another_place_says_so(tmp_path):
    token = tmp_path / "token"
    token.touch()
    with pytest.raises(ValueError, match=r"has diffinv .*, not 0: install"):
        Place(str(tmp_path), str(tmp_path), str(token), version="0").enter()
    with pytest.raises(ValueError, match=r"does not see .*elsewhere: set DIFFINV_CACHE to a folder that all"):
        Place(str(tmp_path), str(tmp_path), str(tmp_path / "elsewhere")).enter()


@pytest.mark.timeout(400)
def test_a_ray_cluster_of_two_machines_loses_a_worker_and_a_machine(folder, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Workers import this module, too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    except Exception as error:  # Ray gives its own processes 30 s, whatever else the machine does
        pytest.skip(f"Ray did not start: {error}")
    try:
        second = cluster.add_node(num_cpus=2)
        on_ray = {"engine": "ray", "address": cluster.address}
        assert sum(run_parts(die_once, workers=2, **on_ray)) == 10
        assert (tmp_path / "tried").exists() and len(list(tmp_path.glob("*.txt"))) == 10
        with pytest.raises(EngineError, match=r"part \d/4 failed: there is no disk"):
            run_parts(fail, workers=1, **on_ray)
        cluster.remove_node(second)
        shared = ["--engine", "ray", "--ray-address", cluster.address, "--workers", "2"]
        assert main([*INVERT, str(folder), "--out", "ray", *shared]) == 0
    finally:
        cluster.shutdown()
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path / "other"))
    assert main([*INVERT, str(folder), "--out", "whole"]) == 0
    assert torch.equal(vectors("ray"), vectors("whole"))
