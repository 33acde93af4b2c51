"""The notebook runner, on small real notebooks with real kernels."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from jupyter_client.provisioning import LocalProvisioner
from small_notebooks import DRAW, PARAMETERS, write_notebook

from diffinv.artefacts.writing import ArtefactError
from diffinv.commands.main import main
from diffinv.lessons import SPENT
from diffinv.reproduce.job import Job, check_parameters, run_job
from diffinv.reproduce.manifest import Manifest, fingerprint
from diffinv.reproduce.runner import _alone_at, find_notebooks, reproduce

LOOK_AROUND = """
import os
seen = ("DIFFINV_HEADLESS", "DIFFINV_CACHE", "DIFFINV_PROFILE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
text = "\\n".join([profile, str(flag), os.getcwd(), *(str(os.environ.get(name)) for name in seen)])
"""


SPEND = f"""
from IPython.display import display
display({{"{SPENT}": {{"unet_images": 12}}}}, raw=True)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with three notebooks, the second of which fails, after a first run of them all."""
    place = tmp_path_factory.mktemp("place")
    write_notebook(place / "notebooks", "00_look", LOOK_AROUND, "name = '00_first'", DRAW, SPEND)
    write_notebook(place / "notebooks", "01_fail", "name = text = 'lost'", DRAW, "1 / 0")
    write_notebook(place / "notebooks", "02_draw", "name, text = '02_old', 'old'", DRAW)
    write_notebook(place / "notebooks", "draft", "1 / 0")  # not numbered: no lesson
    return place


def run(place: Path, **more):
    return reproduce(
        "smoke",
        jobs=2,
        output=place / "figures",
        notebooks=place / "notebooks",
        parameters={"flag": "false"},
        **more,
    )


@pytest.fixture(scope="module")
def first(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFINV_PROFILE", "paper")
        patch.setenv("DIFFINV_CACHE", "relative/cache")
        return run(place)


def manifest_of(place: Path) -> dict:
    return json.loads((place / "figures" / "manifest.json").read_text())


def test_a_failing_notebook_is_named_kept_and_leaves_the_others_alone(place, first):
    assert [outcome.job.name for outcome in first] == ["00_look", "01_fail", "02_draw"]
    assert [outcome.status for outcome in first] == ["done", "failed", "done"]
    assert "ZeroDivisionError: division by zero" in first[1].error
    partial = nbformat.read(first[1].job.executed, as_version=4)
    assert any(output.output_type == "error" for cell in partial.cells for output in cell.get("outputs", ()))
    assert not list((place / "figures").rglob("lost.*"))


def test_the_notebook_ran_headless_with_its_parameters_and_capped_threads(place, first):
    profile, flag, folder, headless, cache, other_profile, threads, of_mkl = (
        (place / "figures" / "00_first.csv").read_text().split("\n")
    )
    assert (profile, flag, headless, other_profile) == ("smoke", "False", "1", "None")
    assert folder == os.getcwd()
    assert cache == str(Path("relative/cache").resolve())
    assert 1 <= int(threads) <= max(1, os.cpu_count() // 2)
    assert of_mkl == threads, "the least that was asked for counts for every library"


def test_the_manifest_says_how_each_figure_was_made(place, first):
    manifest = manifest_of(place)
    assert list(manifest["figures"]) == ["00_first.png", "02_old.png"]
    figure = manifest["figures"]["00_first.png"]
    assert figure["notebook"] == "00_look.ipynb"
    assert (figure["svg"], figure["csv"]) == ("00_first.svg", "00_first.csv")
    assert figure["parameters"] == {"profile": "smoke", "seed": 7, "flag": False, "rate": 0.5, "limit": None}
    assert figure["classifier_seeds"] and figure["device"] == "cpu" and figure["versions"]["torch"]
    assert figure["unet_images"] == 12 and manifest["figures"]["02_old.png"]["unet_images"] is None
    assert figure["wall_seconds"] > 0 and figure["cpu_seconds"] > 0 and figure["peak_memory_mib"] > 20
    assert {"commit", "data", "weights"} <= figure.keys()
    assert str(place) not in json.dumps(manifest)  # the same on every machine


def test_the_pictures_in_an_executed_copy_are_those_of_its_run(tmp_path):
    folder, output = tmp_path / "notebooks", tmp_path / "elsewhere" / "out"
    notebook = write_notebook(folder, "00_look", "name = text = 'drawn'", DRAW)
    content = nbformat.read(notebook, as_version=4)
    web = "![badge](https://example.org/a.svg)"
    content.cells[0].source = f"{web} ![Own](../figures/drawn.png) ![Kept](../figures/kept.png)"
    nbformat.write(content, notebook)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "kept.png").touch()
    reproduce("smoke", output=output, notebooks=folder)
    copy = output / "executed" / "00_look.ipynb"
    executed = nbformat.read(copy, as_version=4)
    nbformat.validate(executed)
    said, own, kept = re.fullmatch(
        r"(.*) !\[Own\]\((.*)\) !\[Kept\]\((.*)\)", executed.cells[0].source
    ).groups()
    assert said == web
    assert (copy.parent / own).resolve() == output / "drawn.png"
    assert (copy.parent / kept).resolve() == tmp_path / "figures" / "kept.png"
    assert "../figures/drawn.png" in notebook.read_text(), "the notebook itself is left alone"


def test_a_second_run_does_only_what_has_changed(place, first):
    write_notebook(place / "notebooks", "01_fail", "name = text = '01_mended'", DRAW)
    write_notebook(place / "notebooks", "02_draw", "name, text = '02_new', 'new'", DRAW)
    again = run(place)
    assert [outcome.status for outcome in again] == ["up to date", "done", "done"]
    assert list(manifest_of(place)["figures"]) == ["00_first.png", "01_mended.png", "02_new.png"]
    assert not list((place / "figures").glob("02_old.*"))  # what the notebook no longer draws is gone
    assert [outcome.status for outcome in run(place)] == ["up to date"] * 3


def test_a_figure_of_another_notebook_is_not_overwritten(place, first):
    write_notebook(place / "notebooks", "03_thief", "name, text = '00_first', 'stolen'", DRAW)
    (outcome,) = run(place, only=["3"])
    (place / "notebooks" / "03_thief.ipynb").unlink()
    assert outcome.status == "failed" and "00_look writes 00_first.csv too" in outcome.error
    assert (place / "figures" / "00_first.csv").read_text() != "stolen"


def test_a_killed_process_is_one_failure_and_no_more(tmp_path):
    # The notebook kills its own runner, as the system does when memory runs out.
    write_notebook(
        tmp_path / "notebooks", "00_kill", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    )
    starts = f"open({str(tmp_path / 'starts')!r}, 'a').write('once ')"
    write_notebook(tmp_path / "notebooks", "01_draw", starts, "name = text = '01_drawn'", DRAW)
    outcomes = run(tmp_path)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "killed" in outcomes[0].error
    assert (tmp_path / "starts").read_text() == "once "  # the other notebook is not begun again


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_run_leaves_no_process_behind(tmp_path, signum, code):
    wait = f"import os, time; open({str(tmp_path / 'kernel')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    write_notebook(tmp_path / "notebooks", "00_wait", wait)
    command = [sys.executable, "-m", "diffinv", "reproduce", "--profile", "smoke", "--output", "figures"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    kernel = int(wait_for(lambda: (tmp_path / "kernel").exists() and (tmp_path / "kernel").read_text()))
    process.send_signal(signum)
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == code
    wait_for(lambda: not running(kernel))
    if signum == signal.SIGINT:
        assert "Interrupted" in stderr and "Traceback" not in stderr
        assert (tmp_path / "figures" / "executed" / "00_wait.ipynb").exists()
        assert not (tmp_path / "figures" / "executed" / ".00_wait").exists()


def wait_for(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # an ended process stays listed until somebody asks after it
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def job(tmp_path: Path, notebook: Path, **more) -> Job:
    return Job(notebook, tmp_path / "executed.ipynb", tmp_path, {"output_dir": str(tmp_path)}, **more)


def test_a_cell_that_runs_too_long_is_stopped(tmp_path):
    notebook = write_notebook(tmp_path, "00_slow", "import time; time.sleep(60)")
    result = run_job(job(tmp_path, notebook, cell_timeout_seconds=1))
    assert "ran longer than the profile's 1 seconds" in result.error
    assert result.wall_seconds < 30


def test_a_kernel_ends_without_an_interrupt(tmp_path, monkeypatch):
    # A kernel that an interrupt meets while it ends its last reply prints an error.
    signals, send = [], LocalProvisioner.send_signal
    monkeypatch.setattr(LocalProvisioner, "send_signal", lambda self, n: signals.append(n) or send(self, n))
    notebook = write_notebook(tmp_path, "00_any", "1 + 1")
    assert run_job(job(tmp_path, notebook, cell_timeout_seconds=None)).error is None
    assert signal.SIGINT not in signals and signal.SIGKILL not in signals


@pytest.mark.parametrize(("deaths", "expected"), [(1, None), (2, "died before replying")])
def test_a_kernel_that_dies_at_birth_gets_a_second_chance(tmp_path, monkeypatch, deaths, expected):
    calls = []

    def execute(*arguments, **settings):
        calls.append(settings["parameters"])
        if len(calls) <= deaths:
            raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr("papermill.execute_notebook", execute)
    result = run_job(job(tmp_path, tmp_path / "00_any.ipynb", cell_timeout_seconds=None))
    assert len(calls) == 2
    assert result.error is None if expected is None else expected in result.error


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("flag", "false", False),
        ("flag", True, True),
        ("rate", "1e-4", 1e-4),
        ("rate", 2, 2.0),
        ("seed", "3", 3),
        ("profile", "3", "3"),
        ("limit", "none", None),
        ("limit", "5", 5),
    ],
)
def test_a_parameter_arrives_in_the_type_that_the_notebook_declares(tmp_path, name, given, expected):
    notebook = write_notebook(tmp_path, "00_any")
    value = check_parameters(notebook, {name: given})[name]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"parameters": {"sede": 1}}, "00_any.ipynb has no parameter 'sede': it takes profile, output_dir"),
        ({"parameters": {"seed": "three"}}, "'seed' is of type int, such as 7: 'three' is not"),
        ({"parameters": {"flag": 1}}, "'flag' is of type bool"),
        ({"parameters": {"profile": "tiny"}}, "use --profile"),
        ({"parameters": {"output_dir": "x"}}, "use --output"),
        ({"only": ["00", "42"]}, "no notebook '42': choose from 00"),
        ({"profile": "huge"}, "huge"),
        ({"jobs": 0}, "jobs is 0"),
        ({"notebooks": "nowhere"}, "nowhere holds no numbered notebook"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_runs(tmp_path, request_, sentence):
    write_notebook(tmp_path, "00_any")
    request = {"profile": "smoke", "output": tmp_path / "figures", "notebooks": tmp_path, **request_}
    with pytest.raises(ValueError, match=sentence):
        reproduce(**request)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("seed: int = 1", "00_any.ipynb has no parameter 'output_dir': it takes seed"),
        ("", "it takes none: tag one cell"),
    ],
)
def test_a_notebook_without_the_runners_parameters_is_refused(tmp_path, parameters, sentence):
    write_notebook(tmp_path, "00_any", parameters=parameters)
    with pytest.raises(ValueError, match=sentence):
        reproduce("smoke", output=tmp_path / "figures", notebooks=tmp_path)


def test_an_output_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    write_notebook(tmp_path, "00_any")
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(ArtefactError, match="cannot be written"):
        reproduce("smoke", output=tmp_path / "figures", notebooks=tmp_path)


def test_notebooks_are_found_in_their_order_and_by_number(tmp_path):
    for name in ("10_last", "02_b", "00_a", "notes", "3_short"):
        write_notebook(tmp_path, name)
    assert [path.stem for path in find_notebooks(tmp_path)] == ["00_a", "02_b", "10_last"]
    assert [path.stem for path in find_notebooks(tmp_path, ["10", "2"])] == ["02_b", "10_last"]


def test_a_fingerprint_sees_names_and_bytes_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("1")
    before = fingerprint(tmp_path)
    os.utime(tmp_path / "a", (0, 0))
    assert fingerprint(tmp_path) == before
    (tmp_path / "a").write_text("2")
    assert fingerprint(tmp_path) != before
    (tmp_path / "a").write_text("1")
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(tmp_path) != before


READ = """
from pathlib import Path
text = "".join(path.read_text() for path in sorted(Path(results_dir).glob("*_claims.csv")))
"""
DRAW_CLAIMS = 'Path(output_dir, "b_claims.csv").write_text(text)'


def test_a_notebook_that_reads_the_results_of_others_runs_after_them(tmp_path):
    """Although its number is the first, and two run at a time."""
    notebooks = tmp_path / "notebooks"
    reads = PARAMETERS + 'results_dir: str = "figures"\n'
    write_notebook(notebooks, "01_reads", READ, "name = 'ledger'", DRAW, parameters=reads)
    write_notebook(notebooks, "02_writes", "name, text = '02', 'one'", DRAW, DRAW_CLAIMS)

    def statuses(**more):
        return [each.status for each in run(tmp_path, **more)]

    assert statuses() == ["done", "done"]
    ledger = tmp_path / "figures" / "ledger.csv"
    assert ledger.read_text() == "one"
    assert statuses() == ["up to date", "up to date"]
    write_notebook(notebooks, "02_writes", "name, text = '02', 'two'", DRAW, DRAW_CLAIMS)
    assert statuses() == ["done", "done"] and ledger.read_text() == "two"
    (tmp_path / "figures" / "b_claims.csv").write_text("three")  # by a run of another notebook alone
    assert statuses(only=["1"]) == ["done"] and ledger.read_text() == "three"
    record = manifest_of(tmp_path)["notebooks"]["01_reads"]["parameters"]
    assert "results_dir" not in record, "a folder of this machine says nothing elsewhere"


def test_two_runs_into_one_folder_lose_no_record(tmp_path):
    first, second = Manifest(tmp_path), Manifest(tmp_path)

    def accept(manifest, name, file):
        staging = tmp_path / "staging" / name
        staging.mkdir(parents=True)
        (staging / file).touch()
        manifest.accept(name, staging, {"key": name})

    accept(first, "00_a", "a.png")
    accept(second, "01_b", "b.png")
    accept(first, "02_c", "c.png")
    second.keep_only({"00_a", "01_b", "02_c"})
    assert set(Manifest(tmp_path).notebooks) == {"00_a", "01_b", "02_c"}
    with pytest.raises(ArtefactError, match=r"02_c writes c\.png too"):
        accept(second, "03_d", "c.png")


def test_a_notebook_that_another_run_is_at_is_refused_and_left_alone(tmp_path):
    go, folder = tmp_path / "go", tmp_path / "notebooks"
    wait = f"import time\nwhile not Path({str(go)!r}).exists(): time.sleep(0.05)"
    for name, last in (("00_quick", ""), ("01_wait", wait), ("02_other", "")):
        write_notebook(folder, name, f"name = text = '{name}'", DRAW, last)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run, tmp_path, only=["0", "1"])
        wait_for(lambda: "00_quick" in Manifest(tmp_path / "figures").notebooks)
        with pytest.raises(ArtefactError, match=r"another run is at 01_wait in .*--output"):
            run(tmp_path)
        wait_for(lambda: statuses_or_none(tmp_path, only=["0", "2"], force=True) == ["done", "done"])
        go.touch()
        assert [outcome.status for outcome in first.result()] == ["done", "done"]
    assert list(manifest_of(tmp_path)["figures"]) == ["00_quick.png", "01_wait.png", "02_other.png"]
    assert [outcome.status for outcome in run(tmp_path)] == ["up to date"] * 3


def statuses_or_none(place, **more):
    try:
        return [outcome.status for outcome in run(place, **more)]
    except ArtefactError:  # its lock is let go of a moment after its record is written
        return None


def claim(folder, names, start, answers):
    jobs = [Job(folder / name, folder / name, folder / f".{name}", {}, None) for name in names]
    start.wait(60)
    try:
        with _alone_at(jobs, folder):
            answers.put("alone")
            time.sleep(1)
    except ArtefactError:
        answers.put("refused")


def test_of_two_runs_that_start_together_one_goes_on(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(2), context.Queue()
    names = [f"{number:02}_draw.ipynb" for number in range(17)]
    runs = [
        context.Process(target=claim, args=(tmp_path, order, start, answers))
        for order in (names, names[::-1])
    ]
    for each in runs:
        each.start()
    assert sorted(answers.get(timeout=60) for _ in runs) == ["alone", "refused"]
    for each in runs:
        each.join(60)


def test_a_parameter_of_some_notebooks_is_left_out_of_the_others(tmp_path, caplog):
    write_notebook(tmp_path, "00_any", "name, text = '00', str(seed)", DRAW)
    fewer = PARAMETERS.replace("seed: int = 7\n", "")
    write_notebook(tmp_path, "01_fewer", "name = text = '01'", DRAW, parameters=fewer)
    with caplog.at_level("INFO"):
        reproduce("smoke", output=tmp_path / "figures", notebooks=tmp_path, parameters={"seed": 3})
    assert (tmp_path / "figures" / "00.csv").read_text() == "3" and (tmp_path / "figures" / "01.csv").exists()
    assert "01_fewer has no parameter seed, and runs without it" in caplog.text


def test_the_engine_of_a_run_is_that_of_its_notebooks(monkeypatch):
    given = {}
    monkeypatch.setattr("diffinv.reproduce.runner.reproduce", lambda *_, **more: given.update(more) or [])
    assert main(["reproduce", "--engine", "local", "--workers", "2"]) == 0
    assert given["engine"] == "local 2"
    assert main(["reproduce"]) == 0 and given["engine"] is None
    assert main(["reproduce", "--engine", "dask"]) == 2 and main(["reproduce", "--workers", "2"]) == 2
