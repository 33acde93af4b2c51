"""Stage ``clip``: a miniature CLIP, whose text half becomes the pipeline's frozen text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from diffinv.models.checkpoint import quiet_loading
from diffinv.tinysd.corpus.captions import Corpus
from diffinv.tinysd.training.curriculum import ImageSource, Mixture
from diffinv.tinysd.training.shape_variation import vary_shapes
from diffinv.tinysd.training.training_loop import (
    Task,
    TrainingRun,
    mixed_precision,
    seeded_initialisation,
)

MAX_TOKENS = 16
JITTER_PIXELS = 2
# CLIP's own 0.02 lets the words that the loss cares least about fade: measured with it, another concept moved
# the encoded caption by 6 to 11 % of its norm, another colour by 86 to 113 %; the denoiser ignored concepts.
TOKEN_EMBEDDING_STD = 0.5
COLOUR_RAMP_SHARE = 0.6  # of the vision stage: all images are coloured from here on
CAPTION_LOSS_WEIGHT = 0.2
NO_CONCEPT = -1  # of an emoji, which only its caption names


def train_tokenizer(source: ImageSource, count: int = 60_000) -> CLIPTokenizer:
    """Learn CLIP's byte-pair encoding on captions of the corpus, so that its words are single tokens."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.decoder = decoders.BPEDecoder(suffix="</w>")
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=2,
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        show_progress=False,
    )
    _, captions, _ = source.draw(np.random.default_rng(0), count)
    learner.train_from_iterator(captions, trainer)
    learnt = json.loads(learner.to_str())["model"]
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *learnt["vocab"]])
    vocabulary = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    merges: Any = [tuple(merge) for merge in learnt["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build the CLIP with random weights: a 4-layer ViT over 8 px patches and a 2-layer text transformer."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    nn.init.normal_(clip.text_model.embeddings.token_embedding.weight, std=TOKEN_EMBEDDING_STD)
    return clip


def image_processor() -> transformers.CLIPImageProcessor:
    """The preprocessing that belongs to the embedded CLIP: 32 px, mean and standard deviation 0.5."""
    half = [0.5, 0.5, 0.5]
    size = {"height": 32, "width": 32}
    with quiet_loading():
        return transformers.CLIPImageProcessor(size=size, crop_size=size, image_mean=half, image_std=half)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids ``int64 [caption, 16]``, padded to the full length as the pipeline pads its prompts."""
    encoded = tokenizer(
        captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    return encoded.input_ids


def jitter(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shift each image by up to two pixels, edges repeated, as held-out sets pad their icons differently."""
    side, pad = images.shape[1], JITTER_PIXELS
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    offsets = generator.integers(0, 2 * pad + 1, (len(images), 2))
    return np.stack(
        [image[y : y + side, x : x + side] for image, (y, x) in zip(padded, offsets, strict=True)]
    )


def caption_targets(ids: Tensor) -> Tensor:
    """Which captions are right for each image of a batch: its own, and those that equal it word for word."""
    equal = (ids[:, None] == ids[None]).all(-1).float()
    return equal / equal.sum(1, keepdim=True)


def contrastive_loss(output: Any, ids: Tensor) -> Tensor:
    """CLIP's symmetric loss; captions that are equal word for word count as each other's positives."""
    targets = caption_targets(ids)
    by_text, by_image = output.logits_per_text.float(), output.logits_per_image.float()
    return (F.cross_entropy(by_text, targets) + F.cross_entropy(by_image, targets)) / 2


def bag_of_words_loss(
    text_states: Tensor, ids: Tensor, token_embeddings: Tensor, eos_token_id: int
) -> Tensor:
    """Cross-entropy of naming a caption's words, all alike, from each ``[caption, token, channel]`` after it.

    Colours alone tell the captions of a batch apart, so the contrast by itself leaves the concept out of the
    end token and the padding, which is where a denoiser looks: measured, there another colour moved the
    states by 12 and another concept by 1.
    """
    ended = ids == eos_token_id
    words = ids.masked_fill(ended, 0)
    targets = torch.zeros(len(ids), len(token_embeddings), device=ids.device)
    targets.scatter_(1, words, 1.0)
    targets[:, ids[0, 0]] = 0  # the start token
    targets[:, 0] = 0  # where the end tokens were sent
    targets = targets / targets.sum(1, keepdim=True).clamp(min=1)
    rows, _ = ended.nonzero(as_tuple=True)
    logits = text_states[ended] @ token_embeddings.T * token_embeddings.shape[1] ** -0.5
    return F.cross_entropy(logits, targets[rows])


def train_clip(source: ImageSource, tokenizer: CLIPTokenizer, task: Task) -> TrainingRun:
    """Train image and text halves together on captioned images."""
    with seeded_initialisation():
        clip: Any = new_clip(tokenizer)
    run = TrainingRun(clip.to(task.device), task.schedule, task.folder, name="clip")

    def loss_function(network: Any, generator: np.random.Generator, noise: torch.Generator) -> Tensor:
        images, captions, _ = source.draw(generator, task.schedule.batch_size)
        pixel_values = torch.from_numpy(jitter(images, generator)).permute(0, 3, 1, 2) * 2 - 1
        network.logit_scale.data.clamp_(max=4.6)
        ids = tokenize(tokenizer, captions).to(task.device)
        with mixed_precision(task.device):
            output = network(input_ids=ids, pixel_values=pixel_values.to(task.device))
        words = bag_of_words_loss(
            output.text_model_output.last_hidden_state.float(),
            ids,
            network.text_model.embeddings.token_embedding.weight,
            tokenizer.eos_token_id,
        )
        return contrastive_loss(output, ids) + words

    run.run(loss_function, minutes=task.minutes)
    return run


def train_vision(
    source: Corpus | Mixture, tokenizer: CLIPTokenizer, clip: Any, task: Task, *, knows_shapes: bool = False
) -> TrainingRun:
    """Teach the image half shapes, the text half locked (LiT, Zhai et al. 2022) but for its projection.

    The projection, which the denoiser does not read, is left to spread the concepts: after the joint stage
    the sentences of any two have a cosine of 0.92 on average, too alike to be told apart by.

    Captions of one batch differ in their colours, which is enough to tell them apart: the joint stage learns
    colours and leaves shapes alone. Here each image also has to be told from every concept, and comes in
    white on black first: random colours from the start hide the shapes for very long. Shapes are varied, or
    the image half learns the training sets' icons by heart: without it, 87 % of these were named right and
    68 % of held-out ones. Emoji, where there are any, have captions alone to be told from.

    An image half that ``knows_shapes``, of an earlier CLIP, sees random colours from the start.
    """
    mixture = source if isinstance(source, Mixture) else None
    corpus = source.icons if isinstance(source, Mixture) else source
    schedule, device = task.schedule, task.device
    num_emoji = round(mixture.emoji_share * schedule.batch_size) if mixture else 0
    clip.text_model.requires_grad_(False)
    run = TrainingRun(clip.to(device), schedule, task.folder, name="vision")
    concepts = corpus.concepts
    prompts = tokenize(tokenizer, [f"a {concept} icon" for concept in concepts]).to(device)
    concept_states = _locked_states(clip, prompts)
    number_of = {concept: number for number, concept in enumerate(concepts)}

    def loss_function(network: Any, generator: np.random.Generator, _: torch.Generator) -> Tensor:
        images, captions, rows = corpus.draw(generator, schedule.batch_size - num_emoji, vary=vary_shapes)
        ramp = run.samples / (COLOUR_RAMP_SHARE * schedule.total_samples)
        coloured_share = 1.0 if knows_shapes else ramp
        plain = generator.random(len(rows)) >= coloured_share
        if plain.any():
            images[plain] = vary_shapes(corpus.masks[rows[plain]], generator)[..., None] / np.float32(255)
        captions = [
            f"a white {name} icon on black" if white else caption
            for name, caption, white in zip(corpus.icons["concept"].iloc[rows], captions, plain, strict=True)
        ]
        labels = [number_of[name] for name in corpus.icons["concept"].iloc[rows]] + [NO_CONCEPT] * num_emoji
        if mixture and num_emoji:
            coloured, names = mixture.emoji.draw(generator, num_emoji)[:2]
            images, captions = np.concatenate([images, coloured]), captions + names
        ids = tokenize(tokenizer, captions).to(device)
        pixel_values = torch.from_numpy(jitter(images, generator)).permute(0, 3, 1, 2) * 2 - 1
        network.logit_scale.data.clamp_(max=4.6)
        return locked_text_loss(
            network, concept_states, ids, pixel_values.to(device), torch.tensor(labels, device=device)
        )

    run.run(loss_function, minutes=task.minutes)
    return run


def locked_text_loss(
    model: Any, concept_states: Tensor, ids: Tensor, pixel_values: Tensor, labels: Tensor
) -> Tensor:
    """Cross-entropy over all concepts, plus CLIP's image-to-text loss over the batch's captions.

    ``concept_states [concept, channel]`` are the text states of the concepts' prompts, ``ids`` the tokens
    of one caption per image, ``labels`` the concepts' numbers, or ``NO_CONCEPT``.
    """
    with mixed_precision(pixel_values.device.type):
        pooled = model.vision_model(pixel_values=pixel_values).pooler_output
    images = F.normalize(model.visual_projection(pooled.float()), dim=-1)
    scale = model.logit_scale.exp()
    concept_texts, texts = (
        F.normalize(model.text_projection(states), dim=-1)
        for states in (concept_states, _locked_states(model, ids))
    )
    caption_loss = F.cross_entropy(scale * images @ texts.T, caption_targets(ids))
    concept_loss = F.cross_entropy(scale * images @ concept_texts.T, labels, ignore_index=NO_CONCEPT)
    return concept_loss + CAPTION_LOSS_WEIGHT * caption_loss


@torch.no_grad()
def _locked_states(model: Any, ids: Tensor) -> Tensor:
    return model.text_model(input_ids=ids).pooler_output


def save_clip(run: TrainingRun, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write ``clip/``, ``text_encoder/`` and ``tokenizer/`` with the EMA weights."""
    clip = new_clip(tokenizer)
    clip.load_state_dict({key: value.cpu() for key, value in run.ema_state().items()})
    clip.save_pretrained(folder / "clip")
    image_processor().save_pretrained(folder / "clip")
    text_config: Any = clip.config.text_config
    text_encoder = CLIPTextModel(text_config)
    text_encoder.load_state_dict(_text_half(clip, text_encoder))
    text_encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


def _text_half(clip: CLIPModel, text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """The text half's weights under the names that ``CLIPTextModel`` gives them."""
    weights = {key.removeprefix("text_model."): value for key, value in clip.text_model.state_dict().items()}
    return {key: weights[key.removeprefix("text_model.")] for key in text_encoder.state_dict()}


def load_clip_folder(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """Read back what ``save_clip`` wrote, in evaluation mode."""
    clip = CLIPModel.from_pretrained(folder / "clip").eval()
    return clip, CLIPTokenizer.from_pretrained(folder / "tokenizer")
