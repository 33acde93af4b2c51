"""The factory of TinySD, run in miniature on icons that the test draws; and what the factory has shipped."""

import colorsys
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter

from diffinv.datasets import load_dataset
from diffinv.models.clip import load_clip
from diffinv.tinysd import pretrain, stages
from diffinv.tinysd.card import ablation, card
from diffinv.tinysd.card import inversion as card_inversion
from diffinv.tinysd.card import text as card_text
from diffinv.tinysd.corpus import concepts, corpus, packed_corpus
from diffinv.tinysd.corpus.captions import COLOURS, Corpus, draw_colour_pair, luminance
from diffinv.tinysd.embedded import icons as embedded_datasets
from diffinv.tinysd.training import clip_stage, denoiser, training_loop
from diffinv.tinysd.training.training_loop import SCHEDULES

ASSETS = Path(__file__).parents[2] / "diffinv" / "assets"
TINYSD = ASSETS / "tinysd"
CANDIDATES = [
    f"{first}{second}"
    for first in ("akro", "bira", "cedo", "dulo")
    for second in ("ma", "ni", "po", "ta", "xu")
]
FAMILIES = {
    held: [name for name in CANDIDATES if corpus.held_out(name) is held][:6] for held in (True, False)
}
ICON_NAMES = (*concepts.ICONS10, *concepts.NOVEL10)
PLAIN_CONCEPTS = ("lock", "moon", "sun", "flag")
STAGES = ("vae", "clip", "vision", "unet", "unet64")
SAMPLES = {"vae": 128, "clip": 256, "vision": 256, "unet": 1536, "unet64": 192}
EMOJI = {
    "Animals & Nature": ("cat face", "dog", "horse", "tiger", "whale", "owl"),
    "Food & Drink": ("pizza", "red apple", "bread", "cheese", "salad", "grapes"),
    "Smileys & Emotion": (
        "grinning face", "sad face", "smiling face", "angry face", "winking face", "sleepy face",
    ),
    "Travel & Places": ("bus", "airplane", "tram", "bicycle", "ship", "castle"),
    "Objects": ("lamp", "telephone", "hammer", "guitar", "candle", "bucket"),
    "Flags": ("flag japan", "flag france", "flag italy", "flag peru", "flag chad", "flag oman"),
}  # fmt: skip
NOVEL_WORDS = re.compile(
    r"\b(anchor|bug|beetle|crown|gift|present|magnet|puzzle|jigsaw|rocket|scissors?|skull|skeleton|troph(y|ies))s?\b"
)


def body(*keys: str) -> str:
    """Three bars and a disc somewhere: a shape that only these keys have."""
    random = np.random.default_rng([ord(letter) for letter in "/".join(keys)])
    bars = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="currentColor"/>'
        for x, y, w, h in zip(*random.uniform(1, 12, (2, 3)), *random.uniform(2, 11, (2, 3)), strict=True)
    ]
    x, y = random.uniform(4, 20, 2)
    return "".join(bars) + f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="currentColor"/>'


def write_iconify(folder: Path) -> Path:
    """An `@iconify/json` of twelve families, two of them in two styles, and sets that must not be used."""
    names = [*ICON_NAMES, *PLAIN_CONCEPTS]
    families = [*FAMILIES[True], *FAMILIES[False]]
    sets = {name: {f"{icon}-outline-24": body(name, icon) for icon in names} for name in families}
    trained, held = FAMILIES[False][0], FAMILIES[True][0]
    sets[f"{trained}2-solid"] = {f"{icon}-fill": body(trained, "solid", icon) for icon in names}
    sets[f"{held}-bold"] = {f"{icon}-bold": body(held, "bold", icon) for icon in names}
    # The same drawing under another name: of what is trained on, and of what the datasets already have.
    sets[held]["car-outline-24"] = body(trained, "car")
    sets[FAMILIES[True][1]]["anchor-outline-24"] = body(held, "anchor")
    sets[FAMILIES[False][1]]["flag-outline-24"] = body(held, "star")
    sets[trained] |= {"sun-broken": "<path d='", "moon-thin": "", "crown-lock": body("crown-lock")}
    odd = {
        "sharealike": {"license": {"spdx": "CC-BY-SA-4.0"}}, "coloured": {"palette": True},
        "firms": {"category": "Logos"}, "font-brands": {},
    }  # fmt: skip
    sets |= {name: {icon: body(name, icon) for icon in names} for name in odd}
    collections = {
        name: {"name": name.title(), "author": {"name": "A. Author"}, "license": {"spdx": "MIT"}}
        | odd.get(name, {})
        for name in sets
    }
    for vendor in ("noto", "twemoji"):
        licence = {"spdx": "Apache-2.0"}
        collections[vendor] = {
            "name": vendor, "author": {"name": "A. Vendor"}, "license": licence, "palette": True,
            "category": "Emoji",
        }  # fmt: skip
    (folder / "json").mkdir(parents=True)
    (folder / "collections.json").write_text(json.dumps(collections))
    for name, bodies in sets.items():
        icons = {icon: {"body": text} for icon, text in bodies.items()}
        if name == trained:
            icons["flag-outline-24"]["hidden"] = True
        (folder / "json" / f"{name}.json").write_text(json.dumps({"icons": icons, "width": 24, "height": 24}))
    for vendor, colour in (("noto", "#d33"), ("twemoji", "#3a5")):
        icons = {
            name.replace(" ", "-"): {"body": body(vendor, name).replace("currentColor", colour)}
            for names in EMOJI.values()
            for name in names
        }
        categories = {kind: [name.replace(" ", "-") for name in names] for kind, names in EMOJI.items()}
        data = {"icons": icons, "categories": categories, "width": 24, "height": 24}
        (folder / "json" / f"{vendor}.json").write_text(json.dumps(data))
    return folder


def pretrain_stage(stage: str, work: Path, *more: str) -> None:
    samples = ["--samples", str(SAMPLES[stage])] if stage in SAMPLES else []
    assert pretrain.main(["--stage", stage, "--work", str(work), "--device", "cpu", *samples, *more]) == 0


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Fewer captions for the tokenizer, smaller blocks, fewer tries at a split; the rest is real."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_stage, "train_tokenizer", partial(clip_stage.train_tokenizer, count=500))
        patch.setattr(denoiser, "PAIRS_PER_BLOCK", 256)
        patch.setattr(denoiser, "MILESTONE_SAMPLES", 512)
        patch.setattr(embedded_datasets, "choose_salt", partial(embedded_datasets.choose_salt, tries=40))
        threads = torch.get_num_threads()
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus_work(tmp_path_factory) -> Path:
    """A work folder after the corpus stage."""
    pytest.importorskip("resvg_py", reason="resvg-py, which draws the icons, is in the pretrain extra")
    folder = tmp_path_factory.mktemp("tinysd")
    package = write_iconify(folder / "iconify")
    pretrain_stage("corpus", folder / "work", "--iconify", str(package), "--concepts", "13")
    return folder / "work"


@pytest.fixture(scope="module")
def work(corpus_work) -> Path:
    """A work folder after every trained stage, a few steps each; no stage may reseed the process."""

    def forbidden(seed):
        raise AssertionError(f"torch.manual_seed({seed}) is global")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "manual_seed", forbidden)
        for stage in STAGES:
            pretrain_stage(stage, corpus_work)
    return corpus_work


# Colours and captions


def test_a_colour_pair_can_be_told_apart():
    random = np.random.default_rng(0)
    for number in range(300):
        dark_ground = number % 2 == 0
        _, front, _, back = draw_colour_pair(random, bright_on_dark=dark_ground)
        difference = luminance(front) - luminance(back)
        assert abs(difference) > 0.3
        assert not dark_ground or (difference > 0 and luminance(back) <= 0.25)


def is_shade_of(colour: np.ndarray, name: str) -> bool:
    hue, saturation, value = COLOURS[name]
    h, s, v = colorsys.rgb_to_hsv(*(float(channel) for channel in colour))
    in_hue = hue is None or any(hue[0] - 1 <= 360 * h + turn <= hue[1] + 1 for turn in (0, 360))
    return in_hue and all(low - 0.01 <= x <= high + 0.01 for x, (low, high) in ((s, saturation), (v, value)))


def test_captions_name_the_colours_that_are_drawn():
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[:, :, 4:] = 255
    icons = pd.DataFrame({"concept": ["lock", "sun", "moon"], "style": ["", "filled", "thin"]})
    images, captions, rows = Corpus(masks, icons, {}).draw(np.random.default_rng(1), 300)
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    named = 0
    for image, caption, row in zip(images, captions, rows, strict=True):
        before, concept, after = caption.partition(icons["concept"][row])
        assert concept, caption
        front = before.removeprefix("a ").replace(icons["style"][row] or "no style", "").strip()
        back = after.partition(" on ")[2]
        assert not front or is_shade_of(image[0, -1], front), caption
        assert not back or is_shade_of(image[0, 0], back), caption
        named += bool(front) + bool(back)
    assert named > 300  # a quarter of the parts are left out, not more


def test_plain_pairs_are_white_on_black_or_black_on_white():
    icons = pd.DataFrame({"concept": ["lock"], "style": [""]})
    drawn = Corpus(np.zeros((1, 8, 8), np.uint8), icons, {}).draw(
        np.random.default_rng(2), 50, plain_share=1.0
    )
    colours = {word for caption in drawn[1] for word in caption.split()} - {"a", "lock", "icon", "on"}
    assert colours == {"white", "black"}


def test_naming_the_words_of_a_caption_counts_each_word_alike():
    start, end = 8, 9
    ids = torch.tensor([[start, 3, 5, end, end], [start, 4, 6, 7, end]])
    embeddings = 20 * torch.eye(10)

    def loss(*words: set[int]) -> float:
        states = torch.zeros(2, 5, 10)
        for row, named in zip(states, words, strict=True):
            row[:, sorted(named)] = 1.0
        return float(clip_stage.bag_of_words_loss(states, ids, embeddings, end))

    both = loss({3, 5}, {4, 6, 7})
    # Three states end a caption, two the first and one the second: to name all evenly leaves ln 2 and ln 3.
    assert both == pytest.approx((2 * np.log(2) + np.log(3)) / 3, abs=0.05)
    assert loss({3}, {4, 6, 7}) == pytest.approx(loss({5}, {4, 6, 7}))
    assert loss({3}, {4, 6, 7}) > both
    assert loss({3, 5, start}, {4, 6, 7}) > both


def test_a_name_parts_into_concept_and_style():
    assert concepts.parse_icon_name("heart-outline-24") == ("heart", "outline")
    assert concepts.parse_icon_name("Lock_Filled_16px") == ("lock", "filled")
    assert concepts.parse_icon_name("24") == ("", "")


# The corpus


@pytest.fixture(scope="module")
def icons(corpus_work) -> pd.DataFrame:
    return pd.read_parquet(corpus_work / "corpus" / "icons.parquet")


def test_no_training_concept_has_a_word_for_novel10(icons):
    trained = icons[icons["part"].isin(["train", "wider"])]
    assert set(PLAIN_CONCEPTS) <= set(trained["concept"])
    assert not [concept for concept in trained["concept"] if NOVEL_WORDS.search(concept)]
    assert set(icons.loc[icons["part"] == "novel10", "label"]) == set(concepts.NOVEL10)


def test_a_family_is_trained_on_or_held_out_as_a_whole(icons):
    def families(part: str) -> set[str]:
        return {corpus.family(name) for name in icons.loc[icons["part"] == part, "icon_set"]}

    assert families("train") == set(FAMILIES[False])
    assert families("held_out") == set(FAMILIES[True])
    assert families("icons10") <= set(FAMILIES[True])
    assert corpus.family("fa6-solid") == corpus.family("fa-regular") == "fa"
    assert corpus.family("ic") == corpus.family("material-symbols")


def test_near_duplicates_and_unusable_icons_are_dropped(icons, corpus_work):
    def has(part: str, icon_set: str, concept: str) -> bool:
        return ((icons[["part", "icon_set", "concept"]] == [part, icon_set, concept]).all(axis=1)).any()

    copied, copying = FAMILIES[True][:2]
    assert not has("held_out", copied, "car") and not has("icons10", copied, "car")
    assert has("held_out", copied, "tree") and has("icons10", copied, "tree")
    novel = icons[(icons["part"] == "novel10") & (icons["concept"] == "anchor")]["icon_set"]
    assert (copied in set(novel)) != (copying in set(novel))
    assert {"sharealike", "coloured", "firms", "font-brands"}.isdisjoint(icons["icon_set"])
    assert not has("wider", FAMILIES[False][0], "flag"), "a hidden icon is used"
    assert not has("wider", FAMILIES[False][1], "flag"), "a held-out shape is trained on under another name"
    assert has("wider", FAMILIES[False][2], "flag")
    assert {"sun-broken", "moon-thin"}.isdisjoint(icons["name"])
    masks = np.load(corpus_work / "corpus" / "masks.npy")
    assert masks[icons["mask"]].mean((1, 2)).min() > 0.02 * 255


def test_the_lesson_on_pretraining_imports_without_a_warning():
    modules = "import diffinv.tinysd.card.card, diffinv.tinysd.training.miniature_training"
    result = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_the_corpus_is_the_same_when_made_again(corpus_work, tmp_path):
    package = corpus_work.parent / "iconify"
    corpus.build_corpus(tmp_path, num_concepts=13, num_wider=1300, package=package, workers=1)
    first, second = (json.loads((f / "corpus.json").read_text()) for f in (corpus_work / "corpus", tmp_path))
    assert first == second
    assert {entry["licence"] for entry in first["sets"].values()} <= corpus.LICENCES


def test_balanced_concepts_are_equally_likely_however_many_icons_show_them():
    icons = pd.DataFrame({"concept": ["star"] * 9 + ["moon"] + ["comet"] * 2, "style": ""})
    masks = np.zeros((len(icons), 8, 8), np.uint8)
    corpus = Corpus(masks, icons, {}, wider_share=0.25, num_wider_icons=2, balanced=True)
    _, _, rows = corpus.draw(np.random.default_rng(0), 4000)
    shares = icons["concept"].iloc[rows].value_counts(normalize=True)
    assert shares["star"] == pytest.approx(0.375, abs=0.03)
    assert shares["moon"] == pytest.approx(0.375, abs=0.03)
    assert shares["comet"] == pytest.approx(0.25, abs=0.03)
    assert len(set(rows)) == len(icons)


def test_rarer_concepts_are_drawn_in_their_share_alone(corpus_work):
    drawn = Corpus.load(corpus_work / "corpus", "train", 32, wider_share=0.4)
    assert set(drawn.icons["concept"].iloc[-drawn.num_wider_icons :]) == {"flag"}
    for source, share in ((drawn, 0.4), (drawn.with_wider_share(0.0), 0.0)):
        _, _, rows = source.draw(np.random.default_rng(0), 2000)
        assert (drawn.icons["concept"].iloc[rows] == "flag").mean() == pytest.approx(share, abs=0.04)
    assert Corpus.load(corpus_work / "corpus", "train", 32).num_wider_icons == 0


def test_neither_trademarks_nor_novel_shapes_come_in_by_rarer_names():
    names = ["facebook", "apple pie", "pirate ship", "achievement", "windmill"]
    icons = pd.DataFrame(
        [("one", concept, concept, "", False) for concept in ["lock", "lock", *names]],
        columns=["icon_set", "name", "concept", "style", "held_out"],
    )
    selected = corpus.select_icons(icons, num_concepts=1, num_wider=10)
    assert set(selected.loc[selected["part"] == "wider", "concept"]) == {"windmill"}


def test_a_packed_corpus_is_the_same_on_another_machine(corpus_work, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_corpus, "ROWS_PER_PIECE", 50)
    packed = tmp_path / "packed"
    pretrain_stage("pack", corpus_work, "--packed", str(packed))
    assert len(sorted(packed.glob("masks-*.npy.xz"))) > 2
    pretrain_stage("corpus", tmp_path / "there", "--packed", str(packed))
    for path in sorted((corpus_work / "corpus").glob("*.*")):
        assert (tmp_path / "there" / "corpus" / path.name).read_bytes() == path.read_bytes(), path.name

    piece = packed / "masks-001.npy.xz"
    whole = piece.read_bytes()
    piece.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"masks-001.npy.xz cannot be read .*: copy it again"):
        packed_corpus.unpack_corpus(packed, tmp_path / "broken")
    piece.unlink()
    with pytest.raises(ValueError, match="a piece is missing or of another corpus; copy the folder again"):
        packed_corpus.unpack_corpus(packed, tmp_path / "broken")
    with pytest.raises(ValueError, match="holds no packed corpus: make one with --stage pack"):
        packed_corpus.unpack_corpus(tmp_path / "nowhere", tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


# The stages


def test_the_stages_make_a_stock_pipeline(work):
    pipeline = StableDiffusionPipeline.from_pretrained(work / "tinysd", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    image = pipeline(
        "a red lock icon", height=32, width=32, num_inference_steps=2, generator=noise, output_type="np"
    ).images[0]
    assert image.shape == (32, 32, 3) and np.isfinite(image).all() and image.std() > 0
    text_half = load_file(work / "tinysd" / "text_encoder" / "model.safetensors")
    clip = load_file(work / "tinysd" / "clip" / "model.safetensors")
    assert all(
        torch.equal(value, clip[f"text_model.{key.removeprefix('text_model.')}"])
        for key, value in text_half.items()
    ), "the vision stage moved the text half, which the denoiser has learned to read"


@pytest.mark.parametrize("stage", ["vae", "unet"])
@pytest.mark.parametrize("ended", ["out of time", "killed"])
def test_an_interrupted_stage_ends_with_the_weights_of_an_unbroken_one(
    work, tmp_path, monkeypatch, stage, ended
):
    (tmp_path / "corpus").symlink_to(work / "corpus")
    for part in ("vae", "text_encoder", "tokenizer", "clip"):
        (tmp_path / "tinysd" / part).parent.mkdir(exist_ok=True)
        if part != stage:
            (tmp_path / "tinysd" / part).symlink_to(work / "tinysd" / part)
    with monkeypatch.context() as patch:
        seconds = iter(range(0, 100_000, 100))  # each look at the clock takes 100 s
        patch.setattr(training_loop, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
        if ended == "out of time":
            pretrain_stage(stage, tmp_path, "--minutes", "10")
        else:
            losses_seen = []

            def killed(self, loss, *, step=training_loop.TrainingRun._step):
                losses_seen.append(loss)
                if len(losses_seen) == 4:
                    raise KeyboardInterrupt
                return step(self, loss)

            patch.setattr(training_loop.TrainingRun, "_step", killed)
            with pytest.raises(KeyboardInterrupt):
                pretrain_stage(stage, tmp_path)
    halfway = json.loads((tmp_path / f"{stage}.json").read_text())["samples"]
    assert 0 < halfway < SAMPLES[stage]
    with pytest.raises(ValueError, match=f"{stage}.safetensors exists: add --resume"):
        pretrain_stage(stage, tmp_path)
    log = tmp_path / f"{stage}.jsonl"
    with log.open("a") as file:  # a killed run may have logged what is not in its last checkpoint
        file.write(json.dumps({"samples": SAMPLES[stage] + 1, "seconds": 1.0, "loss": 1.0}) + "\n")
    pretrain_stage(stage, tmp_path, "--resume")
    logged = [json.loads(row)["samples"] for row in log.read_text().splitlines()]
    assert logged == sorted(set(logged)) and logged[-1] == SAMPLES[stage]
    whole, resumed = (load_file(folder / f"{stage}.safetensors") for folder in (work, tmp_path))
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_the_card_counts_what_checkpoints_have_seen_whatever_was_logged(tmp_path):
    log = json.dumps({"samples": 640, "seconds": 9.0, "loss": 0.5}) + "\n"
    (tmp_path / "vae.jsonl").write_text(log)
    (tmp_path / "vae.json").write_text(json.dumps({"samples": 700.0, "seconds": 10.0}))
    (tmp_path / "unet.jsonl").write_text(log)  # killed before its first checkpoint
    (tmp_path / "clip.json").write_text(json.dumps({"samples": 32.0, "seconds": 1.0}))  # nor 50 steps yet
    rows = card._training(tmp_path, {stage: SCHEDULES[stage] for stage in ("vae", "unet", "clip")})
    assert {stage: row["samples"] for stage, row in rows.items()} == {"vae": 700, "unet": 0, "clip": 32}
    assert rows["vae"]["loss"] == 0.5 and "loss" not in rows["unet"] and "loss" not in rows["clip"]


def test_the_card_says_how_far_it_got(work, icons, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "ASSETS", tmp_path)
    quick = replace(card.SAMPLING, guidance_scale=2.0, num_inference_steps=2)
    monkeypatch.setattr(card, "SAMPLING", quick)
    monkeypatch.setattr(card, "FINE_SAMPLING", replace(quick, resolution=64))
    monkeypatch.setattr(card, "INVERSION_TEST", card_inversion.QUICK)
    monkeypatch.setattr(card, "SAMPLES_PER_CONCEPT", 1)
    for name in ("denoising_loss_by_timestep", "mean_denoising_loss", "reconstruction_psnr"):
        monkeypatch.setattr(card, name, partial(getattr(card, name), count=16))
    monkeypatch.setattr(card, "speed", partial(card.speed, count=2, repeats=1))
    pretrain_stage("card", work)
    record = json.loads((tmp_path / "tinysd" / "card.json").read_text())
    assert record["figures"].keys() >= card_text.GOALS.keys()
    assert {stage: entry["samples"] for stage, entry in record["training"].items()} == SAMPLES
    text = (tmp_path / "tinysd" / "README.md").read_text()
    assert "Not at release scale yet" in text and "another hour of that machine" in text
    of_part = icons.groupby("part")["concept"].nunique()
    assert f"icons of {of_part['train']} concepts from" in text
    assert f'"All concepts" are the {of_part["held_out"]} of them' in text
    milestones = pd.read_csv(tmp_path / "tinysd" / "logs" / "milestones.csv")
    assert milestones["samples"].tolist() == [512, 1024, 1536]
    assert milestones["named_right"].between(0, 1).all() and (milestones["held_out_loss"] > 0).all()
    check_notice(tmp_path / "tinysd")
    shipped = load_file(tmp_path / "tinysd" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in shipped.values()} == {torch.float16}


def test_variants_are_trained_once_each_and_compared_on_held_out_icons(work, tmp_path, monkeypatch):
    names = ("starting point", "width 32-64-96")
    variants = {
        name: replace(ablation.VARIANTS[name], schedule=replace(ablation.SCHEDULE, batch_size=8))
        for name in names
    }
    few = partial(ablation.mean_denoising_loss, count=16)
    monkeypatch.setattr(ablation, "mean_denoising_loss", few)
    monkeypatch.setattr(ablation, "ablate", partial(ablation.ablate, variants=variants))
    path = work / "ablation.csv"
    try:
        pretrain_stage("ablation", work, "--minutes", "0.01")
        rows, written = pd.read_csv(path), path.stat().st_mtime_ns
        assert rows["variant"].tolist() == list(names) and (rows["samples"] > 0).all()
        assert rows["parameters"].is_monotonic_decreasing and (rows["held_out_loss"] > 0).all()
        pretrain_stage("ablation", work, "--minutes", "0.01")
        assert path.stat().st_mtime_ns == written, "what has its row is not trained again"
        assert ablation.table(rows).count("\n") == 3
    finally:
        path.unlink(missing_ok=True)


# What the user can mend


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "unet"], "run --stage corpus first"),
        (["--stage", "vea"], "invalid choice: 'vea'"),
        (["--stage", "vae", "--samples", "0"], "--samples must be at least 1, not 0"),
        (["--stage", "vae", "--minutes", "nan"], "--minutes must be 0 or more"),
        (["--stage", "vae", "--device", "tpu"], "--device is cpu or cuda, not 'tpu'"),
        (["--stage", "corpus", "--iconify", "nowhere"], "nowhere has no collections.json"),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(tmp_path, capsys, arguments, sentence):
    from diffinv.commands.main import main

    assert main(["pretrain", "--work", str(tmp_path / "work"), *arguments]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors and errors.count("\n") == 1


def test_a_missing_stage_is_named(corpus_work, tmp_path):
    (tmp_path / "corpus").symlink_to(corpus_work / "corpus")
    for stage, first in (("vision", "clip"), ("unet", "vae"), ("card", "vae")):
        with pytest.raises(ValueError, match=f"lacks the {first} stage, which {stage} builds on"):
            pretrain_stage(stage, tmp_path)


def test_first_weights_depend_on_their_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with training_loop.seeded_initialisation():
        first = torch.nn.Linear(3, 3).weight
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    assert torch.equal(first, torch.nn.Linear(3, 3).weight)


def test_muon_takes_the_hidden_weights_alone():
    unet = denoiser.new_denoiser()
    names = [name for name, _ in unet.named_parameters()]
    matrices = training_loop.hidden_matrices(unet)
    taken = {names[number] for number in matrices}
    assert {"mid_block.resnets.0.conv1.weight", "time_embedding.linear_1.weight"} < taken
    assert not {name for name in taken if name.startswith(("conv_in", "conv_out")) or "bias" in name}
    parameters = [*unet.parameters()]
    for number, matrix in matrices.items():
        assert matrix.ndim == 2 and matrix.data_ptr() == parameters[number].data_ptr()


def test_a_checkpoint_of_adamw_is_continued_by_muon(tmp_path):
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    adamw = training_loop.Schedule(total_samples=8, batch_size=4, learning_rate=0.1, warmup_samples=1)

    def loss(network, generator, noise):
        return network(torch.ones(4, 3)).square().mean()

    training_loop.TrainingRun(layers, adamw, tmp_path, name="unet").run(loss, minutes=1)
    longer = replace(adamw, total_samples=16, optimiser="muon")
    for _ in range(2):  # the second time there is nothing left to do
        run = training_loop.TrainingRun(layers, longer, tmp_path, name="unet")
        run.run(loss, minutes=1)
    stored = load_file(tmp_path / "unet.safetensors")
    kept = {key.split(".", 2)[2] for key in stored if key.startswith("optimiser.0.")}
    assert run.samples == 16 and kept == {"momentum_buffer"}
    assert {key.split(".", 2)[2] for key in stored if key.startswith("optimiser.1.")} == {
        "exp_avg", "exp_avg_sq", "step",
    }  # fmt: skip


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path):
    schedule = training_loop.Schedule(total_samples=8, batch_size=4, learning_rate=1e-3)
    run = training_loop.TrainingRun(torch.nn.Linear(2, 1), schedule, tmp_path, name="vae")
    with pytest.raises(training_loop.PretrainingDiverged, match="vae stage's loss is not finite at step 0"):
        run.run(lambda network, *_: network(torch.full((1, 2), torch.nan)).sum(), minutes=1)


# The embedded datasets, as made here and as shipped


@pytest.fixture(scope="module")
def made_datasets(corpus_work, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "ASSETS", folder)
        pretrain_stage("datasets", corpus_work)
    return folder / "datasets"


def noted_sets(folder: Path) -> set[str]:
    """The icon sets that a NOTICE names, each in brackets before its author."""
    return set(
        re.findall(r"^[^\n]*? \(([a-z0-9-]+)\), ", (folder / "NOTICE").read_text(), flags=re.MULTILINE)
    )


def icon_sets_by_split(folder: Path) -> dict[str, set[str]]:
    """The longest set of the NOTICE that each id, `split/label/set-name-copy`, begins with."""
    noted = sorted(noted_sets(folder), key=len, reverse=True)
    used = {}
    for split in ("train", "validation", "test"):
        stems = [image_id.split("/", 2)[2] for image_id in pd.read_parquet(folder / f"{split}.parquet")["id"]]
        owners = {stem: next((name for name in noted if stem.startswith(f"{name}-")), None) for stem in stems}
        assert [stem for stem, owner in owners.items() if owner is None] == [], "icons of sets not in NOTICE"
        used[split] = set(owners.values())
    return used


def check_dataset(folder: Path) -> None:
    record = json.loads((folder / "dataset.json").read_text())
    for split, per_class in record["images_per_class"].items():
        labels = pd.read_parquet(folder / f"{split}.parquet")["label"]
        counts = labels.value_counts()
        assert counts.to_dict() == dict.fromkeys(range(len(record["class_names"])), per_class)
    used = [{corpus.family(name) for name in names} for names in icon_sets_by_split(folder).values()]
    assert sum(map(len, used)) == len(set.union(*used)), "a design family crosses splits"


@pytest.mark.parametrize("name", ["icons10", "novel10"])
def test_datasets_made_of_icons_are_balanced_and_no_set_crosses_splits(made_datasets, name):
    check_dataset(made_datasets / name)


@pytest.mark.parametrize("name", ["icons10", "novel10"])
def test_shipped_datasets_are_balanced_large_enough_and_credited(name):
    check_dataset(ASSETS / "datasets" / name)
    record = json.loads((ASSETS / "datasets" / name / "dataset.json").read_text())
    assert record["class_names"] == sorted({"icons10": concepts.ICONS10, "novel10": concepts.NOVEL10}[name])
    assert record["images_per_class"]["train"] >= 60 and record["images_per_class"]["test"] >= 30
    if name == "icons10":
        used = set.union(*icon_sets_by_split(ASSETS / "datasets" / name).values())
        assert [icon_set for icon_set in used if not corpus.held_out(icon_set)] == []
    grounds = load_dataset(name, split="test").images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.median(grounds @ [0.2126, 0.7152, 0.0722]) < 0.25 * 255


def test_near_duplicates_across_splits_are_dropped_whatever_they_are_called():
    drawn = np.random.default_rng(0).random((5, 8, 8)).repeat(4, 1).repeat(4, 2) > 0.5
    masks = np.stack([*drawn, drawn[0], drawn[1], drawn[2], drawn[2]]).astype(float)
    masks[5:] = gaussian_filter(masks[5:], (0, 0.5, 0.5))
    splits = ["test", "validation", "train", "train", "test", "train", "train", "train", "validation"]
    labels = ["bell", "bell", "car", "car", "cloud", "tree", "tree", "tree", "tree"]
    icons = pd.DataFrame({"split": splits, "label": labels})
    kept = embedded_datasets.drop_shared_between_splits(icons, masks)
    # 5 redraws 0 of test, 6 redraws 1 of validation; 2 and 7 redraw each other and 8 of validation.
    assert list(kept.index) == [0, 1, 3, 4, 8]


@pytest.mark.parametrize("name", ["icons10", "novel10"])
def test_no_shipped_icon_nearly_equals_one_of_another_split(name):
    splits, masks = [], []
    for split in ("train", "validation", "test"):
        shipped = load_dataset(name, split=split)
        first = [position for position, image_id in enumerate(shipped.ids) if image_id.endswith("-0")]
        light = shipped.images[first] @ np.array([0.2126, 0.7152, 0.0722])
        low, high = light.min((1, 2), keepdims=True), light.max((1, 2), keepdims=True)
        masks.append((light - low) / (high - low))  # bright on dark, in two colours
        splits += [split] * len(first)
    icons = pd.DataFrame({"split": splits})
    assert len(embedded_datasets.drop_shared_between_splits(icons, np.concatenate(masks))) == len(icons) > 500


# The shipped checkpoint


@pytest.fixture(scope="module")
def shipped() -> Path:
    if not (TINYSD / "card.json").is_file():
        pytest.skip("diffinv/assets/tinysd is not there: it is made by diffinv pretrain")
    return TINYSD


def check_notice(folder: Path) -> None:
    facts = json.loads((folder / "corpus.json").read_text())
    sets = facts["sets"] | facts["emoji"]["sets"]
    assert noted_sets(folder) == set(sets)
    assert {entry["licence"] for entry in sets.values()} <= corpus.LICENCES


def test_the_shipped_card_is_complete(shipped):
    figures = json.loads((shipped / "card.json").read_text())["figures"]
    assert figures.keys() >= card_text.GOALS.keys()
    assert all(np.isfinite(value) for value in figures.values())
    lines = (shipped / "README.md").read_text().splitlines()
    for name, (goal, met) in card_text.GOALS.items():
        row = next(line for line in lines if line.startswith(f"| {name} |"))
        assert goal in row and ("**no**" in row) != met(figures[name]), row


def test_the_shipped_notice_names_the_sets_and_their_licences(shipped):
    check_notice(shipped)


def test_the_shipped_files_are_small(shipped):
    sizes = {path: path.stat().st_size for path in shipped.rglob("*") if path.is_file()}
    assert max(sizes.values()) <= 15e6 and sum(sizes.values()) <= 25e6


def test_the_shipped_pipeline_hears_colours(shipped):
    pipeline = StableDiffusionPipeline.from_pretrained(
        shipped, torch_dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)

    def mean_colour(colour: str) -> np.ndarray:
        seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
        prompts = [f"a {colour} heart icon on black"] * 4
        return pipeline(
            prompts, height=32, width=32, num_inference_steps=20, generator=seeds, output_type="np"
        ).images.mean((0, 1, 2))

    red, blue = mean_colour("red"), mean_colour("blue")
    assert (red[0] - red[2]) - (blue[0] - blue[2]) > 0.2


def test_the_shipped_pipeline_draws_what_its_clip_recognises(shipped):
    pipeline = StableDiffusionPipeline.from_pretrained(
        shipped, torch_dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    names, copies = list(concepts.ICONS10), 4
    drawn = pipeline(
        [f"a white {name} icon on black" for name in names for _ in range(copies)],
        height=32, width=32, num_inference_steps=20, guidance_scale=4.0, output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in range(copies * len(names))],
    ).images  # fmt: skip
    images, wanted = (drawn * 255).round().astype(np.uint8), np.arange(len(names)).repeat(copies)
    assert card.named_right(load_clip(shipped), names, images, wanted) > 0.5
