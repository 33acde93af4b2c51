"""Real and synthetic images for other trainers: a dataset of torch with a share, and one of Hugging Face."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from diffinv.datasets import LabelledImages
from diffinv.datasets.decoding import encode_png
from diffinv.datasets.labelled_images import check_alike


class MixedImages(Dataset):
    """Pairs of pixels [3, side, side] in 0 to 1 and a label; `synthetic_share` of them are synthetic.

    Of both kinds every image is there at least once, and the rarer kind as often as the share takes, so that
    the batches of any loader that shuffles have it on average. 0 is the real images alone, 1 the synthetic
    ones. `transform` gets the pixels, a tensor, and what it returns stands in their place.
    """

    def __init__(
        self,
        real: LabelledImages,
        synthetic: LabelledImages,
        *,
        synthetic_share: float = 0.5,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        if not 0 <= synthetic_share <= 1:
            raise ValueError(f"synthetic_share is {synthetic_share}: choose a number from 0 to 1.")
        check_alike(real=real, synthetic=synthetic)
        self.class_names, self.transform = real.class_names, transform
        sets, shares = (real, synthetic), (1 - synthetic_share, synthetic_share)
        length = max(len(images) / share for images, share in zip(sets, shares, strict=True) if share)
        rows = [
            np.resize(np.arange(len(images)), round(length * share))
            for images, share in zip(sets, shares, strict=True)
        ]
        self.images = np.concatenate([images.images[row] for images, row in zip(sets, rows, strict=True)])
        self.labels = np.concatenate([images.labels[row] for images, row in zip(sets, rows, strict=True)])
        self.synthetic = np.repeat([False, True], [len(row) for row in rows])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = torch.from_numpy(self.images[index]).permute(2, 0, 1).float() / 255
        return (self.transform(pixels) if self.transform else pixels), int(self.labels[index])


def as_hugging_face(real: LabelledImages, synthetic: LabelledImages) -> Any:
    """A `datasets.Dataset` with the columns image, label and synthetic: the real images first."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError("the library datasets is not installed: pip install datasets.") from error
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(real.class_names)),
            "synthetic": datasets.Value("bool"),
        }
    )
    both = LabelledImages.concatenate(real, synthetic)
    columns = {
        "image": [{"bytes": encode_png(image), "path": None} for image in both.images],
        "label": both.labels.tolist(),
        "synthetic": [False] * len(real) + [True] * len(synthetic),
    }
    return datasets.Dataset.from_dict(columns, features=features)
