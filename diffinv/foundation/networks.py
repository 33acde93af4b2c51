"""What any network needs: a device to run on, and a key of its weights."""

import hashlib
import platform
import socket
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch

RECOMPILATIONS = 128  # of one piece of code, in one process: a lesson has some ten networks of some datasets


def best_device() -> str:
    """ "cuda" or "mps" where there is one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or else the best one; ValueError where no tensor can be put on it and read."""
    try:
        found = torch.device(best_device() if device is None else device)
        torch.zeros(1, device=found).cpu()
    # By its kind, torch says it in each of these ways.
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
        here = " or ".join(sorted({"cpu", best_device()}))
        raise ValueError(f"device {str(device)!r} cannot be used on this machine: choose {here}.") from error
    return found


def device_name(device: torch.device) -> str:
    """The name that a table of times goes by: times compare on one machine alone."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    words = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{device.type} {platform.processor() or platform.machine()}, {words}"


def go_faster(network: torch.nn.Module) -> Any:
    """Compile a network in place, and let a GPU round float32 products to TF32; other low bits, less time.

    Where it cannot be compiled, which shows at its first call, a warning says so and it goes on as it was.
    """
    import torch._dynamo as dynamo  # takes a second
    from torch._dynamo.exc import TorchDynamoException

    # Each side, class and architecture is compiled anew, and beyond torch's limit of 8 nothing would be.
    dynamo.config.recompile_limit = max(RECOMPILATIONS, dynamo.config.recompile_limit)
    torch.set_float32_matmul_precision("high")
    network.compile()
    compiled: Any = network._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as error:
            network._compiled_call_impl = None
            reason = " ".join(str(error).split("\n\n")[0].split())
            kind = type(network).__name__
            warnings.warn(f"{kind} cannot be compiled here ({reason}): it runs more slowly.", stacklevel=2)
            return network(*args, **kwargs)

    network._compiled_call_impl = call
    return network


class LoadedAgain:
    """A model that is pickled as the call that loaded it: other processes read the weights themselves."""

    name: str
    fingerprint: Any
    origin: Callable[[], Any] | None = None  # the call, which a loader sets

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise ValueError(
                f"the model {self.name!r} was made in memory, where workers cannot load it: save it and load "
                "it from there, or leave the engine out."
            )
        return _load_again, (self.origin, self.name, self.fingerprint)


def _load_again(origin: Callable[[], Any], name: str, fingerprint: str) -> Any:
    model = origin()
    if model.fingerprint != fingerprint:
        where = f"the worker on {socket.gethostname()}"
        raise ValueError(f"{where} has other weights as {name!r}: copy the same checkpoint to all machines.")
    return model


def weights_fingerprint(model: Any) -> str:
    """sha256 over a network's weights, as `hash_weights` takes them."""
    digest = hashlib.sha256()
    hash_weights(digest, sorted(model.state_dict().items()))
    return digest.hexdigest()


def hash_weights(digest: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Feed names, shapes and weights, rounded to float16: a half-precision variant is the same network."""
    for name, weight in weights:
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().half().contiguous().numpy().data)
