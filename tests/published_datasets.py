"""Datasets as they are published, in small and of noise: Parquet files of the hub, and MedMNIST's .npz."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from diffinv.datasets import CATALOGUE


def pictures(count: int, size: tuple[int, int] = (8, 8), seed: int = 0) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(
    path: Path, images: list, labels, class_names=("cat", "dog"), image="image", label="label"
) -> Path:
    """A Parquet file as `datasets` itself writes it: `images` are pictures or encoded bytes."""
    features = datasets.Features(
        {image: datasets.Image(), label: datasets.ClassLabel(names=list(class_names))}
    )
    rows = [{"bytes": item, "path": None} if isinstance(item, bytes) else item for item in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {image: rows, label: [int(value) for value in labels]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path), batch_size=7)
    return path


def fill_hub_cache(hub: Path, name: str, per_class: int, size: tuple[int, int] = (8, 8)) -> dict[str, Path]:
    """All files of a dataset of the catalogue, where the hub's client would have put them, by their names."""
    card = CATALOGUE[name]
    source = card.source
    files = dict.fromkeys(file for part in source.parts.values() for file in part.files)
    snapshot = hub / f"datasets--{source.repository.replace('/', '--')}" / "snapshots" / source.revision
    labels = np.tile(np.arange(len(card.class_names)), per_class)
    for seed, file in enumerate(files):
        files[file] = write_parquet(
            snapshot / file,
            pictures(len(labels), size, seed),
            labels,
            # The hub calls its classes otherwise, and one of CIFAR100's "cra".
            [f"hub_{number}" for number in range(len(card.class_names))],
            source.image_column,
            source.label_column,
        )
    return files


def medmnist_arrays(
    name: str, per_class: int = 4, size: int = 28, grey: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of a MedMNIST file, of as many classes as the dataset has."""
    classes = len(CATALOGUE[name].class_names)
    arrays = {}
    for seed, split in enumerate(("train", "val", "test")):
        shape = (classes * per_class, size, size) if grey else (classes * per_class, size, size, 3)
        arrays[f"{split}_images"] = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        arrays[f"{split}_labels"] = np.arange(classes * per_class, dtype=np.uint8)[:, None] % classes
    return arrays
