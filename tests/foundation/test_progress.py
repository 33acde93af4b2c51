"""Progress bars: in a log they are few lines."""

import time

import pytest

from diffinv.foundation.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [time.time()]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


def test_what_is_done_soon_leaves_no_line_in_a_log(capsys):
    assert list(progress(range(3), desc="samples")) == [0, 1, 2]
    assert capsys.readouterr().out == ""


def test_a_long_run_leaves_a_line_every_ten_seconds(clock, capsys, monkeypatch):
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    for _ in progress(range(60), desc="samples"):
        clock[0] += 1
    lines = [line for line in capsys.readouterr().out.split("\r") if "samples" in line]
    assert 4 <= len(lines) <= 7 and "60/60" in lines[-1]


def test_a_file_of_messages_gets_a_line_every_ten_seconds_and_none_of_the_result(clock, capsys, monkeypatch):
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr("diffinv.foundation.progress.headless", lambda: False)
    for _ in progress(range(2000), desc="samples"):
        clock[0] += 0.01
    written = capsys.readouterr()
    assert written.out == "" and 0 < len(written.err) < 500


def test_no_time_is_foretold_where_the_items_are_not_alike(clock, capsys, monkeypatch):
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    for alike in (True, False):
        for _ in progress(range(60), total=60, alike=alike):
            clock[0] += 1
        assert ("<" in capsys.readouterr().out) == alike
