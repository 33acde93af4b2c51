"""The identity, so that training on real images is an ordinary row of a comparison."""

from dataclasses import dataclass
from typing import Any

from diffinv.datasets import LabelledImages


@dataclass(frozen=True)
class Real:
    """Returns the real images themselves, whatever the number asked for and the seed."""

    def __call__(self, real: LabelledImages, *, images_per_real: int = 1, seed: int = 0) -> LabelledImages:
        return real

    def describe(self) -> dict[str, Any]:
        return {"synthesizer": "Real"}
