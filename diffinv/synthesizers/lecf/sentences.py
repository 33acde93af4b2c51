"""Sentences about a class, from its name alone: the language enhancement of LECF (arXiv 2210.07574)."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import product
from typing import Any, Protocol

import torch
from huggingface_hub.errors import HTTPError
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

from diffinv.datasets.catalogue import Depiction
from diffinv.foundation.checks import check_fields
from diffinv.foundation.networks import best_device, weights_fingerprint
from diffinv.foundation.randomness import numpy_stream, stream
from diffinv.models.checkpoint import CheckpointError, first_line, quiet_loading

# The colours that TinySD's captions name, each with the mean luminance of its shades. A pair is spoken of
# only where its captions paint one: where the icon stands out from the ground.
COLOURS = {
    "black": 0.03, "dark purple": 0.11, "dark blue": 0.12, "dark red": 0.14, "dark green": 0.24,
    "dark grey": 0.24, "purple": 0.25, "red": 0.28, "brown": 0.30, "blue": 0.31, "grey": 0.50, "teal": 0.52,
    "green": 0.55, "orange": 0.55, "pink": 0.56, "light blue": 0.74, "light grey": 0.78, "yellow": 0.82,
    "light green": 0.83, "light yellow": 0.91, "white": 0.97,
}  # fmt: skip
LEAST_CONTRAST = 0.3
STYLES = ("", "filled", "outline", "sharp", "rounded", "duotone", "thin", "bold")  # the commonest, none first
spoken = Depiction("{}").prompt  # a class name as every prompt says it


class Sentences(Protocol):
    """Writes sentences about a class; the first of many are the few that it would write."""

    def __call__(self, class_name: str, count: int, seed: int) -> list[str]:
        """`count` sentences, which depend on the name and the seed alone."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return, ready for JSON, all that the sentences depend on besides the name and the seed."""
        ...


@dataclass(frozen=True)
class AttributeGrammar:
    """Puts words that TinySD knows around the class name: "a light blue filled heart icon on dark green".

    No sentence is repeated before all have been said: of the default template, some 2,000.
    """

    template: str = "a {colour} {style} {name} icon on {background}"

    def __post_init__(self) -> None:
        try:
            places = [place for _, place, _, _ in string.Formatter().parse(self.template)]
        except ValueError:  # a single brace
            places = []
        # The text after the last place has None for one.
        if places.count("name") != 1 or not {*places} <= {"colour", "style", "name", "background", None}:
            raise ValueError(
                f"template is {self.template!r}; write {{name}} once and, if you like, {{colour}}, {{style}} "
                "and {background}."
            )

    def __call__(self, class_name: str, count: int, seed: int) -> list[str]:
        name = spoken(class_name)
        every = [
            " ".join(self.template.format(colour=front, background=back, style=style, name=name).split())
            for front, back, style in product(COLOURS, COLOURS, STYLES)
            if abs(COLOURS[front] - COLOURS[back]) > LEAST_CONTRAST
        ]
        every = list(dict.fromkeys(every))  # a template without some of the words says less
        order = numpy_stream(seed, "grammar", class_name).permutation(len(every))
        return [every[order[number % len(every)]] for number in range(count)]

    def describe(self) -> dict[str, Any]:
        return {"sentences": "AttributeGrammar", "template": self.template}


@dataclass(frozen=True)
class WordToSentence:
    """Lets a T5 that was fine-tuned on CommonGen write a sentence around the class name, as LECF does.

    `name` is a hub id or a folder; only safetensors weights are read, and `revision` chooses a commit of the
    hub. Each sentence is sampled from a random stream of its own, so that it does not depend on the batch.
    CheckpointError, one sentence, where the model cannot be loaded.
    """

    name: str = "mrm8488/t5-base-finetuned-common_gen"
    revision: str | None = None
    temperature: float = 1.0
    top_k: int = 50  # tokens to choose the next from
    max_new_tokens: int = 32
    batch_size: int = 32  # changes the speed, not the sentences
    device: str | None = None  # None = the fastest one found

    def __post_init__(self) -> None:
        check_fields(self, counts=("top_k", "max_new_tokens", "batch_size"), above_zero=("temperature",))

    def __call__(self, class_name: str, count: int, seed: int) -> list[str]:
        streams = [stream(seed, "sentence", class_name, number) for number in range(count)]
        batches = (streams[start : start + self.batch_size] for start in range(0, count, self.batch_size))
        return [sentence for batch in batches for sentence in self._write(spoken(class_name), batch)]

    def describe(self) -> dict[str, Any]:
        return {
            "sentences": "WordToSentence",
            "model": weights_fingerprint(self._model),
            "temperature": self.temperature,
            "top_k": self.top_k,
            "max_new_tokens": self.max_new_tokens,
        }

    @torch.no_grad()
    def _write(self, words: str, streams: Sequence[torch.Generator]) -> list[str]:
        inputs = self._tokenizer([words] * len(streams), return_tensors="pt").to(self._model.device)
        # Greedy search over noisy scores: `generate` itself would draw from the global generator.
        tokens = self._model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_new_tokens,
            logits_processor=LogitsProcessorList([_Gumbel(streams, self.temperature, self.top_k)]),
        )
        written = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [sentence.strip() or words for sentence in written]

    @cached_property
    def _model(self) -> Any:
        load = AutoModelForSeq2SeqLM.from_pretrained
        model = self._load(load, use_safetensors=True, dtype=torch.float32)
        return model.requires_grad_(False).eval().to(self.device or best_device())

    @cached_property
    def _tokenizer(self) -> Any:
        return self._load(AutoTokenizer.from_pretrained)

    def _load(self, load: Any, **more: Any) -> Any:
        try:
            with quiet_loading():
                return load(self.name, revision=self.revision, trust_remote_code=False, **more)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, HTTPError) as error:
            # A T5 of 2021 has no tokenizer.json, and transformers then asks for tiktoken, which is no help.
            install = "" if find_spec("sentencepiece") else "pip install sentencepiece protobuf, "
            raise CheckpointError(
                f"the sentence model {self.name!r} cannot be loaded ({first_line(error)}): {install}connect "
                "to the network once, give a folder with safetensors weights, or use AttributeGrammar()."
            ) from error


class _Gumbel(LogitsProcessor):
    """Adds Gumbel noise to the k best scores: the best of the sums is a sample of their softmax."""

    def __init__(self, streams: Sequence[torch.Generator], temperature: float, top_k: int) -> None:
        self.streams, self.temperature, self.top_k = streams, temperature, top_k

    def __call__(
        self, input_ids: Int[Tensor, "sentence token"], scores: Float[Tensor, "sentence word"]
    ) -> Float[Tensor, "sentence word"]:
        # One number for every word, whichever are the best: ties must not shift a stream.
        exponential = [torch.empty(scores.shape[1]).exponential_(generator=own) for own in self.streams]
        noisy = scores / self.temperature - torch.stack(exponential).log().to(scores)
        worst = scores.topk(min(self.top_k, scores.shape[1]), dim=1).values[:, -1:]
        return noisy.masked_fill(scores < worst, -torch.inf)
