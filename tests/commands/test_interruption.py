"""A run of the lessons that is killed outright, twice, and resumed ends with the rows of an unbroken one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil", reason="psutil comes with ipykernel, in the notebooks extra")

ROOT = Path(__file__).parents[2]
# A minute of work in all, but a machine that is busy with something else takes its time.
pytestmark = pytest.mark.timeout(1200)


class Run:
    """`diffinv reproduce` of the lessons on inversion and classifiers, with a cache and output of its own."""

    def __init__(self, place: Path) -> None:
        self.cache, self.output, self.log = place / "cache", place / "figures", place / "log.txt"

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "diffinv", "reproduce", "--profile", "smoke", "--only", "01,03"]
        environment = {**os.environ, "DIFFINV_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(ROOT)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--jobs", "1", "-p", "dataset=icons10", "--output", str(self.output)],
                cwd=ROOT, env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    def finish(self) -> None:
        assert self.start().wait() == 0, self.log.read_text()

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Kill the runner, its worker and the kernel, with no time to put anything in order."""
        process = self.start()
        while not reached():
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        assert len(family) >= 3, "no kernel is running"
        for member in family:
            os.kill(member.pid, signal.SIGKILL)
        process.wait()

    def tables(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.glob("*.csv")}

    def shards(self) -> dict[str, int]:
        """The finished groups of stage 1 and the time of each."""
        return {path.name: path.stat().st_mtime_ns for path in self.cache.glob("inversion/*/*.safetensors")}

    def cells(self) -> dict[str, dict]:
        """The finished cells of the studies, without the time that each took."""
        cells = {path.name: json.loads(path.read_text()) for path in self.cache.glob("studies/*.json")}
        assert all(cell.pop("wall_seconds") > 0 and cell.pop("checksum_of_record") for cell in cells.values())
        return cells


@pytest.mark.timeout(900)  # six kernels, which other work on the machine slows down
def test_a_run_killed_in_two_lessons_ends_with_the_rows_of_an_unbroken_one(tmp_path):
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    unbroken, broken = Run(tmp_path / "unbroken"), Run(tmp_path / "broken")
    unbroken.finish()

    broken.kill_when(broken.shards)
    assert broken.tables() == {}, "a lesson that has not ended shows figures"
    first_shards = broken.shards()
    broken.kill_when(lambda: len(broken.cells()) >= 3)
    few_cells = broken.cells()
    assert 3 <= len(few_cells) < len(unbroken.cells())
    lesson_01 = {name for name in unbroken.tables() if name.startswith("inversion_")}
    assert broken.tables().keys() == lesson_01 and lesson_01

    broken.finish()
    assert broken.tables() == unbroken.tables()
    assert broken.cells() == unbroken.cells() and few_cells.items() <= broken.cells().items()
    assert broken.shards().keys() == unbroken.shards().keys()
    assert first_shards.items() <= broken.shards().items(), "what was finished was done again"
    left = [path for place in (broken.cache, broken.output) for path in place.rglob(".diffinv-*.tmp")]
    assert len(left) <= 2, "at most what the two kills caught half written"
