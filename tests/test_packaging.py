"""environment.yml, pyproject.toml, the lock file, the Makefile, the README and the code tell one story."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import run_as_colab
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from diffinv import __version__
from diffinv.commands.doctor import ASSETS, read_checksums
from diffinv.commands.main import build_parser
from diffinv.reproduce.job import declared_parameters
from diffinv.tinysd import pretrain

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCS = {path: path.read_text() for path in PAGES}
MAKEFILE = (ROOT / "Makefile").read_text()
EXTRAS = {
    name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()
}
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
DECLARED = {canonicalize_name(r.name) for rs in (CORE, *EXTRAS.values()) for r in rs}


def pins() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def python_floor() -> str:
    return PROJECT["requires-python"].removeprefix(">=")


def shell_lines() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", "\n".join(DOCS.values()), flags=re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_the_version_is_the_same_everywhere():
    assert PROJECT["version"] == __version__ == importlib.metadata.version("diffinv")


def test_the_conda_environment_installs_the_package_with_its_extras():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]  # the pytorch channel ended
    *conda, pip = environment["dependencies"]
    assert conda == [f"python>={python_floor()}", "pip"]
    (install,) = pip["pip"]
    assert install == "-e .[notebooks,dev]"
    assert f'"{install.removeprefix("-e ")}"' in DOCS[ROOT / "docs" / "dependencies.md"]
    assert {"notebooks", "dev"} <= EXTRAS.keys()


def test_the_readme_can_be_read_in_one_go():
    assert len(README.splitlines()) <= 130


def test_the_readme_asks_for_the_same_python():
    assert f"Python {python_floor()} or newer" in README
    assert f"Python {python_floor()} or newer" in MAKEFILE


def test_the_documentation_says_what_every_dependency_is_for():
    table = DOCS[ROOT / "docs" / "dependencies.md"].split("What each dependency is for:")[1]
    named = {
        canonicalize_name(name)
        for row in re.findall(r"^\| ([^|]+) \|", table, re.M)
        for name in row.split(", ")
    }
    assert named - {"dependency", "---", "-"} == DECLARED


def test_every_command_of_the_documentation_exists():
    commands = shell_lines()
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    assert {"make reproduce", "make test"} <= set(commands)
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "make":
            assert arguments[0] in targets
        elif program == "papermill":
            given = {name for flag, name in pairwise(arguments) if flag == "-p"}
            assert given <= declared_parameters(ROOT / arguments[0]).keys()
        elif program == "python":
            assert arguments[0] == "-c" and ast.parse(arguments[1])
        elif program not in ("export", "mkdir"):
            assert program == "diffinv"
            if arguments[0] == "pretrain":  # has a command line of its own; raises where an option is unknown
                pretrain._parser().parse_args(arguments[1:])
            else:
                build_parser().parse_args(arguments)  # exits where an option is unknown


def test_every_file_that_the_documentation_names_is_there():
    for page, text in DOCS.items():
        shown = re.sub("```.*?```", "", text, flags=re.DOTALL)
        for path in re.findall(r"(?:\]\(|src=\")((?!https?:)[^)#\"]+)[)\"]", shown):
            assert (page.parent / path).exists(), f"{page.name} shows {path}"


def test_floors_are_no_newer_than_colab_and_nothing_has_a_ceiling():
    for requirement in CORE:
        assert {specifier.operator for specifier in requirement.specifier} == {">="}
        if requirement.name in run_as_colab.COLAB:  # the oldest versions that the package has to run with
            assert requirement.specifier.contains(run_as_colab.COLAB[requirement.name])
    assert f"Programming Language :: Python :: {run_as_colab.PYTHON}" in PROJECT["classifiers"]


def test_the_documentation_says_when_colab_was_tested_last():
    (line,) = run_as_colab.LINE.findall(run_as_colab.SAID.read_text())
    assert re.search(r" on \d{4}-\d\d-\d\d,", line) and f"Python {run_as_colab.PYTHON}." in line
    assert all(f"{name} {version}" in line for name, version in run_as_colab.COLAB.items())


def test_binder_installs_what_is_tested_and_opens_the_first_lesson():
    requirements, start = ((ROOT / "binder" / name).read_text() for name in ("requirements.txt", "start"))
    assert "-r ../requirements.lock" in requirements and f"torch=={pins()['torch']}+cpu" in requirements
    (lesson,) = re.findall(r"/lab/tree/(\S+)", start)
    assert (ROOT / lesson).is_file() and lesson.startswith("notebooks/00_")
    assert all(os.access(ROOT / "binder" / name, os.X_OK) for name in ("start", "postBuild"))
    assert (ROOT / "binder" / "runtime.txt").read_text() == f"python-{python_floor()}\n"


@pytest.mark.parametrize("requirements", [CORE, *EXTRAS.values()], ids=["core", *EXTRAS])
def test_the_lock_file_pins_every_dependency_within_its_bounds(requirements):
    for requirement in requirements:
        pin = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin)
        assert pin.local is None  # +cpu is of one machine
    assert f"torch=={pins()['torch']}" in MAKEFILE  # what is installed first is what is pinned


def test_the_lock_file_is_closed():
    for name in pins():
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in pins(), f"{name} needs {needed.name}"


def test_what_is_tested_is_what_is_pinned():
    for name in ("torch", "diffusers", "transformers", "numpy", "papermill", "nbval"):
        assert Version(importlib.metadata.version(name)).public == str(pins()[name])


def test_every_import_of_the_package_is_declared():
    homes = importlib.metadata.packages_distributions()
    for path in (ROOT / "diffinv").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in (
                {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"diffinv"}
            ):
                if module in {"timm"}:  # for those who have it and ask for it by name; refused otherwise
                    continue
                homes_of = {canonicalize_name(home) for home in homes[module]}
                # traitlets comes with, and is spoken to through, nbclient.
                assert homes_of & (DECLARED | {"traitlets"}), f"{path.name} imports {module}"


def test_importing_the_core_needs_no_extra():
    optional = {
        "papermill",
        "nbclient",
        "nbconvert",
        "latex2mathml",
        "pygments",
        "nbformat",
        "traitlets",
        "resvg_py",
        "mlxtend",
        "pytest",
    }
    for path in (ROOT / "diffinv").rglob("*.py"):
        if "tinysd" in path.parts:
            continue
        top = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        for node in top:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not {name.split(".")[0] for name in names} & optional, path.name


def test_the_embedded_assets_are_the_ones_that_were_shipped():
    import hashlib

    listed = read_checksums(ASSETS / "SHA256SUMS")
    found = {
        path.relative_to(ASSETS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in ASSETS.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS" and not path.name.startswith(".")
    }
    assert listed == found, "run `make checksums` after a change of the assets"


def test_ci_runs_the_readmes_own_test_command():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "\nmake test\n" in script.read_text()


def test_the_published_site_is_the_one_that_the_makefile_makes():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())
    steps = workflow["jobs"]["make"]["steps"]
    targets = [step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")]
    assert targets == ["install", "reproduce"] and f"torch=={pins()['torch']}" in str(steps)
    (published,) = [step["with"]["path"] for step in steps if "upload-pages" in step.get("uses", "")]
    assert published == "figures/site" and "figures/site/index.html" in README


def test_no_notebook_carries_widgets_without_their_state():
    # GitHub shows nothing of such a notebook, and nbconvert stops at it.
    folders = [ROOT / name for name in ("notebooks", "tests/golden", "figures/executed")]
    for path in [path for folder in folders for path in folder.glob("*.ipynb")]:
        widgets = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("widgets", {})
        assert all("state" in kind for kind in widgets.values()), path
