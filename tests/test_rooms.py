"""The rooms of the package: which imports which, what CONTRIBUTING says of them, and what is public."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import diffinv

PACKAGE = Path(__file__).parents[1] / "diffinv"
# From the roof down: a room imports only from those after it, or from itself.
STAIR = (
    *("commands", "own_data", "reproduce", "lessons", "evaluation", "studies", "synthesizers", "method"),
    *("classifiers", "metrics", "models", "datasets", "figures", "artefacts", "foundation"),
)
FACTORY = "tinysd"  # imports what it needs, and is imported by nothing


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere, under TYPE_CHECKING and in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("diffinv.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative path"
            if node.module == "diffinv" or node.module.startswith("diffinv."):
                deeper = {f"{node.module}.{alias.name}" for alias in node.names}
                if deeper == {"diffinv.__version__"}:
                    continue
                found |= {name for name in deeper if is_module(name)} or {node.module}
    return found


def is_module(name: str) -> bool:
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


GRAPH = {name_of(path): imports_of(path) for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_place_on_the_stair():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {*STAIR, FACTORY}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_contributing_has_a_map_of_the_rooms_from_the_roof_down():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text().split("## The rooms of the package")[1]
    assert re.findall(r"^\| `(\w+)/`", text, re.M) == [*STAIR, FACTORY]


def test_no_import_runs_up_the_stair():
    place = {room: number for number, room in enumerate(STAIR)}
    upward = [
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        for target in targets
        if room_of(module) in place and place.get(room_of(target), -1) < place[room_of(module)]
    ]
    assert not upward, "\n".join(upward)


def test_no_module_imports_itself_on_any_way_round():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_method_can_be_read_in_one_sitting():
    assert sum(len(path.read_text().splitlines()) for path in (PACKAGE / "method").glob("*.py")) < 1000


def test_every_public_name_leads_to_something_and_costs_nothing_before():
    for name in diffinv.__all__:
        assert getattr(diffinv, name) is not None
    assert {"DiffusionInversion", "load_dataset", "load_diffusion", "run_study"} <= set(dir(diffinv))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = diffinv.nonsense
    heavy = (
        "import sys, diffinv; print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
