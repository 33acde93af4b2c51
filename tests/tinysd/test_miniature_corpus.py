"""The miniature: painted icons become masks again, the stages learn from them, records can be read."""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from diffinv.foundation.randomness import stream
from diffinv.method.sampling import Sampling, sample
from diffinv.models.checkpoint import EMBEDDED
from diffinv.models.clip import load_clip
from diffinv.models.diffusion import load_diffusion
from diffinv.synthesizers.retrieval.pools import embedded_pool
from diffinv.tinysd.card.figures import channel_pictures, training_curves
from diffinv.tinysd.card.records import card_figures, loss_by_timestep, read_logs
from diffinv.tinysd.corpus import miniature_corpus
from diffinv.tinysd.corpus.captions import Corpus, caption, colour_in, draw_colour_pair
from diffinv.tinysd.corpus.corpus import family
from diffinv.tinysd.corpus.miniature_corpus import build_miniature_corpus, parse_caption, unpaint
from diffinv.tinysd.training import denoiser, miniature_training

POOL_ICONS = 160


@pytest.fixture(scope="module", autouse=True)
def small_pool(tmp_path_factory):
    """Every so many-th icon of the pool; the rest is real."""
    table = pq.read_table(miniature_corpus.POOL)
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    pq.write_table(table.take(np.arange(0, table.num_rows, table.num_rows // POOL_ICONS)), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature_corpus, "POOL", path)
        yield path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_miniature_corpus(tmp_path_factory.mktemp("miniature"))


def disc(radius: float) -> np.ndarray:
    """A mask with soft edges."""
    y, x = np.mgrid[:32, :32] - 15.5
    return (255 * np.clip(radius - np.hypot(x, y), 0, 1)).round().astype(np.uint8)


@pytest.mark.parametrize("radius", [3.5, 14.0])
def test_a_painted_mask_comes_back_whatever_its_colours(radius):
    mask, generator = disc(radius), np.random.default_rng(0)
    for _ in range(60):
        front_name, front, back_name, back = draw_colour_pair(generator)
        image = (colour_in(mask, front, back) * 255).round().astype(np.uint8)
        found = unpaint(image, front_name, back_name)
        assert found is not None
        # Colours are 0.3 of luminance apart at least: rounding to 8 bits costs up to 4 levels of the mask.
        assert np.abs(found.astype(int) - mask).max() <= 4, f"{front_name} on {back_name}"


def test_a_picture_of_three_colours_or_of_one_is_no_painted_mask():
    image = np.zeros((32, 32, 3), np.uint8)
    assert unpaint(image, "white", "black") is None
    image[:10], image[20:] = (255, 0, 0), (0, 255, 0)
    assert unpaint(image, "red", "black") is None


def test_captions_part_into_what_they_were_made_of():
    assert parse_caption("a light blue filled heart icon on dark blue", "heart") == (
        "light blue",
        "filled",
        "dark blue",
    )
    assert parse_caption("a red add icon on white", "add") == ("red", "", "white")
    assert parse_caption("a green outline rounded light icon on black", "light") == (
        "green",
        "outline rounded",
        "black",
    )
    for odd in ("a grinning face", "a heart icon on white", "a red heart icon", "a red heart icon on plaid"):
        assert parse_caption(odd, "heart") is None


def test_every_caption_of_the_pool_is_understood():
    pool = embedded_pool()
    concepts = pq.read_table(miniature_corpus.FOLDER / "icons_pool" / "pool.parquet")["concept"].to_pylist()
    for text, concept in zip(pool.captions, concepts, strict=True):
        parsed = parse_caption(text, concept)
        assert parsed is not None, text
        front, style, back = parsed
        words = ["a", front, style, concept, "icon on", back]
        assert " ".join(word for word in words if word) == text


def test_the_corpus_folder_is_one_that_the_stages_can_read(folder, small_pool):
    train, held_out = (Corpus.load(folder, part, 32) for part in ("train", "held_out"))
    assert len(train.icons) + len(held_out.icons) == pq.read_metadata(small_pool).num_rows
    families = [{family(name) for name in part.icons["icon_set"]} for part in (train, held_out)]
    assert families[0] and families[1] and not families[0] & families[1]
    assert train.masks.dtype == np.uint8 and train.masks.shape[1:] == (32, 32)
    assert (train.masks.max(axis=(1, 2)) == 255).all() and (train.masks.min(axis=(1, 2)) == 0).all()
    images, captions, rows = train.draw(np.random.default_rng(0), 50)
    assert images.shape == (50, 32, 32, 3)
    for text, concept in zip(captions, train.icons["concept"].iloc[rows], strict=True):
        assert concept in text


def test_masks_lie_where_the_icons_were_painted(folder):
    """Painting a mask in the pool's own colours gives the pool's picture."""
    icons = pd.read_parquet(folder / "icons.parquet")
    masks = np.load(folder / "masks.npy")[:, ::2, ::2]
    pool = embedded_pool()
    names = [f"{icon_set}/{name}" for icon_set, name in zip(icons["icon_set"], icons["name"], strict=True)]
    pictures = pool.images([pool.ids.index(name) for name in names], 32)
    for mask, picture in zip(masks[icons["mask"]], pictures, strict=True):
        ends = [picture.reshape(-1, 3)[mask.argmax()] / 255, picture.reshape(-1, 3)[mask.argmin()] / 255]
        painted = 255 * colour_in(mask, *(np.asarray(end) for end in ends))
        assert np.abs(painted - picture).max() < 3


def test_the_same_corpus_is_made_again_and_its_sets_are_described(folder, tmp_path):
    first, second = (
        json.loads((f / "corpus.json").read_text()) for f in (folder, build_miniature_corpus(tmp_path))
    )
    assert first == second
    shipped = json.loads((EMBEDDED / "corpus.json").read_text())["sets"]
    assert all(entry["licence"] == shipped[name]["licence"] for name, entry in first["sets"].items())
    assert sum(entry["icons"] for entry in first["sets"].values()) == sum(first["icons"].values())


def test_a_caption_is_built_from_the_grammar_that_is_parsed():
    generator = np.random.default_rng(0)
    whole = [caption(generator, "heart", "filled", "light blue", "black") for _ in range(200)]
    assert parse_caption(max(whole, key=len), "heart") == ("light blue", "filled", "black")


# Training


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A work folder after all stages, two updates each."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature_training, "CAPTIONS_OF_TOKENIZER", 300)
        patch.setattr(denoiser, "PAIRS_PER_BLOCK", 256)  # the shipped stage encodes thousands
        miniature_training.pretrain_miniature(work, 1e-3)
    return work


def test_all_stages_learn_and_leave_a_model_that_draws(trained):
    logs = read_logs(trained)
    assert set(logs["stage"]) == set(miniature_training.SHARES)
    assert np.isfinite(logs["loss"]).all() and (logs["samples"] > 0).all()
    model = load_diffusion(trained / "tinysd", device="cpu")
    prompt = model.encode_prompt(["a red heart icon on white"])
    images = sample(model, prompt, prompt, Sampling(num_inference_steps=2, resolution=32), [stream(0, "a")])
    assert images.shape == (1, 32, 32, 3) and images.std() > 0
    assert load_clip(trained / "tinysd", device="cpu").image_features(images).isfinite().all()


def test_training_takes_some_time():
    for minutes in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"minutes is .*: give more than 0 to train"):
            miniature_training.pretrain_miniature(Path("nowhere"), minutes)


def test_a_plan_fills_its_minutes_and_the_rate_comes_down():
    assert sum(miniature_training.SHARES.values()) == pytest.approx(1)
    for stage in miniature_training.SHARES:
        short, long = miniature_training.plan(stage, 1e-6), miniature_training.plan(stage, 60)
        assert short.total_samples == 2 * short.batch_size
        assert long.total_samples > 500 * short.batch_size
        assert long.factor(long.total_samples // 2) == 1 and long.factor(long.total_samples) == 0


# Records and drawings


def test_the_shipped_records_can_be_read():
    logs = read_logs(EMBEDDED / "logs")
    assert {"vae", "clip", "vision", "unet"} <= set(logs["stage"])
    assert logs.columns.tolist() == ["stage", "samples", "seconds", "loss"]
    figures = card_figures(EMBEDDED).set_index("figure")
    assert set(figures["met"]) <= {"yes", "no", ""}
    psnr = figures.loc["autoencoder PSNR on held-out icons (dB)"]
    assert psnr["met"] == ("yes" if psnr["value"] >= 26 else "no")
    levels = loss_by_timestep(EMBEDDED)
    assert len(levels) >= 5 and levels["timestep"].between(0, 999).all()


def test_losses_at_several_sides_are_kept_apart(tmp_path):
    names = {"denoising loss at timestep 50": 0.2, "denoising loss at timestep 50, 64 px": 0.1, "other": 3.0}
    (tmp_path / "card.json").write_text(json.dumps({"figures": names}))
    levels = loss_by_timestep(tmp_path)
    assert len(levels) == 2 and levels["where"].nunique() == 2


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no log of a stage"):
        read_logs(tmp_path)


def test_curves_have_a_panel_a_stage_and_a_line_a_training():
    log = pd.DataFrame({"stage": ["vae", "vae", "odd"], "samples": [10, 20, 5], "loss": [2.0, 1.0, 3.0]})
    fig = training_curves({"shipped": log, "yours": log[log["stage"] == "vae"]})
    panels = {ax.get_title(loc="left") or ax.get_title(): ax for ax in fig.axes}
    assert list(panels) == ["autoencoder", "odd"]
    assert [line.get_label() for line in panels["autoencoder"].lines] == ["shipped", "yours"]
    assert panels["autoencoder"].get_yscale() == "log"
    mpl.pyplot.close(fig)


def test_channels_are_coloured_about_zero_on_one_scale():
    latents = np.zeros((1, 2, 2, 2))
    latents[0, 0, 0, 0], latents[0, 1, 0, 0] = 2.0, -2.0
    pictures = channel_pictures(latents, 8)
    assert pictures.shape == (1, 2, 8, 8, 3) and pictures.dtype == np.uint8
    red, blue, white = pictures[0, 0, 0, 0], pictures[0, 1, 3, 3], pictures[0, 0, 7, 7]
    assert red[0] > red[2] and blue[2] > blue[0] and white.min() > 240
