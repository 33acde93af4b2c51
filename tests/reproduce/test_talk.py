"""What a run says: its order, the first figure, its progress in a terminal and in a log, the time to go."""

import json
import logging
import math
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from small_notebooks import DRAW, write_notebook
from tqdm import tqdm

from diffinv.reproduce import runner, talk
from diffinv.reproduce.job import Job, Outcome
from diffinv.reproduce.runner import reproduce
from diffinv.reproduce.talk import Talk, duration, expected_seconds, unet_calls_per_second

WAIT = "import time; time.sleep(2.5)"
PARAMETERS = {"profile": "smoke"}


def record(seconds: float, speed: float | None = 10.0) -> dict:
    cold = {"wall_seconds": seconds, "unet_calls_per_second": speed}
    return {"wall_seconds": 1.0, "parameters": PARAMETERS, "cold": cold}


def talk_of(expected: dict[str, float], workers: int = 1, bound: str = "") -> Talk:
    return Talk(tqdm(disable=True), expected, workers, bound)


def job(name: str, place: Path = Path("figures")) -> Job:
    return Job(Path(f"{name}.ipynb"), place / "executed" / f"{name}.ipynb", place, {}, None)


def outcome(name: str, seconds: float, error: str | None = None) -> Outcome:
    figures = () if error else ("a.png", "b.png")
    return Outcome(job(name, Path("/f")), "failed" if error else "done", figures, seconds, error)


def test_a_time_is_scaled_by_what_was_measured_and_never_invented():
    assert expected_seconds(record(100.0), PARAMETERS, 20.0) == 50.0
    for unknown in (
        expected_seconds(record(100.0), {"profile": "tiny"}, 20.0),  # another amount of work
        expected_seconds(record(100.0, None), PARAMETERS, 20.0),
        expected_seconds(record(100.0), PARAMETERS, None),
        expected_seconds({**record(100.0), "cold": None}, PARAMETERS, 20.0),  # its results were in the cache
        expected_seconds({"wall_seconds": math.inf}, PARAMETERS, 20.0),  # it has never run
    ):
        assert math.isnan(unknown)


def test_a_faster_machine_is_a_larger_number():
    speed = unet_calls_per_second()
    assert speed > 0 and unet_calls_per_second() == speed  # measured once in a process


def test_the_time_to_go_is_shared_by_the_processes_and_bounded_by_the_longest_notebook(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(talk.time, "time", lambda: clock[0])
    run = talk_of({"00_a": 60.0, "01_b": 600.0, "02_c": 300.0, "03_d": 300.0}, workers=2)
    assert run.seconds_to_go() == 630
    run.starts(job("00_a"))
    run.starts(job("01_b"))
    clock[0] += 60
    run.ends(outcome("00_a", 60.0))
    assert run.seconds_to_go() == 570
    run.starts(job("02_c"))
    clock[0] += 600  # both take longer than expected, and may end at any moment
    assert run.seconds_to_go() == 300


def test_one_unknown_time_makes_the_whole_unknown_until_it_has_ended(caplog):
    caplog.set_level(logging.INFO, logger="diffinv")
    run = talk_of({"00_a": 60.0, "01_b": math.nan, "02_c": 300.0})
    run.opens()
    assert "expected time: not known yet (" in caplog.messages[-1]
    for name in ("00_a", "01_b"):
        run.starts(job(name))
        assert ("expected" in caplog.messages[-1]) == (name == "00_a")
        run.ends(outcome(name, 60.0))
    first, second = (line for line in caplog.messages if " done in " in line)
    assert "time to go not known yet" in first and second.endswith("about 5 min to go")
    assert run.seconds_to_go() == pytest.approx(300)


def test_a_line_at_each_end_says_what_is_left(caplog):
    caplog.set_level(logging.INFO, logger="diffinv")
    run = talk_of({"00_a": 60.0, "01_b": 600.0, "02_c": 300.0}, bound="at most ")
    run.opens()
    assert caplog.messages[-1] == (
        "expected time: at most about 16 min, less where the cache already holds results"
    )
    run.starts(job("00_a"))
    assert caplog.messages[-1] == "00_a starts, at most about 60 s expected"
    run.ends(outcome("00_a", 60.0))
    line, *figures = caplog.messages[-3:]
    assert line.startswith(
        "[1/3] 00_a done in 60 s, 2 figures; 2 left, 0 s elapsed, at most about 15 min to go"
    )
    assert [figure.strip() for figure in figures] == ["look: /f/a.png", "look: /f/b.png"]
    run.starts(job("01_b"))
    run.ends(outcome("01_b", 1.0, "its kernel died"))
    assert caplog.records[-1].levelno == logging.ERROR
    assert "01_b failed: its kernel died; its partial copy is /f/executed/01_b.ipynb" in caplog.messages[-1]
    assert run.seconds_to_go() == pytest.approx(300)  # an early failure does not make the rest faster


def test_a_long_time_is_said_in_minutes():
    assert [duration(seconds) for seconds in (0.4, 59.6, 840, 5400)] == ["0 s", "60 s", "14 min", "90 min"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A quickstart, a lesson that waits, and a cache of their own that is empty."""
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path / "cache"))
    write_notebook(tmp_path / "notebooks", "00_quick", "name = text = 'quick'", DRAW)
    write_notebook(tmp_path / "notebooks", "01_wait", WAIT, "name = text = 'waited'", DRAW)
    return tmp_path


def run(place: Path, **more) -> list[Outcome]:
    return reproduce("smoke", output=place / "figures", notebooks=place / "notebooks", **more)


def records(place: Path) -> dict:
    return json.loads((place / "figures" / "manifest.json").read_text())["notebooks"]


def test_a_second_run_knows_how_long_the_first_took(place, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="diffinv")
    monkeypatch.setattr(runner, "unet_calls_per_second", lambda: 20.0)
    monkeypatch.setattr(talk, "LOG_SECONDS", 0.5)
    run(place)
    order = ["00_quick", "01_wait"]
    assert [line.split()[0] for line in caplog.messages if " starts" in line] == order
    assert "expected time: not known yet (it comes from" in caplog.text
    assert re.search(r"01_wait for \d+ s, cell 4/6", caplog.text)
    assert f"look: {place / 'figures' / 'quick.png'}\n" in caplog.text
    first = records(place)["01_wait"]
    assert first["unet_calls_per_second"] == 20.0
    measured = {name: first[name] for name in ("wall_seconds", "cpu_seconds", "unet_images")}
    assert first["cold"] == {**measured, "unet_calls_per_second": 20.0}

    (place / "cache").mkdir()
    (place / "cache" / "result").touch()
    monkeypatch.setattr(runner, "unet_calls_per_second", lambda: 0.02)  # a machine that is 1000 times slower
    caplog.clear()
    run(place, force=True)
    assert [line.split()[0] for line in caplog.messages if " starts" in line] == order
    total = sum(record["cold"]["wall_seconds"] for record in records(place).values())
    assert f"expected time: at most about {duration(1000 * total)}, less where" in caplog.text
    again = records(place)["01_wait"]
    assert again["cold"] == first["cold"]  # a run with a filled cache does not know better
    assert again["unet_calls_per_second"] == 0.02

    caplog.clear()
    assert [outcome.status for outcome in run(place)] == ["up to date", "up to date"]
    assert "up to date: 00_quick, 01_wait" in caplog.messages
    assert re.search(r"00_quick +up to date +- +- +- +1\n01_wait ", caplog.text)


def test_the_first_picture_is_announced_while_its_notebook_runs(place, caplog):
    caplog.set_level(logging.INFO, logger="diffinv")
    write_notebook(place / "notebooks", "00_quick", "name = text = 'quick'", DRAW, WAIT, "1 / 0")
    (place / "figures").mkdir()
    (place / "figures" / "quick.png").write_text("of an earlier run")
    (outcome,) = run(place, only=["0"])
    early = f"    look: {place / 'figures' / 'executed' / '.00_quick' / 'quick.png'} (while 00_quick runs)"
    assert [line for line in caplog.messages if "look:" in line] == [early]
    assert outcome.status == "failed"
    assert (place / "figures" / "quick.png").read_text() == "of an earlier run"


def test_a_log_is_not_flooded(place, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="diffinv")
    monkeypatch.setattr(talk, "LOG_SECONDS", 1.0)
    started = time.time()
    run(place, only=["1"])
    said = [record.created for record in caplog.records if "; 01_wait for" in record.message]
    assert 2 <= len(said) <= time.time() - started
    assert all(later - earlier >= 0.9 for earlier, later in pairwise(said))


def command(place: Path, *more: str) -> list[str]:
    notebooks, output = str(place / "notebooks"), str(place / "figures")
    options = ["--profile", "smoke", "--notebooks", notebooks, "--output", output, *more]
    return [sys.executable, "-m", "diffinv", "reproduce", *options]


def test_a_log_has_whole_lines_and_ends_with_a_table(place):
    done = subprocess.run(command(place, "--jobs", "2"), capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr and "\x1b" not in done.stderr
    *_, head, quick, wait = done.stderr.splitlines()
    assert head.split() == ["notebook", "status", "seconds", "cpu_seconds", "unet_images", "figures"]
    assert quick.split()[:2] == ["00_quick", "done"] and wait.split()[:2] == ["01_wait", "done"]
    assert (
        done.stdout == f"{place / 'figures' / 'site' / 'index.html'} shows the lessons and their figures.\n"
    )


def test_a_terminal_has_a_live_line_that_goes_away(place):
    pty = pytest.importorskip("pty", reason="POSIX terminals")
    ours, theirs = pty.openpty()
    import termios

    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(command(place), stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # so ends a terminal that nobody writes to any more, on Linux
            break
        if not part:
            break
        screen += part
    os.close(ours)
    assert process.wait() == 0
    text = screen.decode()
    live = re.findall(r"\r(\[\d/2\] [^\r\n]*01 for \d+ s, cell \d/6)", text)
    assert len(live) >= 2 and len(set(live)) >= 2  # it moves
    lines = text.replace("\r\n", "\n").split("\n")
    seen = [line.rsplit("\r", 1)[-1].rstrip() for line in lines]  # what stays of a line that was overwritten
    assert not any("01 for" in line for line in seen)
    assert any(line.startswith("[1/2] 00_quick done in ") for line in seen)
    assert any(line.endswith("shows the lessons and their figures.") for line in seen)
