"""Work shared by processes and machines gives the files that one process gives."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from diffinv.artefacts import engine as engines
from diffinv.artefacts.engine import Engine, EngineError, run_parts
from diffinv.artefacts.parts import Part, PartDone, end_of_part, only_part, own
from diffinv.artefacts.work import Place
from diffinv.classifiers.training import Training
from diffinv.commands.main import main
from diffinv.datasets import load_dataset
from diffinv.method.cached import invert
from diffinv.method.inversion import Inversion
from diffinv.method.sampling import Sampling
from diffinv.method.store import EmbeddingStore
from diffinv.models.checkpoint import COMPONENTS
from diffinv.models.diffusion import FrozenDiffusion, load_diffusion
from diffinv.studies.grid import Condition, run_study
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.real import Real

INVERT = ("invert", "--profile", "smoke", "--steps-per-image", "2")
SAMPLE = ("sample", "--profile", "smoke", "--images-per-real", "5")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    images = load_dataset("icons10", split="train").per_class(8, seed=0)  # two files of the cache
    images.save(tmp_path / "images")
    return tmp_path / "images"


def count(part, folder="."):
    """Write a file for each of ten numbers that belong to the part."""
    with only_part(part):
        for number in own(range(10), lambda: 10):
            (Path(folder) / f"{number}.txt").write_text(str(os.getpid()))
        return len(own(range(10), lambda: 10))


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
            taken += own(range(10), lambda: 10)
            end_of_part(range(10), lambda: True)
        assert done.value.files == len(range(number - 1, 10, of))
    assert sorted(taken) == list(range(10))
    assert list(own(range(10), lambda: 10)) == list(range(10)), "without parts, all of it"


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
    assert not list(Path("other").glob("engine/*"))


def test_a_local_worker_that_is_killed_is_replaced(tmp_path):
    assert sum(run_parts(die_once, Engine(workers=1))) == 10
    assert (tmp_path / "tried").exists() and len(list(tmp_path.glob("*.txt"))) == 10


def test_work_that_fails_is_named():
    with pytest.raises(EngineError, match=r"part \d/4 failed: there is no disk for \d"):
        run_parts(fail, Engine(workers=1))


def test_a_worker_whose_model_has_other_weights_says_so(tiny_diffusion, tmp_path):
    with pytest.raises(EngineError, match=r"part .* failed: the worker on .* has other weights as 'tiny'"):
        run_parts(partial(sum_of, other_weights(tiny_diffusion)), Engine(workers=1))
    assert sum(run_parts(partial(sum_of, tiny_diffusion), Engine(workers=1))) == 10


def other_weights(diffusion):
    """The same model, of which the driver says that it had other weights."""
    copied = object.__new__(type(diffusion))
    copied.__dict__ |= {**diffusion.__dict__, "fingerprint": "0"}
    return copied


def sum_of(diffusion, part):
    assert diffusion.device.type == "cpu"
    return count(part)


def test_what_workers_cannot_have_is_refused_before_any_work(tiny_diffusion):
    made = FrozenDiffusion(
        **{name: getattr(tiny_diffusion, name) for name in COMPONENTS}, name="mine", device="cpu"
    )
    with pytest.raises(ValueError, match="'mine' was made in memory, where workers cannot load it: save it"):
        run_parts(partial(sum_of, made), Engine(workers=1))
    with pytest.raises(ValueError, match=r"cannot be sent to workers .*: define what it is made of"):
        run_parts(lambda part: 0, Engine(workers=1))


def test_large_arrays_have_files_of_their_own_that_are_gone_afterwards(cache):
    images, vectors = np.ones((2**18, 5), np.uint8), torch.ones(2**17, 4)
    found = run_parts(partial(kinds_of, images, vectors), Engine(workers=1))
    assert found[0] == ("memmap", float(images.sum()), float(vectors.sum()))
    assert not list(cache.glob("engine/*"))


def kinds_of(images, vectors, part):
    return type(images).__name__, float(images.sum()), float(vectors.sum())


def files_of(folder):
    """The files of a cache that say nothing of when and where they were made."""
    shards = [*folder.rglob("*.safetensors"), *folder.rglob("*.npy")]
    return {path.relative_to(folder): path.read_bytes() for path in shards}


def twelve_cells(train, diffusion, **more):
    training = Training(architecture="resnet8_narrow", optimiser_steps=2, batch_size=8, warmup_steps=1)
    di = DiffusionInversion(diffusion, Inversion(steps_per_image=2), sampling=Sampling(num_inference_steps=2))
    conditions = [
        Condition("real", Real(), training),
        Condition("samples", di, training),
        Condition("both", di, training, with_real=True),
        Condition("two", di, training, images_per_real=2),
    ]
    rows = run_study(conditions, train=train, test=train, seeds=(0, 1, 2), **more)
    return rows.drop(columns="wall_seconds").to_csv()


def use_cache(monkeypatch, folder):
    monkeypatch.setenv("DIFFINV_CACHE", str(folder))
    return folder


def everything(train, diffusion, divided):
    """What an inversion, its samples and a study give, each called by `divided`, and their files."""
    settings = Inversion(steps_per_image=2, batch_size=4)
    recipe = DiffusionInversion(diffusion, settings, sampling=Sampling(num_inference_steps=2))
    vectors = divided(partial(invert, diffusion, train, settings, progress=False)).fingerprint
    images = divided(partial(recipe, train, images_per_real=15, seed=0)).fingerprint
    return vectors, images, divided(partial(twelve_cells, train, diffusion))


@pytest.mark.parametrize("of", [2, 16])
def test_invert_samples_and_a_study_are_the_same_in_any_parts_and_order(
    of, tmp_path, monkeypatch, tiny_diffusion, toy_images
):
    diffusion, train = tiny_diffusion, toy_images.resize(32)

    def in_parts(call):
        for number in [*range(of, 0, -1), 1]:  # the first one twice, as after a restart
            with only_part(Part(number, of)), suppress(PartDone):
                call()
        return call()

    whole = use_cache(monkeypatch, tmp_path / "whole")
    expected = everything(train, diffusion, lambda call: call())
    parts = use_cache(monkeypatch, tmp_path / "parts")
    assert everything(train, diffusion, in_parts) == expected
    assert files_of(parts) == files_of(whole) and len(files_of(whole)) == 5 + 2 + 2


def test_local_workers_share_a_study(tmp_path, monkeypatch):
    diffusion = load_diffusion("tinysd", device="cpu")
    train = load_dataset("icons10", split="train").per_class(2, seed=0).resize(32)
    whole = use_cache(monkeypatch, tmp_path / "whole")
    expected = twelve_cells(train, diffusion)
    shared = use_cache(monkeypatch, tmp_path / "shared")
    monkeypatch.setenv("DIFFINV_ENGINE", "local 2")
    assert twelve_cells(train, diffusion) == expected
    assert files_of(shared) == files_of(whole)


def test_what_is_in_the_cache_starts_no_worker(tmp_path, monkeypatch, tiny_diffusion, toy_images):
    real = toy_images.resize(32)
    store = invert(tiny_diffusion, real, Inversion(steps_per_image=1, batch_size=4))
    monkeypatch.setattr(engines, "run_parts", lambda *_: pytest.fail("a worker was started"))
    again = invert(tiny_diffusion, real, Inversion(steps_per_image=1, batch_size=4), engine="local 2")
    assert again.fingerprint == store.fingerprint
    with pytest.raises(pytest.fail.Exception):
        invert(tiny_diffusion, real, Inversion(steps_per_image=2, batch_size=4), engine="local 2")
    monkeypatch.setenv("DIFFINV_ENGINE", "local 2")
    with pytest.raises(pytest.fail.Exception):
        invert(tiny_diffusion, real, Inversion(steps_per_image=2, batch_size=4))
    # One file is nothing to share.
    assert len(invert(tiny_diffusion, real, Inversion(steps_per_image=2))) == len(real)


@pytest.mark.parametrize("text", ["dask", "local two", "ray 1 auto more", "", "local 2 auto"])
def test_a_text_that_names_no_engine_is_refused(text):
    with pytest.raises(ValueError, match=r"engine|address"):
        Engine.parse(text)
    assert str(Engine.parse("local")) == "local 0" and Engine.parse("local 2").workers == 2


def test_a_driver_that_is_killed_leaves_no_worker_and_is_followed_by_another(folder, cache, tmp_path):
    command = [*INVERT, str(folder), "--out", "killed", "--engine", "local", "--workers", "2"]
    command[command.index("2")] = "20"  # updates, so that there is time to be killed in
    driver = subprocess.Popen([sys.executable, "-m", "diffinv", *command], stderr=subprocess.DEVNULL)
    workers = eventually(lambda: len(list(cache.glob("engine/*/work"))) == 1 and children_of(driver.pid))
    driver.kill()
    driver.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() and not zombie(pid) for pid in workers))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert main(command) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "nothing is made twice"
    assert not list(cache.glob("engine/*")), "what the killed one left is gone"
    os.environ["DIFFINV_CACHE"] = str(tmp_path / "other")
    assert main([*command[: command.index("--engine")][:-1], "whole"]) == 0
    assert torch.equal(vectors("killed"), vectors("whole"))


def eventually(true, seconds=60):
    for _ in range(10 * seconds):
        if found := true():
            return found
        time.sleep(0.1)
    return pytest.fail("it did not come about")


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


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
        Engine("ray", 1)


def test_a_worker_in_another_place_says_so(tmp_path):
    token = tmp_path / "token"
    token.touch()
    with pytest.raises(ValueError, match=r"has diffinv .*, not 0: install"):
        Place(str(tmp_path), str(tmp_path), str(token), "", version="0").enter()
    with pytest.raises(ValueError, match=r"does not see .*elsewhere: set DIFFINV_CACHE to a folder that all"):
        Place(str(tmp_path), str(tmp_path), str(tmp_path / "elsewhere"), "").enter()
    with pytest.raises(ValueError, match="token is not what the driver wrote"):
        Place(str(tmp_path), str(tmp_path), str(token), "of other bytes").enter()


@pytest.mark.timeout(300)
def test_a_ray_cluster_of_two_machines_loses_a_worker_and_a_machine(folder, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Workers import this module, too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or the tests beside this one all go first
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    except Exception as error:  # Ray gives its own processes 30 s, whatever else the machine does
        pytest.skip(f"Ray did not start: {error}")
    diffusion = load_diffusion("tinysd", device="cpu")
    train = load_dataset("icons10", split="train").per_class(2, seed=0).resize(32)
    try:
        second = cluster.add_node(num_cpus=2)
        two = Engine("ray", 2, cluster.address)
        assert sum(run_parts(die_once, two)) == 10
        assert (tmp_path / "tried").exists() and len(list(tmp_path.glob("*.txt"))) == 10
        with pytest.raises(EngineError, match=r"part \d/8 failed: there is no disk"):
            run_parts(fail, two)
        with pytest.raises(EngineError, match=r"a worker cannot begin: the worker on .* has other weights"):
            run_parts(partial(sum_of, other_weights(diffusion)), two)
        with pytest.raises(ValueError, match="has 4 CPUs for 9 workers: start fewer"):
            run_parts(count, Engine("ray", 9, cluster.address))
        cluster.remove_node(second)
        shared = ["--engine", "ray", "--ray-address", cluster.address, "--workers", "2"]
        assert main([*INVERT, str(folder), "--out", "ray", *shared]) == 0
        assert main([*SAMPLE, "ray", "--out", "samples", *shared]) == 0
        rows = twelve_cells(train, diffusion, engine=two)
    finally:
        cluster.shutdown()
    other = use_cache(monkeypatch, tmp_path / "other")
    assert main([*INVERT, str(folder), "--out", "whole"]) == 0
    assert main([*SAMPLE, "whole", "--out", "samples"]) == 0
    assert rows == twelve_cells(train, diffusion)
    assert files_of(tmp_path / "cache") == files_of(other)
