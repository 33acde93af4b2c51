"""Makes the golden notebook: an executed copy of lesson 00 in the smoke profile, for nbval to compare with.

Run it (`make golden`) after a change that is meant to change what the lesson prints, and look at the diff.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
LESSON = "00_quickstart.ipynb"


def main() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / LESSON, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    committed = parameters.source
    # nbval will choose the profile by a variable, so the copy keeps the lesson's own parameters.
    parameters.source = committed.replace('"tiny"', '"smoke"')
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",  # how often a bar is drawn depends on the load
            "DIFFINV_HEADLESS": "1",
            "DIFFINV_CACHE": f"{folder}/cache",
        }
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute(env=environment)
    parameters.source = committed
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        # The bytes of a picture may differ between machines; what a lesson says about it does not.
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            cell.outputs = []
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "nbval-ignore-output"]
    notebook.metadata.pop("widgets", None)
    path = ROOT / "tests" / "golden" / LESSON
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    sys.stdout.write(f"{path} is written; look at what changed:\n")
    subprocess.run(["git", "-C", str(ROOT), "--no-pager", "diff", "--stat", "--", str(path)], check=False)


if __name__ == "__main__":
    main()
