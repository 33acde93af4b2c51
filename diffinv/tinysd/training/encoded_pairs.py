"""What the denoiser learns from: drawn pairs as latents and text embeddings, encoded a block at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffinv.foundation.randomness import numpy_stream
from diffinv.tinysd.corpus.captions import EMPTY_CAPTION_SHARE
from diffinv.tinysd.training.autoencoder import to_pixel_values
from diffinv.tinysd.training.clip_stage import tokenize
from diffinv.tinysd.training.curriculum import Curriculum, PairSource
from diffinv.tinysd.training.training_loop import rank, world_size

PAIRS_PER_BLOCK = 8192
PAIRS_AT_ONCE = 256
PASSES_PER_BLOCK = 4
PLAIN_SHARE = 0.4  # of the icons: at full contrast, shapes make up most of the loss


class PairEncoder:
    """The frozen autoencoder and text encoder of a pipeline folder, in single precision."""

    def __init__(self, pipeline_folder: Path, device: str = "cpu") -> None:
        self.device = device
        vae = AutoencoderKL.from_pretrained(pipeline_folder / "vae").float()
        self.vae = vae.eval().to(device)
        # Transformers keeps the precision of the files, which are halved when they are shipped.
        text_encoder: Any = CLIPTextModel.from_pretrained(
            pipeline_folder / "text_encoder", dtype=torch.float32
        )
        self.text_encoder = text_encoder.eval().to(device)
        self.tokenizer = CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer")

    @torch.no_grad()
    def __call__(self, images: np.ndarray, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Return ``latents [n, 4, h / 4, w / 4]`` and ``encoder_hidden_states [n, 16, 128]``."""
        posterior = self.vae.encode(to_pixel_values(images).to(self.device)).latent_dist
        embeddings = self.text_encoder(tokenize(self.tokenizer, captions).to(self.device)).last_hidden_state
        return posterior.mean * self.vae.config.scaling_factor, embeddings


class EncodedBlocks:
    """Latents and text embeddings of drawn pairs, encoded once per block and seen ``passes`` times.

    Encoding on the fly costs about a third of a training step; the noise is fresh on every pass. A block is a
    pure function of (name, block, process), so a resumed run sees the same pairs.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        pipeline_folder: Path,
        *,
        name: str = "pairs",
        pairs: int = PAIRS_PER_BLOCK,
        passes: int = PASSES_PER_BLOCK,
        device: str = "cpu",
    ) -> None:
        self.curriculum, self.name, self.device = curriculum, name, device
        self.pairs, self.passes = pairs, passes
        self.encoder = PairEncoder(pipeline_folder, device)
        self._block, self._encoded = -1, (torch.empty(0), torch.empty(0))

    def batch(self, samples_seen: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return ``latents [n, 4, h, w]`` and ``encoder_hidden_states [n, 16, 128]`` of a step."""
        step = samples_seen // batch_size
        steps_per_pass = max(1, self.pairs // batch_size)
        block, position = divmod(step, steps_per_pass * self.passes)
        if block != self._block:
            start = block * steps_per_pass * self.passes * batch_size * world_size()
            self._block, self._encoded = block, self._encode(block, self.curriculum.at(start))
        # Each pass has its own order, so that a pair meets new neighbours.
        pass_index, step_in_pass = divmod(position, steps_per_pass)
        order = numpy_stream(0, "order", block, pass_index).permutation(self.pairs)
        rows = torch.from_numpy(order[step_in_pass * batch_size : (step_in_pass + 1) * batch_size])
        latents, embeddings = self._encoded
        return latents[rows].float().to(self.device), embeddings[rows].float().to(self.device)

    def _encode(self, block: int, source: PairSource) -> tuple[Tensor, Tensor]:
        generator = numpy_stream(0, self.name, block, rank())
        latents, embeddings = [], []
        for start in range(0, self.pairs, PAIRS_AT_ONCE):
            count = min(PAIRS_AT_ONCE, self.pairs - start)
            images, captions, _ = source.draw(generator, count, plain_share=PLAIN_SHARE)
            captions = ["" if generator.random() < EMPTY_CAPTION_SHARE else text for text in captions]
            encoded = self.encoder(images, captions)
            latents.append(encoded[0].half().cpu())
            embeddings.append(encoded[1].half().cpu())
        return torch.cat(latents), torch.cat(embeddings)
