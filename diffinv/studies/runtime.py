"""What inversion and sampling take at each side: multiply-adds by shapes alone, seconds on this machine."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffinv.datasets import LabelledImages
from diffinv.foundation.networks import device_name
from diffinv.method.inversion import Inversion, inversion_steps
from diffinv.models.diffusion import FrozenDiffusion
from diffinv.studies.estimate import timed

STAGES = ("update", "prediction", "decoding")  # of one image: what inversion and sampling are made of


def counted(work: Callable[[], Any]) -> int:
    """Floating-point operations of the work: two for each multiply-add."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def on_meta(network: Any) -> Any:
    """A diffusers network's shapes without numbers: operations are counted on them in no time."""
    with torch.device("meta"):
        shapes = type(network).from_config(network.config)
    return shapes.requires_grad_(False).eval()


def predict(unet: Any, latent_side: int, num_tokens: int) -> Tensor:
    """One prediction of a U-Net for one image; with gradients on, from its vectors on."""
    shape = (1, unet.config.in_channels, latent_side, latent_side)
    latents, timestep = torch.zeros(shape, device=unet.device), torch.zeros(1, device=unet.device)
    vectors = torch.zeros(1, num_tokens, unet.config.cross_attention_dim, device=unet.device)
    vectors.requires_grad_(torch.is_grad_enabled())
    return unet(latents, timestep, encoder_hidden_states=vectors, return_dict=False)[0]


def prediction_flops(unet: Any, latent_side: int, num_tokens: int) -> int:
    """One prediction of the U-Net for one image."""
    with torch.no_grad():
        return counted(lambda: predict(unet, latent_side, num_tokens))


def update_flops(unet: Any, latent_side: int, num_tokens: int) -> int:
    """One update of the vectors of one image: forwards, and backwards to the vectors alone."""
    return counted(lambda: predict(unet, latent_side, num_tokens).sum().backward())


def decoding_flops(vae: Any, latent_side: int) -> int:
    """The autoencoder drawing one image."""
    shape = (1, vae.config.latent_channels, latent_side, latent_side)
    with torch.no_grad():
        return counted(lambda: vae.decode(torch.zeros(shape, device=vae.device)))


def multiply_adds(vae: Any, unet: Any, resolutions: Sequence[int], num_tokens: int) -> pd.DataFrame:
    """The multiply-adds of each stage for one image, at each side; the same on every machine."""
    vae, unet = on_meta(vae), on_meta(unet)
    downsampling = 2 ** (len(vae.config.block_out_channels) - 1)
    rows = []
    for resolution in resolutions:
        side = resolution // downsampling
        flops = {
            "update": update_flops(unet, side, num_tokens),
            "prediction": prediction_flops(unet, side, num_tokens),
            "decoding": decoding_flops(vae, side),
        }
        rows += [
            {"stage": stage, "resolution": resolution, "multiply_adds": n // 2} for stage, n in flops.items()
        ]
    return pd.DataFrame(rows)


def time_stages(
    diffusion: FrozenDiffusion,
    real: LabelledImages,
    resolutions: Sequence[int],
    *,
    num_tokens: int,
    repeats: int,
    stages: Sequence[str] = STAGES,
    warm_ups: int = 1,
) -> pd.DataFrame:
    """Seconds per image of each stage at each side, all of these images side by side; one row per repeat.

    The sides take turns within each repeat, so that whatever else the machine does slows all of them. The
    first `warm_ups` repeats are not kept. A ratio of two sides is paired by `seed`, the number of the repeat.
    """
    works = {
        (stage, resolution): work
        for resolution in resolutions
        for stage, work in _works(diffusion, real.resize(resolution), num_tokens, warm_ups + repeats).items()
        if stage in stages
    }
    machine, rows = device_name(diffusion.device), []
    for repeat in range(-warm_ups, repeats):
        for (stage, resolution), work in works.items():
            seconds = timed(work, diffusion.device) / len(real)
            row = {"stage": stage, "resolution": resolution, "seed": repeat, "seconds": seconds}
            if repeat >= 0:
                rows.append({"network": diffusion.name, "device": machine, **row})
    return pd.DataFrame(rows)


def _works(
    diffusion: FrozenDiffusion, real: LabelledImages, num_tokens: int, times: int
) -> dict[str, Callable[[], Any]]:
    """Each stage once, for all images at their side; the update goes on from where it was, `times` times."""
    side = real.resolution // diffusion.downsampling_factor
    latents = torch.zeros(len(real), diffusion.latent_channels, side, side, device=diffusion.device)
    vectors = torch.zeros(len(real), num_tokens, diffusion.embedding_width, device=diffusion.device)
    timesteps = torch.full((len(real),), diffusion.num_train_timesteps // 2, device=diffusion.device)
    settings = Inversion(num_tokens=num_tokens, steps_per_image=times)
    updates: Iterator[Any] = inversion_steps(diffusion, real, settings)

    def prediction() -> None:
        with torch.no_grad():
            diffusion.predict(latents, timesteps, vectors)

    return {
        "update": lambda: next(updates),
        "prediction": prediction,
        "decoding": lambda: diffusion.decode(latents),
    }


def per_image(stages: pd.DataFrame, *, updates: int, predictions: int, value: str) -> pd.DataFrame:
    """Inversion and sampling of one image, put together from its stages in `value`, such as "seconds".

    Inversion is so many updates, sampling so many predictions and a decoding. All other columns are kept.
    """
    keys = [column for column in stages if column not in ("stage", value)]
    wide = stages.set_index([*keys, "stage"])[value].unstack("stage")
    parts = {
        "inversion": updates * wide["update"],
        "sampling": predictions * wide["prediction"] + wide["decoding"],
    }
    totals = [part.rename(value).reset_index().assign(stage=name) for name, part in parts.items()]
    return pd.concat(totals, ignore_index=True)[["stage", *keys, value]]
