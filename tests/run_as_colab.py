"""Runs lesson 00 in an environment like Google Colab's, from the wheel, and writes down with what.

Run it with `make colab-test`: it downloads some gigabytes and takes minutes. It fails where the wheel's
dependencies would replace what Colab has (a torch that is swapped under a live kernel breaks it), or where
the lesson does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "colab"
SAID = ROOT / "docs" / "dependencies.md"
LINE = re.compile(r"^Last tested with Google Colab's versions.*$", re.MULTILINE)
PYTHON = "3.13"
#: What Colab has installed (August 2026).
COLAB = {
    "torch": "2.11", "torchvision": "0.26", "diffusers": "0.39", "transformers": "5.15", "accelerate": "1.14",
    "numpy": "2.1.3", "matplotlib": "3.10", "ipywidgets": "7.7.1", "ipython": "7.34.0",
}  # fmt: skip
RUNNERS = ("ipykernel", "nbclient", "nbformat")  # Colab runs cells by its own server
LESSON = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
for cell in notebook.cells:
    cell.source = cell.source.replace('profile: str = "tiny"', 'profile: str = "smoke"')
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
"""


def main() -> None:
    python = WORK / "bin" / "python"
    if not python.exists():
        subprocess.run([find_python(), "-m", "venv", str(WORK)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    wanted = [f"{name}=={version}{'.*' * (version.count('.') < 2)}" for name, version in COLAB.items()]
    subprocess.run([*pip, *wanted, *RUNNERS], check=True)
    before = installed(python)
    shutil.rmtree(WORK / "wheel", ignore_errors=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(WORK / "wheel"), str(ROOT)], check=True)
    (wheel,) = (WORK / "wheel").glob("diffinv-*.whl")
    # As the lessons' first cell does: without --upgrade, so that what is there and new enough stays.
    subprocess.run([*pip, "--force-reinstall", "--no-deps", str(wheel)], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    after = installed(python)
    if swapped := [name for name, version in before.items() if after.get(name) != version]:
        changes = ", ".join(f"{name} {before[name]} by {after.get(name)}" for name in swapped)
        raise SystemExit(
            f"installing diffinv in Colab replaces {changes}: lower the floors in pyproject.toml."
        )
    run_lesson(python)
    release = subprocess.run([str(python), "-V"], capture_output=True, text=True, check=True).stdout.split()[
        1
    ]
    versions = ", ".join(f"{name} {after[name]}" for name in COLAB)
    line = (
        f"Last tested with Google Colab's versions on {datetime.now(UTC):%Y-%m-%d}, by `make colab-test`: "
        f"Python {release}, {versions}."
    )
    text = SAID.read_text(encoding="utf-8")
    SAID.write_text(
        LINE.sub(line, text) if LINE.search(text) else f"{text.rstrip()}\n\n{line}\n", encoding="utf-8"
    )
    sys.stdout.write(f"{line}\n")


def find_python() -> str:
    """An interpreter of Colab's release, on the path or of pyenv."""
    own = sorted((Path.home() / ".pyenv" / "versions").glob(f"{PYTHON}.*/bin/python"))
    found = shutil.which(f"python{PYTHON}") or (str(own[-1]) if own else None)
    if found is None:
        raise SystemExit(f"Python {PYTHON} is not installed: Google Colab has it, and so needs this test.")
    return found


def installed(python: Path) -> dict[str, str]:
    """The version of each package of an environment, but for our own."""
    listing = [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    found = json.loads(subprocess.run(listing, capture_output=True, text=True, check=True).stdout)
    return {each["name"]: each["version"] for each in found if each["name"] != "diffinv"}


def run_lesson(python: Path) -> None:
    """Execute lesson 00 in the smoke profile, in a folder without the package's sources."""
    folder = WORK / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lesson = shutil.copy(ROOT / "notebooks" / "00_quickstart.ipynb", folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"DIFFINV_HEADLESS": "1", "DIFFINV_CACHE": str(folder / "cache")}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    subprocess.run([str(python), "-c", LESSON, lesson], check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main()
