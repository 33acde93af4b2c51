"""Small notebooks for the runner, with real kernels: what a lesson has to have, and no more."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """
profile: str = "tiny"  # how much to run
output_dir: str = "figures"  # where the figures go
seed: int = 7
flag: bool = True
rate: float = 0.5
limit: int = None
"""
DRAW = """
from pathlib import Path
for kind in ("png", "svg", "csv"):
    Path(output_dir, f"{name}.{kind}").write_text(text)
"""


def write_notebook(folder: Path, name: str, *code: str, parameters: str = PARAMETERS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        new_markdown_cell(f"# The lesson {name}"),
        new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]}),
        *map(new_code_cell, code),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path
