"""The guides for contributors and teachers: their code runs as it stands, the lessons are as they say."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import test_notebooks

ROOT = Path(__file__).parent.parent
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)
TEACHING = (ROOT / "docs" / "teaching.md").read_text()
NOTEBOOKS = {path.stem[:2]: path for path in (ROOT / "notebooks").glob("*.ipynb")}


def run(section: str, folder: Path) -> str:
    code = "\n".join(re.findall(r"```python\n(.*?)```", SECTIONS[section], re.S))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_guide_has_what_it_promises_each_in_under_a_page():
    guides = ["A synthesizer", "A dataset", "A judge", "A lesson"]
    assert [*SECTIONS] == [*guides, "The rooms of the package"]
    assert all(len(text.strip().splitlines()) <= 72 for text in SECTIONS.values()), "a page of A4"


def test_the_worked_synthesizer_is_a_row_of_a_comparison(tmp_path):
    said = run("A synthesizer", tmp_path)
    assert "difference" in said and "low" in said


def test_the_worked_dataset_loads_by_its_name(tmp_path):
    run("A dataset", tmp_path)
    assert {path.name for path in (tmp_path / "datasets" / "greys").iterdir()} == {
        *("train.parquet", "validation.parquet", "test.parquet", "dataset.json")
    }


def test_the_worked_judge_learns(tmp_path):
    assert re.fullmatch(r"\d+%, by chance 10%\n", run("A judge", tmp_path))


def test_the_worked_lesson_runs_and_is_a_lesson_like_the_others(tmp_path):
    run("A lesson", tmp_path)
    path = tmp_path / "notebooks" / "15_brightness.ipynb"
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    checks = [check for name, check in vars(test_notebooks).items() if name.startswith("test_")]
    assert len(checks) > 10
    for check in checks:
        check(path, notebook) if "notebook" in check.__code__.co_varnames[:2] else check(path)


@pytest.mark.parametrize("number", re.findall(r"^\| \[(\d\d)\].*?, 1 \|", TEACHING, re.M))
def test_an_exercise_of_the_teachers_table_checks_itself(number):
    cells = nbformat.read(NOTEBOOKS[number], as_version=4).cells
    (start,) = [n for n, cell in enumerate(cells) if cell.source.startswith("## Exercises")]
    assert re.search(r"\*\*1\. Fill in\.\*\*|1\. \*\*Fill in\.\*\*", cells[start].source)
    assert "= None" in cells[start + 1].source and "assert" in cells[start + 1].source


def test_the_sections_that_a_class_is_sent_to_are_there():
    found = re.findall(r"\[lesson (\d\d)\]\([^)]*\), (\d)(?: (?:to|and) (\d)|, (\d) and (\d))?", TEACHING)
    assert len(found) >= 7
    for number, *sections in found:
        cells = nbformat.read(NOTEBOOKS[number], as_version=4).cells
        headings = re.findall(r"^## (\d)\. ", "\n".join(cell.source for cell in cells), re.M)
        assert {section for section in sections if section} <= {*headings}, f"lesson {number}"


def test_a_class_of_90_minutes_takes_90():
    table = TEACHING.split("## A class of 90 minutes")[1].split("##")[0]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", table, re.M))) == 90
