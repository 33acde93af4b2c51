"""Artefacts: keys tell contents apart, files and folders appear whole or not at all."""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffinv.artefacts.keys import ABSENT_AT_DEFAULT, content_key, default_cache_dir, described
from diffinv.artefacts.writing import (
    ArtefactError,
    claimed,
    is_untouched,
    provenance,
    read_json,
    write_atomically,
    write_folder_atomically,
    write_json,
)


@dataclass(frozen=True)
class Red:
    size: int


@dataclass(frozen=True)
class Blue:
    size: int


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def assert_sentence(error: BaseException, culprit: object) -> None:
    text = str(error)
    assert str(culprit) in text
    assert text.endswith(".") and "\n" not in text and ": " in text, text


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB; most machines let only root mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """No file may grow past 256 kB: a full disk for those who cannot mount one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_keys_are_equal_exactly_where_the_canonical_values_are(a, b):
    same = repr(_sorted(a)) == repr(_sorted(b))
    assert (content_key(a) == content_key(b)) == same


def _sorted(value):
    if isinstance(value, dict):
        return {"dict": [(name, _sorted(value[name])) for name in sorted(value)]}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def test_values_that_look_alike_have_different_keys():
    array = np.arange(6, dtype=np.int64)
    alike = [
        *(1, 1.0, "1", True, None, "None", [1], [[1]], {"1": 1}, {}, [], ""),
        *(Path("a"), "a", ["a"], ["path", "a"], Red(1), Blue(1), Red(2), {"size": 1}),
        *(array, array.astype(np.int32), array.reshape(2, 3), array[::-1], array.tolist()),
    ]
    assert len({content_key(value) for value in alike}) == len(alike)
    assert content_key(1, 2) != content_key([1, 2]) != content_key(12)


def test_keys_do_not_depend_on_process_order_or_memory_layout():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key((1, 2)) == content_key([1, 2])
    assert content_key(np.float64(0.5), np.int32(3)) == content_key(0.5, 3)
    assert content_key(array) == content_key(np.asfortranarray(array)) == content_key(array.astype(">i4"))
    # Written down once: a change of this key throws away everybody's cache.
    assert (
        content_key(0.1, "ä", Path("a/b"), None, Red(3), np.arange(3, dtype=np.uint8))
        == "df46606d3e5f1cfc03c1"
    )


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: 2}, np.array([object()]), len, b"x", Red])
def test_a_value_without_a_stable_content_is_refused(value):
    with pytest.raises(TypeError, match="has no content key"):
        content_key([value])


def test_a_file_appears_whole_with_its_parents(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    with write_atomically(path, "w") as file:
        file.write("grün\n")
        assert not path.exists()
    assert path.read_bytes() == "grün\n".encode()
    assert names(path.parent) == {"text.txt"}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(interruption), write_atomically(path) as file:
        file.write(b"half of the n")
        raise interruption
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


WRITING = {
    "file": "with write_atomically(path) as file:\n    file.write(b'half'); file.flush(); reached()",
    "folder": "with write_folder_atomically(path, {}) as new:\n    (new / 'half').touch(); reached()",
}
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def start_writing(path: Path, script: str, reached: str = "pass") -> subprocess.Popen[str]:
    """A process that writes to `path` and does what `reached` says when it is half done."""
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from diffinv.artefacts.writing import write_atomically, write_folder_atomically, write_json\n"
        f"path = Path(sys.argv[1])\ndef reached():\n    {reached}\n{script}\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", script, path], **pipes)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_leaves_the_old_content_and_the_next_write_sweeps_the_rest(tmp_path, kind):
    path = tmp_path / "target"
    if kind == "file":
        path.write_text("old")
    else:
        write_folder(path, a="old")
    before = names(tmp_path)
    assert start_writing(path, WRITING[kind], KILLED).wait() == -signal.SIGKILL
    left = names(tmp_path) - before
    assert left and (path if kind == "file" else path / "a").read_text() == "old"
    others = {".diffinv-notes.tmp", ".diffinv-notes.lock", ".0123456789ab.tmp", "diffinv-0123456789ab.tmp"}
    for name in others:
        (tmp_path / name).write_text("mine")
    write_json(tmp_path / "another.json", 1)
    assert names(tmp_path) == before | others | {"another.json"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_living_process_is_writing_is_not_swept(tmp_path, kind):
    with start_writing(tmp_path / "target", WRITING[kind], "print('half', flush=True); input()") as process:
        assert process.stdout.readline() == "half\n"
        half = names(tmp_path)
        assert len(half) >= 1
        for number in range(3):
            write_json(tmp_path / "another.json", number)
        assert names(tmp_path) == half | {"another.json"}
        process.communicate("\n")
    assert process.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"target", "another.json"}


def test_threads_of_one_process_do_not_sweep_each_other(tmp_path):
    with write_atomically(tmp_path / "slow", "w") as file:
        file.write("whole")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: write_json(tmp_path / f"{number}.json", number), range(40)))
    assert (tmp_path / "slow").read_text() == "whole"
    assert names(tmp_path) == {"slow", *(f"{number}.json" for number in range(40))}


def test_a_kill_between_two_moves_leaves_the_only_copy(tmp_path):
    write_folder(tmp_path / "out", a="old")
    rename = "__import__('pathlib').Path.rename"
    dies = f"""rename = {rename}
    def dying(self, target):
        if self.name == "new": {KILLED}
        return rename(self, target)
    {rename} = dying"""
    assert start_writing(tmp_path / "out", WRITING["folder"], dies).wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    write_json(tmp_path / "another.json", 1)
    (copy,) = tmp_path.glob(".diffinv-*.tmp/old/a")
    assert copy.read_text() == "old" and not list(tmp_path.glob("*.lock"))


def test_processes_that_write_to_one_folder_at_once_do_not_sweep_each_other(tmp_path):
    many = "for number in range(80): write_json(path / f'{os.getpid()}-{number}.json', number)"
    processes = [start_writing(tmp_path, many) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len(names(tmp_path)) == 320 and all(name.endswith(".json") for name in names(tmp_path))


SHARER = """
import sys, time
from pathlib import Path
from diffinv.artefacts.writing import claimed
for path in claimed([Path(sys.argv[1]) / str(n) for n in range(6)]):
    if not path.exists():
        time.sleep(0.2)
        path.write_text(sys.argv[2])
"""


def test_processes_share_the_files_to_be_made_and_make_none_twice(tmp_path):
    command = [sys.executable, "-c", SHARER, str(tmp_path)]
    for process in [subprocess.Popen([*command, name]) for name in ("one", "two")]:
        assert process.wait(timeout=60) == 0
    makers = [(tmp_path / str(n)).read_text() for n in range(6)]
    assert set(makers) == {"one", "two"}, "both have worked, and nobody has written over the other"


def test_what_another_has_comes_last_and_is_free_when_its_process_is_killed(tmp_path):
    code = "import sys; from pathlib import Path; from diffinv.artefacts.writing import claimed\n"
    code += "for path in claimed([Path(sys.argv[1])]): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "0")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    order = claimed([tmp_path / "0", tmp_path / "1"])
    assert next(order).name == "1"
    other.kill()
    assert [path.name for path in order] == ["0"]
    other.wait()


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_written_to_as_any_other(tmp_path, monkeypatch, kind, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "another").mkdir()
    leftover = tmp_path / "another" / ".diffinv-0123456789ab.tmp"
    leftover.write_text("perhaps another machine's")
    write_json(tmp_path / "another" / "a.json", 1)
    assert leftover.read_text()
    if kind == "file":
        with write_atomically(tmp_path / "slow", "w") as file:
            write_json(tmp_path / "another.json", 1)
            file.write("whole")
    else:
        with write_folder_atomically(tmp_path / "slow", {}) as new:
            write_json(tmp_path / "another.json", 1)
            (new / "a").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"slow", "another", "another.json"}


@pytest.mark.parametrize("disk_kind", ["mount", "file_size_limit"])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, disk_kind, request):
    folder = request.getfixturevalue(disk_kind) or tmp_path
    path = folder / "file"
    path.write_text("old")
    with pytest.raises(ArtefactError, match="no space left") as caught, write_atomically(path) as file:
        file.write(bytes(1024 * 1024))
    assert_sentence(caught.value, path)
    assert path.read_text() == "old" and names(folder) - {"disk"} == {"file"}


def test_a_read_only_disk_is_one_sentence(mount):
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    for write in (lambda: write_json(mount / "x" / "a.json", 1), lambda: write_folder(mount / "out", a="1")):
        with pytest.raises(ArtefactError, match=r"read-only.*choose a folder") as caught:
            write()
        assert_sentence(caught.value, mount)


@pytest.mark.parametrize("below", ["file/x", "file/deeper/x"])
def test_a_place_below_a_file_is_one_sentence(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    for write in (lambda: write_json(tmp_path / below, 1), lambda: write_folder(tmp_path / below, a="1")):
        with pytest.raises(ArtefactError, match="not a directory") as caught:
            write()
        assert_sentence(caught.value, tmp_path / below)


def test_somebody_elses_error_passes_through(tmp_path):
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "file"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(FileNotFoundError), write_folder_atomically(tmp_path / "folder", {}):
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == set()


def test_only_whole_file_modes_are_taken(tmp_path):
    with pytest.raises(ValueError, match='"wb" or "w"'), write_atomically(tmp_path / "file", "ab"):
        pass


def write_folder(folder: Path, **files: str) -> None:
    with write_folder_atomically(folder, {"made": "here"}) as new:
        for name, text in files.items():
            (new / name).write_text(text)


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "deep" / "out"
    write_folder(folder, a="1", b="2")
    write_folder(folder, b="3")
    assert names(tmp_path) == {"deep", "deep/out", "deep/out/b", "deep/out/provenance.json"}
    assert (folder / "b").read_text() == "3" and read_json(folder / "provenance.json")["made"] == "here"
    assert is_untouched(folder)


def test_an_empty_folder_or_desktop_files_are_not_in_the_way(tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    for _ in range(2):
        write_folder(tmp_path / "out", a="1")
        (tmp_path / "out" / ".DS_Store").write_text("")
    assert is_untouched(tmp_path / "out")


def test_files_of_others_are_never_overwritten(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    write_folder(tmp_path / "out", a="1")
    (tmp_path / "out" / "notes.txt").write_text("added later")
    for folder in (mine, tmp_path / "out"):
        before = names(tmp_path)
        with pytest.raises(ArtefactError, match="did not write") as caught:
            write_folder(folder, a="2")
        assert_sentence(caught.value, folder)
        assert names(tmp_path) == before and not is_untouched(folder)
    with pytest.raises(ArtefactError, match="is a file"):
        write_folder(mine / "thesis.tex", a="2")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_the_old_folder_and_nothing_else(tmp_path, interruption):
    write_folder(tmp_path / "out", a="old")
    with pytest.raises(interruption), write_folder_atomically(tmp_path / "out", {}) as new:
        (new / "a").write_text("new")
        raise interruption
    assert names(tmp_path) == {"out", "out/a", "out/provenance.json"}
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_a_full_disk_leaves_the_old_folder(mount):
    write_folder(mount / "out", a="old")
    with pytest.raises(ArtefactError, match="no space left") as caught:
        write_folder(mount / "out", a="x" * 1024 * 1024)
    assert_sentence(caught.value, mount / "out")
    assert names(mount) == {"out", "out/a", "out/provenance.json"} and is_untouched(mount / "out")


def test_a_disk_itself_is_not_replaced(mount):
    with pytest.raises(ArtefactError, match="mount point") as caught:
        write_folder(mount, a="1")
    assert_sentence(caught.value, mount)


def test_a_folder_that_fails_to_move_in_gives_way_to_the_old_one(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", a="old")
    rename = Path.rename

    def refuse_new(self, target):
        if self.name == "new":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(ArtefactError, match="permission denied"):
        write_folder(tmp_path / "out", a="new")
    assert (tmp_path / "out" / "a").read_text() == "old" and names(tmp_path) >= {"out", "out/a"}


def test_json_takes_settings_paths_and_numpy(tmp_path):
    value = {"settings": Red(2), "path": Path("a/b"), "mean": np.float32(0.5), "counts": np.arange(2)}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {
        "settings": {"size": 2},
        "path": "a/b",
        "mean": 0.5,
        "counts": [0, 1],
    }
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        write_json(tmp_path / "b.json", object())
    assert names(tmp_path) == {"a.json"}


def test_damaged_json_is_one_sentence(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": \xff')
    with pytest.raises(ArtefactError, match="not valid JSON") as caught:
        read_json(tmp_path / "a.json")
    assert_sentence(caught.value, tmp_path / "a.json")


def test_provenance_names_versions_and_what_the_caller_knows():
    record = json.loads(json.dumps(provenance(device="cpu")))
    assert record["device"] == "cpu" and record["created"].endswith("+00:00")
    assert record["versions"]["numpy"] == np.__version__


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("DIFFINV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir().name in ("diffinv", "Cache")


def test_a_field_added_later_leaves_the_keys_of_its_default_alone():
    @dataclass(frozen=True)
    class Paint:
        colour: str = "red"

    before = content_key(Paint())

    @dataclass(frozen=True)
    class Later:
        colour: str = "red"
        coats: int = field(default=1, metadata=ABSENT_AT_DEFAULT)

    Later.__qualname__ = Paint.__qualname__
    assert content_key(Later()) == before == content_key(Later(coats=1))
    assert len({before, content_key(Later(coats=2)), content_key(Later("blue", 2))}) == 3
    assert described(Later()) == {"colour": "red"} and described(Later(coats=2))["coats"] == 2
