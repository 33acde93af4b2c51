"""How ``icons10`` and ``novel10`` are made from icon sets that TinySD never saw (or has no word for)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped
from scipy.fft import dctn

from diffinv.artefacts.writing import write_json, write_whole
from diffinv.datasets.decoding import encode_png
from diffinv.datasets.parquet import write_parquet
from diffinv.foundation.randomness import numpy_stream
from diffinv.tinysd.corpus.captions import Corpus, colour_in, draw_colour_pair
from diffinv.tinysd.corpus.corpus import family
from diffinv.tinysd.corpus.emoji import EmojiCorpus

RESOLUTION = 32
COLOURINGS = 2
SHARES = {"train": 0.58, "validation": 0.12, "test": 0.3}
ENOUGH_ICONS_PER_CLASS = {"train": 31, "validation": 6, "test": 16}
MOST_ICONS_PER_CLASS = {"train": 40, "validation": 15, "test": 30}
# Of 255. A mask that is blurred by half a pixel or rounded to 8 bits keeps within it; the plain five-pointed
# stars of two design families, the closest drawings that are each one's own, are 7 bits apart.
NEAR_DUPLICATE_BITS = 5
DESCRIPTIONS = {
    "icons10": "ten things that the embedded generator has words for, drawn by icon sets it never saw",
    "novel10": "ten things that the embedded generator has no word for",
}


def split_of(icon_set: str, salt: int) -> str:
    """Assign a design family to train, validation or test."""
    position = (
        int.from_bytes(hashlib.sha256(f"{salt}/{family(icon_set)}".encode()).digest()[:4], "big") / 2**32
    )
    bounds = np.cumsum(list(SHARES.values()))
    return list(SHARES)[int(np.searchsorted(bounds, position, side="right").clip(max=2))]


def choose_salt(icons: pd.DataFrame, tries: int = 1500) -> int:
    """Find the assignment of families under which the scarcest class comes closest to the wanted sizes.

    Only counts are looked at, never pixels or accuracies.
    """

    def shortfall(salt: int) -> tuple[float, int]:
        splits = icons["icon_set"].map({name: split_of(name, salt) for name in icons["icon_set"].unique()})
        counts = icons.groupby(["label", splits]).size().unstack(fill_value=0)
        wanted = pd.Series(ENOUGH_ICONS_PER_CLASS)
        return float(
            (counts.reindex(columns=wanted.index, fill_value=0) / wanted).clip(upper=1).min().min()
        ), -salt

    return -max(shortfall(salt) for salt in range(tries))[1]


def perceptual_hash(masks: Shaped[np.ndarray, "icon height width"]) -> Bool[np.ndarray, "icon 255"]:
    """255 bits of each mask (values in [0, 1]) that say what is drawn: which low frequencies it holds."""
    spectrum = dctn(masks, axes=(1, 2), norm="ortho")[:, :16, :16] / masks.shape[1]
    # Above a little, not above zero: what a symmetric drawing does not hold comes out as noise of any sign.
    return (spectrum > 0.001).reshape(len(masks), -1)[:, 1:]


def drop_shared_between_splits(
    icons: pd.DataFrame, masks: Shaped[np.ndarray, "icon height width"]
) -> pd.DataFrame:
    """Drop icons that nearly equal one of another split, under whichever name and class.

    `masks` has the rows of `icons`, whose column ``split`` decides: train gives way to validation, and both
    give way to test.
    """
    hashes = perceptual_hash(masks)
    splits = icons["split"].to_numpy()
    keep = np.ones(len(icons), bool)
    for split, kept in (("train", ("validation", "test")), ("validation", ("test",))):
        theirs = hashes[np.isin(splits, kept)]
        for position in np.flatnonzero(splits == split):
            apart = (theirs != hashes[position]).sum(1)
            keep[position] = apart.min(initial=hashes.shape[1]) > NEAR_DUPLICATE_BITS
    return icons[keep]


def build(corpus_folder: Path, name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the three Parquet splits, ``dataset.json`` and ``NOTICE`` of one dataset, two colourings an icon.

    Neither icon sets nor near-duplicates cross splits; classes have equal numbers of images; icons are bright
    on dark.
    """
    corpus = Corpus.load(corpus_folder, name, RESOLUTION)
    icons = corpus.icons
    salt = choose_salt(icons)
    icons = icons.assign(split=[split_of(icon_set, salt) for icon_set in icons["icon_set"]])
    icons = drop_shared_between_splits(icons, corpus.masks / 255)
    class_names = sorted(icons["label"].unique())
    chosen = choose_evenly(icons, class_names, MOST_ICONS_PER_CLASS, name, seed)
    if not chosen:
        raise ValueError(f"{corpus_folder} has too few icon sets for {name}: a class is missing in a split.")
    for split, rows in chosen.items():
        _write_split(folder, corpus, rows, split, class_names, seed)
    write_notice(folder, corpus, icons, name)
    write_json(
        folder / "dataset.json",
        {
            "name": name,
            "description": DESCRIPTIONS[name],
            "class_names": class_names,
            "resolution": RESOLUTION,
            "images_per_class": {
                split: COLOURINGS * len(rows) // len(class_names) for split, rows in chosen.items()
            },
            "split_seed": seed,
            "source": f"open-source icon sets of @iconify/json {corpus.facts['iconify_version']}, see NOTICE",
            "licence": "permissive, by icon set: see NOTICE",
        },
    )
    return folder


def choose_evenly(
    rows: pd.DataFrame, class_names: Sequence[str], most: Mapping[str, int], name: str, seed: int
) -> dict[str, pd.DataFrame]:
    """For each split as many random rows of every class, up to ``most``; {} if a class has none."""
    counts = rows.groupby(["label", "split"]).size().unstack(fill_value=0)
    counts = counts.reindex(index=class_names, columns=[*SHARES], fill_value=0)
    if counts.empty or counts.to_numpy().min() == 0:
        return {}
    chosen = {}
    for split in sorted(SHARES):
        size = min(most[split], counts[split].min())
        places = [
            group.index[numpy_stream(seed, name, split, label).permutation(len(group))[:size]]
            for label, group in rows[rows["split"] == split].groupby("label")
        ]
        chosen[split] = rows.loc[np.concatenate(places)]
    return chosen


def _write_split(
    folder: Path, corpus: Corpus, icons: pd.DataFrame, split: str, class_names: list[str], seed: int
) -> None:
    pictures, ids = [], []
    for row, icon in icons.iterrows():
        for copy in range(COLOURINGS):
            generator = numpy_stream(seed, "colouring", icon["icon_set"], icon["name"], copy)
            _, front, _, back = draw_colour_pair(generator, bright_on_dark=True)
            pictures.append(colour_in(corpus.masks[row], front, back))
            ids.append(f"{split}/{icon['label']}/{icon['icon_set']}-{icon['name']}-{copy}")
    write_pictures(folder / f"{split}.parquet", pictures, ids, class_names)


def write_pictures(
    path: Path, pictures: Sequence[np.ndarray], ids: Sequence[str], class_names: Sequence[str]
) -> None:
    """Write pictures with values in [0, 1] as a split, each with an id such as ``train/heart/...``."""
    write_parquet(
        path,
        encoded=[encode_png((picture * 255).round().astype(np.uint8)) for picture in pictures],
        paths=[f"{image_id}.png" for image_id in ids],
        labels=[class_names.index(image_id.split("/")[1]) for image_id in ids],
        ids=ids,
        class_names=class_names,
    )


def write_notice(
    folder: Path, corpus: Corpus | EmojiCorpus, icons: pd.DataFrame, name: str, *, changes: str = "recoloured"
) -> None:
    """Write ``NOTICE``: the icon sets behind ``icons``, with their authors, licences and counts.

    It says that they were reduced, and which other ``changes`` were made to them.
    """
    lines = [f"{name} is made of icons from these sets, {changes} and reduced to 32 px:", ""]
    for icon_set, count in icons.groupby("icon_set").size().items():
        facts = corpus.facts["sets"][icon_set]
        lines.append(
            f"{facts['name']} ({icon_set}), {facts['author']}, {facts['licence']}, "
            f"{count} icons, {facts['url']}"
        )
    write_whole(folder / "NOTICE", "\n".join(lines) + "\n")
