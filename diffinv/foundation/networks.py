"""What any network needs: a device to run on, and a key of its weights."""

import hashlib
from typing import Any

import torch


def best_device() -> str:
    """ "cuda" or "mps" where there is one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def weights_fingerprint(model: Any) -> str:
    """sha256 over a network's weights, rounded to float16 as those of FrozenDiffusion are."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().half().contiguous().numpy().data)
    return digest.hexdigest()
