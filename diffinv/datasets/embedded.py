"""The datasets that ship with the package: a few megabytes, read without a network."""

from diffinv.artefacts.writing import read_json
from diffinv.datasets.decoding import DatasetError
from diffinv.datasets.labelled_images import LabelledImages
from diffinv.datasets.parquet import read_parquet
from diffinv.foundation import ASSETS

FOLDER = ASSETS / "datasets"
SPLITS = ("train", "validation", "test")


def embedded_names() -> tuple[str, ...]:
    """The names of the datasets that ship with this copy of the package."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/dataset.json")))


def load_embedded(name: str, *, split: str) -> LabelledImages:
    """Read one split of an embedded dataset."""
    record = read_json(FOLDER / name / "dataset.json")
    path = FOLDER / name / f"{split}.parquet"
    if not path.is_file():
        raise DatasetError(f"{path} is missing: install the package again.")
    rows = read_parquet(path)
    origin = {key: record[key] for key in ("source", "licence") if key in record}
    provenance = {"dataset": name, "split": split, **origin}
    return LabelledImages(**rows._asdict(), class_names=tuple(record["class_names"]), provenance=provenance)
