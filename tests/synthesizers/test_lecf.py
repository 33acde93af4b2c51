"""LECF: its sentences, what its filter keeps, and what it says and does where the filter keeps too little."""

import json
import re
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from diffinv import Sampling
from diffinv.models.checkpoint import CheckpointError
from diffinv.models.clip import load_clip
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.lecf import lecf
from diffinv.synthesizers.lecf.filter import FilterError, select
from diffinv.synthesizers.lecf.lecf import LECF, lowered
from diffinv.synthesizers.lecf.sentences import COLOURS, STYLES, AttributeGrammar, WordToSentence, _Gumbel

FAST = Sampling(num_inference_steps=2, batch_size=8)


@pytest.fixture(scope="module")
def clip():
    return load_clip("tinysd", device="cpu")


@pytest.fixture
def synthesizer(tiny_diffusion, clip):
    return LECF(tiny_diffusion, clip, sampling=FAST, threshold=0)


@pytest.fixture(scope="session")
def icons(toy_images):
    """At the model's own side, so that CLIP's judgement of what is returned is that of the filter."""
    return replace(toy_images.resize(32), class_names=("circle", "square", "cross"))


def count_draws(monkeypatch):
    """Record how many samples are drawn instead of read."""
    drawn, genuine = [], lecf.sample

    def counting(diffusion, conditioning, *rest):
        drawn.append(len(conditioning))
        return genuine(diffusion, conditioning, *rest)

    monkeypatch.setattr(lecf, "sample", counting)
    return drawn


def confidences(clip, data):
    prompts = [f"a {name} icon" for name in data.class_names]
    return clip.zero_shot(data.images, prompts).numpy()[np.arange(len(data)), data.labels]


def easy_threshold(clip, synthesizer, icons, share):
    """A threshold that at least this share of every class's samples passes."""
    of_all = confidences(clip, replace(synthesizer, threshold=0)(icons, images_per_real=2, seed=0))
    return float(min(np.quantile(of_all[np.tile(icons.labels, 2) == label], 1 - share) for label in range(3)))


def test_samples_carry_their_sources_label_and_name(synthesizer, icons):
    assert isinstance(synthesizer, Synthesizer)
    synthetic = synthesizer(icons, images_per_real=2, seed=0)
    assert synthetic.ids == tuple(f"{name}#{copy}" for copy in range(2) for name in icons.ids)
    assert synthetic.sources == icons.ids * 2
    assert np.array_equal(synthetic.labels, np.tile(icons.labels, 2))
    assert len({image.tobytes() for image in synthetic.images}) == len(synthetic) == 36
    record = json.loads(json.dumps(synthetic.provenance))
    assert record["synthesizer"] == synthesizer.describe()
    assert record["drawn"] == dict.fromkeys(icons.class_names, 12)  # a threshold of 0 drops nothing
    assert set(record["dropped"].values()) == set(record["used_below_threshold"].values()) == {0}


def test_the_filter_keeps_what_clip_takes_for_its_class_and_counts_the_rest(synthesizer, clip, icons):
    threshold = easy_threshold(clip, synthesizer, icons, share=0.5)
    kept = replace(synthesizer, threshold=threshold, max_draws_factor=50)(icons, images_per_real=2, seed=0)
    assert confidences(clip, kept).min() >= threshold - 1e-5
    record = kept.provenance
    assert sum(record["used_below_threshold"].values()) == 0 < sum(record["dropped"].values())
    # The first draws that pass, in their order: nothing is chosen among them.
    many = replace(synthesizer, threshold=0)(icons, images_per_real=10, seed=0)
    passing = confidences(clip, many) >= threshold
    for label, name in enumerate(icons.class_names):
        first = many.images[(many.labels == label)][: record["drawn"][name]]
        passed = passing[many.labels == label][: record["drawn"][name]]
        assert passed.sum() == 12 and record["dropped"][name] == record["drawn"][name] - 12
        assert np.array_equal(kept.images[kept.labels == label], first[passed])


def test_a_class_that_stays_short_is_filled_with_the_surest_of_the_rejected(synthesizer, clip, icons):
    of_all = synthesizer(icons, images_per_real=2, seed=0)
    sure = confidences(clip, of_all)
    threshold = min(np.sort(sure[of_all.labels == label])[-3] for label in range(3))
    strict = replace(synthesizer, threshold=float(threshold) - 1e-6, max_draws_factor=2)
    kept = strict(icons, images_per_real=1, seed=0)  # of 12 draws a class, of which 3 pass in one class
    record = kept.provenance
    for label, name in enumerate(icons.class_names):
        short = record["used_below_threshold"][name]
        mine, every = confidences(clip, kept)[kept.labels == label], sure[of_all.labels == label]
        assert (mine < threshold).sum() == short
        if short:
            assert record["drawn"][name] == 12 and record["dropped"][name] == 12 - (6 - short)
            np.testing.assert_allclose(np.sort(mine), np.sort(every)[-6:], atol=1e-5)
    assert max(record["used_below_threshold"].values()) == 3


def test_a_filter_that_keeps_nothing_says_which_class_and_what_would_keep_a_tenth(synthesizer, clip, icons):
    strict = replace(synthesizer, threshold=1.0)
    with pytest.raises(FilterError) as error:
        strict(icons, images_per_real=2, seed=0)
    said = re.fullmatch(
        r'the filter keeps none of 48 samples of class "(\w+)" at threshold 1; '
        r"a threshold of ([\d.e-]+) would keep 10 % of them\.",
        str(error.value),
    )
    many = replace(synthesizer, threshold=0)(icons, images_per_real=8, seed=0)
    own = confidences(clip, many)[many.labels == icons.class_names.index(said[1])]
    assert ceil(0.1 * 48) <= (own >= float(said[2])).sum() <= 6


def test_a_threshold_is_lowered_as_advised_until_every_seed_has_samples(synthesizer, clip, icons):
    strict = replace(synthesizer, threshold=1.0)
    reals = dict.fromkeys((0, 1), icons)
    fitted, said = lowered(strict, reals, images_per_real=1)
    assert said and all("would keep 10 %" in each for each in said)
    assert 0 < fitted.threshold < 1 and replace(fitted, threshold=1.0) == strict
    assert f"a threshold of {fitted.threshold:.4g} would" in said[-1]
    for seed, count in ((0, 1), (1, 1), (0, 2)):  # more images look at the same draws first
        record = fitted(icons, images_per_real=count, seed=seed).provenance
        assert all(record["dropped"][name] < record["drawn"][name] for name in icons.class_names)
    assert lowered(fitted, reals, images_per_real=1) == (fitted, ())


def test_fewer_samples_are_a_prefix_of_more_and_the_seed_changes_all(synthesizer, clip, icons):
    threshold = easy_threshold(clip, synthesizer, icons, share=0.7)
    filtered = replace(synthesizer, threshold=threshold, max_draws_factor=50)
    one, three = (filtered(icons, images_per_real=count, seed=0) for count in (1, 3))
    assert three.ids[: len(one)] == one.ids and np.array_equal(three.images[: len(one)], one.images)
    assert not np.array_equal(filtered(icons, images_per_real=1, seed=1).images, one.images)


def test_the_batch_and_block_sizes_leave_no_trace(synthesizer, clip, icons, monkeypatch, tmp_path):
    threshold = easy_threshold(clip, synthesizer, icons, share=0.5) - 1e-4
    filtered = replace(synthesizer, threshold=threshold, max_draws_factor=50)
    first = filtered(icons, images_per_real=1, seed=0)
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    monkeypatch.setattr(lecf, "BLOCK_SIZE", 5)
    other = replace(filtered, sampling=replace(FAST, batch_size=3))
    assert other.describe() == filtered.describe()
    second = other(icons, images_per_real=1, seed=0)
    assert np.abs(first.images.astype(int) - second.images.astype(int)).max() <= 1
    assert first.provenance["drawn"] == second.provenance["drawn"]


def test_draws_are_found_again_by_other_thresholds_and_other_real_images(
    synthesizer, clip, icons, monkeypatch
):
    of_all = synthesizer(icons, images_per_real=2, seed=0)
    drawn = count_draws(monkeypatch)
    again = synthesizer(icons, images_per_real=2, seed=0)
    assert np.array_equal(again.images, of_all.images) and drawn == []
    low = float(confidences(clip, of_all).min()) - 1e-5
    subset = icons.subset([0, 1, 6, 7, 12, 13])
    lower = replace(synthesizer, threshold=max(low, 0))(subset, images_per_real=2, seed=0)
    assert drawn == [] and np.array_equal(lower.images[0], of_all.images[0])


def test_an_interrupted_run_continues(synthesizer, icons, monkeypatch, tmp_path):
    monkeypatch.setattr(lecf, "SAMPLES_PER_SHARD", lecf.BLOCK_SIZE)
    whole = synthesizer(icons, images_per_real=4, seed=0)
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    genuine, calls = lecf.sample, []

    def interrupted(*arguments):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return genuine(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lecf, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthesizer(icons, images_per_real=4, seed=0)
    drawn = count_draws(monkeypatch)
    resumed = synthesizer(icons, images_per_real=4, seed=0)
    assert sum(drawn) == 2 * lecf.BLOCK_SIZE  # of 24 per class, in two blocks each
    assert np.array_equal(resumed.images, whole.images)


def test_a_damaged_block_is_drawn_again(synthesizer, icons, fresh_cache):
    first = synthesizer(icons, images_per_real=1, seed=0)
    blocks = sorted(fresh_cache.glob("lecf/*/*.npz"))
    blocks[0].write_bytes(blocks[0].read_bytes()[:300])
    assert np.array_equal(synthesizer(icons, images_per_real=1, seed=0).images, first.images)


def test_samples_are_saved_at_the_real_side(synthesizer, toy_images):
    assert synthesizer(toy_images, images_per_real=1, seed=0).images.shape[1:] == (16, 16, 3)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    st.integers(0, 40),
    st.floats(0, 1, width=32),
)
def test_the_selection_is_that_of_going_through_the_draws_one_by_one(values, need, threshold):
    need = min(need, len(values))
    kept, looked_at = [], 0
    for number, value in enumerate(values):
        if len(kept) == need:
            break
        looked_at = number + 1
        if value >= threshold:
            kept.append(number)
    passed = len(kept)
    rejected = [number for number, value in enumerate(values) if value < threshold]
    kept += sorted(rejected, key=lambda number: -values[number])[: need - passed]
    found = select(np.array(values, np.float32), need, threshold)
    assert (found.chosen.tolist(), found.drawn, found.passed) == (kept, looked_at, passed)


def test_what_cannot_be_used_is_refused_before_any_work(synthesizer, icons, fresh_cache):
    for changes, culprit in (
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"class_prompt": "an icon"}, "class_prompt is 'an icon'"),
        ({"sentences_per_class": 0}, "sentences_per_class is 0"),
        ({"max_draws_factor": 0.5}, "max_draws_factor is 0.5"),
    ):
        with pytest.raises(ValueError, match=culprit):
            replace(synthesizer, **changes)
    single = replace(icons.subset(range(6)), class_names=("circle",))
    nameless = replace(icons, class_names=("circle", "_", "cross"))
    odd = replace(synthesizer, sampling=replace(FAST, resolution=20))
    for method, real, count, culprit in (
        (synthesizer, icons, 0, "images_per_real is 0"),
        (synthesizer, single, 1, "there is only one"),
        (synthesizer, nameless, 1, "class 1 has no name"),
        (odd, icons, 1, "resolution 20"),
    ):
        with pytest.raises(ValueError, match=culprit):
            method(real, images_per_real=count, seed=0)
    assert list(fresh_cache.iterdir()) == []


def test_descriptions_are_json_and_tell_settings_apart(synthesizer, v_prediction_diffusion):
    described = synthesizer.describe()
    assert json.loads(json.dumps(described)) == described
    for changes in (
        {"threshold": 0.1},
        {"sentences": AttributeGrammar("a {name}")},
        {"diffusion": v_prediction_diffusion},
        {"class_prompt": "one {}"},
    ):
        assert replace(synthesizer, **changes).describe() != described


def test_the_grammar_speaks_the_words_of_tinysd_in_pairs_that_its_captions_paint():
    from diffinv.tinysd.corpus import captions, concepts

    random = np.random.default_rng(0)
    for name, expected in COLOURS.items():
        shades = [captions.luminance(captions.draw_colour(random, name)) for _ in range(300)]
        assert abs(np.mean(shades) - expected) < 0.03, name
    assert set(COLOURS) == set(captions.COLOURS)
    assert set(STYLES) <= {*concepts.STYLE_WORDS.values(), ""}
    for sentence in AttributeGrammar("{colour},{background},{name}")("x", 500, 0):
        front, back, _ = sentence.split(",")
        assert abs(COLOURS[front] - COLOURS[back]) > captions.MIN_LUMINANCE_DIFFERENCE


def test_the_grammar_repeats_nothing_and_a_few_are_the_first_of_many():
    grammar = AttributeGrammar()
    many = grammar("fire_truck", 1000, 0)
    assert len(set(many)) == 1000 and all(" fire truck icon on " in sentence for sentence in many)
    assert grammar("fire_truck", 10, 0) == many[:10] != grammar("fire_truck", 10, 1)
    assert not any("  " in sentence for sentence in many)
    assert AttributeGrammar("a {name}")("heart", 3, 0) == ["a heart"] * 3
    for template in ("a heart", "{name} or {name}", "{name} in {place}", "{name", "{} {name}"):
        with pytest.raises(ValueError, match=r"write \{name\} once"):
            AttributeGrammar(template)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A random T5 with a vocabulary of letters, saved as on the hub."""
    folder = tmp_path_factory.mktemp("t5")
    letters = [("▁", -1.0), *((letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *letters]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=len(vocabulary), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_t5_writes_sentences_that_depend_on_name_seed_and_number_alone(t5):
    write = WordToSentence(str(t5), max_new_tokens=12, device="cpu")
    state = torch.get_rng_state()
    many = write("fire_truck", 9, 0)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are touched
    assert len(set(many)) > 5 and all(many)
    one_by_one = WordToSentence(str(t5), max_new_tokens=12, batch_size=1, device="cpu")
    assert one_by_one("fire_truck", 9, 0) == many and one_by_one.describe() == write.describe()
    assert write("fire_truck", 4, 0) == many[:4]
    assert write("fire_truck", 9, 1) != many != write("heart", 9, 0)
    assert replace(write, temperature=0.5).describe() != write.describe()
    json.dumps(write.describe())


def test_lecf_draws_from_the_sentences_of_a_t5(tiny_diffusion, clip, t5, icons, fresh_cache):
    sentences = WordToSentence(str(t5), max_new_tokens=6, device="cpu")
    method = LECF(tiny_diffusion, clip, sentences, FAST, threshold=0, sentences_per_class=3)
    assert len(method(icons, images_per_real=1, seed=0)) == len(icons)
    stored = [json.loads(path.read_text()) for path in sorted(fresh_cache.glob("lecf/*/*.json"))]
    assert stored == [sentences(name, 3, 0) for name in icons.class_names]


def test_the_noise_draws_from_the_softmax_of_the_best_scores():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, 1.5]])
    stream = torch.Generator().manual_seed(0)
    noise = _Gumbel([stream], temperature=0.7, top_k=4)
    drawn = [int(noise(torch.zeros(1, 1, dtype=torch.long), scores).argmax()) for _ in range(4000)]
    counts = np.bincount(drawn, minlength=5)
    expected = (scores[0, [0, 1, 2, 4]] / 0.7).softmax(0).double().numpy()
    assert counts[3] == 0
    assert chisquare(counts[[0, 1, 2, 4]], 4000 * expected / expected.sum()).pvalue > 1e-4


def test_a_t5_that_cannot_be_loaded_is_one_sentence(t5, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        CheckpointError, match=r"sentence model .* cannot be loaded .*AttributeGrammar"
    ) as error:
        WordToSentence(str(tmp_path / "nowhere"))("heart", 1, 0)
    assert "\n" not in str(error.value)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in t5.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save(T5ForConditionalGeneration.from_pretrained(t5).state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        WordToSentence(str(pickled), device="cpu")("heart", 1, 0)
    for changes, culprit in (({"temperature": 0}, "temperature is 0"), ({"top_k": 0}, "top_k is 0")):
        with pytest.raises(ValueError, match=culprit):
            WordToSentence(**changes)
