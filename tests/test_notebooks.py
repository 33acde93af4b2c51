"""What every committed notebook has to be, told without a kernel; nbval then runs them (see the Makefile)."""

import ast
import re
import statistics
import tokenize
from io import StringIO
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL, MEDIAN_CELL = 25, 8
# Each can block a notebook for ever where nobody is watching: explorers.explore stands in for them.
BLOCKING = {"interact", "interact_manual", "interactive", "interactive_output", "Output"}

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(source: str) -> str:
    """The cell without IPython's magics."""
    kept = ("pass" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    return "\n".join(
        line if line != "pass" else before[: len(before) - len(before.lstrip())] + "pass"
        for line, before in zip(kept, source.splitlines(), strict=True)
    )


def parameters_cell(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    return tagged[0]


def test_it_is_valid_stripped_and_for_python3(path, notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook.metadata.kernelspec.name == "python3"
    assert (
        not {"widgets", "papermill"} & notebook.metadata.keys()
    )  # widgets without state break GitHub's view
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert not {"papermill", "execution"} & cell.metadata.keys()


def test_its_parameters_are_typed_literals_with_help(path, notebook):
    source = parameters_cell(notebook).source
    defaults = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.AnnAssign), (
            "a parameter is written as `name: type = literal  # help`"
        )
        # papermill does not see a parameter whose type is a union.
        assert isinstance(statement.annotation, ast.Name)
        defaults[statement.target.id] = ast.literal_eval(statement.value)
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    assert sum(token.type == tokenize.COMMENT for token in tokens) == len(defaults), "each has its help"
    assert {"profile", "output_dir", "seed"} <= defaults.keys()
    assert (defaults["profile"], defaults["output_dir"]) == ("tiny", "")


def test_the_runner_sees_the_same_parameters(path, notebook):
    from diffinv.lessons.profiles import PROFILES
    from diffinv.reproduce.job import declared_parameters

    statements = ast.parse(parameters_cell(notebook).source).body
    declared = declared_parameters(path)
    assert list(declared) == [statement.target.id for statement in statements]
    assert declared["profile"] in PROFILES


def test_every_setting_that_it_reads_is_one_that_the_profiles_have(path, notebook):
    from dataclasses import fields

    from diffinv.lessons.profiles import PROFILES, Profile

    known = {field.name for field in fields(Profile)} | set(dir(Profile))
    trees = [ast.parse(python(cell.source)) for cell in code_cells(notebook)]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = {
        node.attr: node for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "settings"
    }
    assert names.keys() <= known
    lessons = [name for name in names if name.endswith("lesson") or name == "quickstart"]
    counts = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "counts"}
    for profile in PROFILES.values():
        assert all(any(hasattr(getattr(profile, lesson), count) for lesson in lessons) for count in counts)


def test_it_opens_with_its_own_badge_and_a_question(path, notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    badge = first.source.split("\n")[0]
    assert badge.startswith("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](")
    assert f"/notebooks/{path.name})" in badge, "the badge opens this very notebook"
    assert any(line.startswith("# ") for line in first.source.split("\n"))
    assert "?" in first.source


def test_its_cells_are_short(path, notebook):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    assert max(lengths) <= LONGEST_CELL
    assert statistics.median(lengths) <= MEDIAN_CELL
    texts = sum(cell.cell_type == "markdown" for cell in notebook.cells)
    assert texts >= len(lengths), "a lesson explains at least as often as it computes"


def test_it_predicts_and_says_what_was_learned_and_has_an_exercise_that_checks_itself(path, notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for part in (
        "**Predict:**",
        "What we learned",
        "## Exercises",
        "Fill in.**",
        "<details>",
        "../figures/",
    ):
        assert any(part in text for text in texts), part
    blank = re.compile(r"^(\w+) = None  # ", re.MULTILINE)
    blanks = {cell.source: found[1] for cell in code_cells(notebook) if (found := blank.search(cell.source))}
    assert blanks and all(f"assert {name} is None or" in source for source, name in blanks.items())


def test_the_pictures_that_it_shows_are_those_that_ship(path, notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    pictures = [found for text in texts for found in re.findall(r"!\[(.*?)\]\((\.\./.*?)\)", text)]
    assert pictures and all(alt and (path.parent / file).is_file() for alt, file in pictures)


def test_nothing_in_it_can_block_a_run_that_nobody_watches(path, notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(python(cell.source))):
            name = getattr(node, "id", None) or getattr(node, "attr", None)
            assert name not in BLOCKING, f"{name} waits for a reader: use diffinv.lessons.explorers.explore"


def test_it_checks_itself_and_draws(path, notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook))
    assert "assert " in source, "nbval only sees exceptions: say what has to hold"
    assert "save_figure(" in source and "output_dir" in source


def test_its_figures_lie_where_the_profile_has_them(path, notebook):
    opening = next(
        cell.source for cell in code_cells(notebook) if "opening(" in cell.source.split("import")[0]
    )
    assert "output_dir = output_dir or lesson.settings.output_dir" in opening.splitlines()


def test_each_figure_that_it_saves_says_what_it_shows(path, notebook):
    trees = [ast.parse(python(cell.source)) for cell in code_cells(notebook)]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    saved = [call for call in calls if getattr(call.func, "id", None) == "save_figure"]
    words = [{keyword.arg for keyword in call.keywords} for call in saved]
    assert saved and all({"caption", "alt"} <= given for given in words), "the site needs both"


def test_installing_in_colab_is_a_no_op_elsewhere(path, notebook):
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        for number, line in enumerate(lines):
            if line.lstrip().startswith(("%pip", "!pip")):
                assert line.startswith("    ") and '"google.colab" in sys.modules' in lines[number - 1]
