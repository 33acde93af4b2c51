"""What every room stands on: random streams, devices, progress, errors, and where the package lies."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ASSETS = PACKAGE / "assets"  # TinySD, the embedded datasets, the paper's numbers
