"""Properties of the perturbation: identities, partners, endpoints, independence, the unconditional vector."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffinv.method.perturbation import (
    Perturbation,
    conditioning_for,
    interpolate,
    partners,
    require_partners,
    unconditional_embedding,
)
from diffinv.method.store import EmbeddingStore

NOTHING = Perturbation(noise_std=0, interpolation_weight=0)


def make_store(labels, tokens=3, width=16):
    return EmbeddingStore(
        embeddings=torch.randn(
            len(labels), tokens, width, generator=torch.Generator().manual_seed(len(labels))
        ),
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=("cat", "dog", "owl"),
        ids=tuple(f"train/{row:04d}" for row in range(len(labels))),
        losses=torch.zeros(len(labels)),
    )


labels_with_company = st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=8).map(lambda some: some * 2)
seeds = st.integers(0, 2**40)


@given(labels=st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=8), seed=seeds)
def test_no_noise_and_no_interpolation_is_the_identity(labels, seed):
    store = make_store(labels)  # single-image classes too
    sources = list(range(len(labels)))
    assert torch.equal(conditioning_for(store, sources, [3] * len(sources), NOTHING, seed), store.embeddings)


@given(labels=labels_with_company, seed=seeds, copy=st.integers(0, 50))
def test_a_partner_is_of_the_same_class_and_never_self(labels, seed, copy):
    store = make_store(labels)
    sources = list(range(len(labels)))
    for source, partner in zip(sources, partners(store, sources, [copy] * len(sources), seed), strict=True):
        assert partner != source
        assert labels[partner] == labels[source]


def test_every_classmate_can_be_the_partner():
    store = make_store([0, 0, 0, 0, 1, 1])
    drawn = partners(store, [1] * 200, range(200), seed=0)
    counts = {row: drawn.count(row) for row in (0, 2, 3)}
    assert sum(counts.values()) == 200 and min(counts.values()) > 40


@given(labels=labels_with_company, seed=seeds, data=st.data())
def test_a_row_does_not_depend_on_the_other_rows_or_on_the_order_of_the_store(labels, seed, data):
    store = make_store(labels)
    settings = Perturbation(noise_std=0.3, interpolation_weight=0.4)
    sources = list(range(len(labels)))
    whole = conditioning_for(store, sources, sources, settings, seed)
    row = data.draw(st.sampled_from(sources))
    assert torch.equal(conditioning_for(store, [row], [row], settings, seed)[0], whole[row])
    order = data.draw(st.permutations(sources))
    shuffled = conditioning_for(store.subset(order), range(len(order)), order, settings, seed)
    assert torch.equal(shuffled, whole[order])


def test_copies_and_seeds_differ():
    store = make_store([0, 0, 0])
    settings = Perturbation(noise_std=0.1, interpolation_weight=0)
    first, second = conditioning_for(store, [0, 0], [0, 1], settings, seed=0)
    (other,) = conditioning_for(store, [0], [0], settings, seed=1)
    assert not torch.equal(first, second) and not torch.equal(first, other)


def test_interpolation_has_exact_endpoints_and_is_straight():
    first, second = torch.randn(2, 4, 3, 8)
    assert torch.equal(interpolate(first, second, 0), first)
    assert torch.equal(interpolate(first, second, 1), second)
    torch.testing.assert_close(interpolate(first, second, 0.25), 0.75 * first + 0.25 * second)


def test_interpolation_mixes_with_the_drawn_partner():
    store = make_store([0, 0, 0, 1, 1])
    sources, copies = [0, 1, 4], [0, 5, 2]
    settings = Perturbation(noise_std=0, interpolation_weight=0.2)
    mixed = conditioning_for(store, sources, copies, settings, seed=3)
    chosen = partners(store, sources, copies, seed=3)
    torch.testing.assert_close(mixed, 0.8 * store.embeddings[sources] + 0.2 * store.embeddings[chosen])


@pytest.mark.parametrize("noise_std", [0.1, 0.7])
def test_noise_has_the_absolute_deviation_asked_for(noise_std):
    store = make_store([0], tokens=50, width=64)
    settings = Perturbation(noise_std=noise_std, interpolation_weight=0)
    noise = conditioning_for(store, [0] * 10, range(10), settings, seed=0) - store.embeddings
    assert noise.std().item() == pytest.approx(noise_std, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)


def test_a_class_of_one_image_is_refused_only_where_a_partner_is_needed():
    store = make_store([0, 0, 1])
    with pytest.raises(ValueError, match=r"Class 'dog' has a single image .* set interpolation_weight=0"):
        conditioning_for(store, [0, 2], [0, 0], Perturbation(), seed=0)
    conditioning_for(store, [0, 1], [0, 0], Perturbation(), seed=0)
    conditioning_for(store, [2], [0], replace(Perturbation(), interpolation_weight=0), seed=0)
    require_partners([0], [0, 0, 1], store.class_names)


def test_the_mean_of_all_vectors_and_of_the_class(tiny_diffusion):
    store = make_store([0, 1, 1])
    labels = [1, 0, 1]
    mean = unconditional_embedding(store, "mean", tiny_diffusion, labels)
    torch.testing.assert_close(mean, sum(store.embeddings)[None] / 3)
    by_class = unconditional_embedding(store, "class_mean", tiny_diffusion, labels)
    dog = (store.embeddings[1] + store.embeddings[2]) / 2
    torch.testing.assert_close(by_class, torch.stack([dog, store.embeddings[0], dog]))


def test_the_empty_prompt_is_the_text_encoders(tiny_diffusion):
    empty = unconditional_embedding(make_store([0]), "empty_prompt", tiny_diffusion, [0])
    assert torch.equal(empty, tiny_diffusion.encode_prompt([""]))
    assert empty.shape[0] == 1


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"noise_std": -0.1}, "noise_std"),
        ({"noise_std": float("inf")}, "noise_std"),
        ({"interpolation_weight": 1.1}, "interpolation_weight"),
        ({"interpolation_weight": float("nan")}, "interpolation_weight"),
        ({"unconditional": "median"}, "choose one of mean, class_mean, empty_prompt"),
    ],
)
def test_settings_out_of_range_are_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        Perturbation(**change)


def test_sources_and_copies_come_in_pairs():
    for settings in (NOTHING, Perturbation()):
        with pytest.raises(ValueError, match="2 sources came with 1 copy numbers"):
            conditioning_for(make_store([0, 0]), [0, 1], [0], settings, seed=0)
