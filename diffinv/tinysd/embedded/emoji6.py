"""How ``emoji6`` is made from the emoji of two vendors that TinySD never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8

from diffinv.artefacts.writing import write_json
from diffinv.foundation.randomness import numpy_stream
from diffinv.tinysd.corpus.emoji import EmojiCorpus, brightness, draw_background, lay_on
from diffinv.tinysd.embedded.icons import (
    SHARES,
    choose_evenly,
    drop_shared_between_splits,
    write_notice,
    write_pictures,
)

NAME = "emoji6"
RESOLUTION = 32
CLASSES = {
    "animals": "animal", "faces": "face", "flags": "flag", "food": "food", "objects": "object",
    "travel": "travel",
}  # fmt: skip
MOST_PER_CLASS = {"train": 90, "validation": 20, "test": 45}


def build(corpus_folder: Path, folder: Path, *, seed: int = 0) -> Path:
    """Write the three Parquet splits, ``dataset.json`` and ``NOTICE``, one plain background an emoji.

    Neither an emoji, whichever vendor drew it, nor near-duplicates cross splits; classes have equal numbers
    of images.
    """
    corpus = EmojiCorpus.load(corpus_folder, "held_out", RESOLUTION)
    emoji = corpus.icons.assign(
        label=corpus.icons["kind"].map({kind: name for name, kind in CLASSES.items()})
    )
    # The first with its drawing, which the flags of territories share.
    is_first = ~pd.Series([picture.tobytes() for picture in corpus.pictures]).duplicated().to_numpy()
    emoji = emoji[emoji["label"].notna().to_numpy() & is_first]
    emoji = emoji.assign(split=split_by_name(emoji, seed))
    emoji = drop_shared_between_splits(emoji, shapes(corpus.pictures[emoji.index]))
    chosen = choose_evenly(emoji, sorted(CLASSES), MOST_PER_CLASS, NAME, seed)
    if not chosen:
        raise ValueError(f"{corpus_folder} has too few emoji for {NAME}: a class is missing in a split.")
    for split, rows in chosen.items():
        _write_split(folder, corpus, rows, split, seed)
    write_notice(folder, corpus, pd.concat(chosen), NAME, changes="laid on plain colours")
    write_json(
        folder / "dataset.json",
        {
            "name": NAME,
            "description": "emoji of six kinds, by two vendors that the embedded generator never saw",
            "class_names": sorted(CLASSES),
            "resolution": RESOLUTION,
            "images_per_class": {split: len(rows) // len(CLASSES) for split, rows in chosen.items()},
            "split_seed": seed,
            "source": f"open-source emoji of @iconify/json {corpus.facts['iconify_version']}, see NOTICE",
            "licence": "permissive, by vendor: see NOTICE",
        },
    )
    return folder


def split_by_name(emoji: pd.DataFrame, seed: int) -> list[str]:
    """Assign each emoji of a class to a split, the same one for all vendors' drawings and for "cat face"."""
    names = emoji["words"].str.removesuffix(" face")
    split_of: dict[tuple[str, str], str] = {}
    for label, group in names.groupby(emoji["label"]):
        unique = np.sort(group.unique())
        order = numpy_stream(seed, NAME, "split", label).permutation(len(unique))
        ends = np.cumsum([round(share * len(unique)) for share in SHARES.values()])
        splits = np.repeat([*SHARES], np.diff([0, *ends[:-1], len(unique)]))
        split_of |= {(str(label), unique[row]): str(split) for row, split in zip(order, splits, strict=True)}
    return [split_of[key] for key in zip(emoji["label"], names, strict=True)]


def shapes(pictures: UInt8[np.ndarray, "emoji height width 4"]) -> Float[np.ndarray, "emoji height width"]:
    """What the perceptual hash looks at: where something is drawn, and how bright it is there."""
    values = pictures / np.float32(255)
    return (values[..., :3] @ np.array([0.2126, 0.7152, 0.0722]) + values[..., 3]) / 2


def _write_split(folder: Path, corpus: EmojiCorpus, emoji: pd.DataFrame, split: str, seed: int) -> None:
    pictures, ids = [], []
    for row, entry in emoji.iterrows():
        generator = numpy_stream(seed, "background", entry["icon_set"], entry["name"])
        # More contrast would tell the class: a yellow face would be on dark colours only.
        _, colour = draw_background(generator, brightness(corpus.pictures[[row]])[0])
        pictures.append(lay_on(corpus.pictures[[row]], colour[None])[0])
        ids.append(f"{split}/{entry['label']}/{entry['icon_set']}-{entry['name']}")
    write_pictures(folder / f"{split}.parquet", pictures, ids, sorted(CLASSES))
