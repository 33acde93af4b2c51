"""EmbeddingStore: what is put in comes out, and only for the checkpoint it was learned with."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffinv.artefacts.compression import pack, unpack
from diffinv.artefacts.writing import ArtefactError
from diffinv.method import store as embeddings
from diffinv.method.store import EmbeddingStore


def make_store(num_images=7, num_tokens=2, width=16, **provenance) -> EmbeddingStore:
    generator = torch.Generator().manual_seed(0)
    return EmbeddingStore(
        embeddings=torch.randn(num_images, num_tokens, width, generator=generator),
        labels=torch.arange(num_images) % 3,
        class_names=("disc", "square", "crêpe"),
        ids=tuple(f"train/ü/{index}" for index in range(num_images)),
        losses=torch.rand(num_images, generator=generator),
        provenance=provenance,
    )


def assert_same(one: EmbeddingStore, other: EmbeddingStore) -> None:
    for name in ("embeddings", "labels", "losses"):
        assert torch.equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert (one.class_names, one.ids, one.provenance) == (other.class_names, other.ids, other.provenance)


@pytest.mark.parametrize("images_per_shard", [1, 3, 7, 1024])
def test_a_store_round_trips_in_any_number_of_shards(tmp_path, monkeypatch, images_per_shard):
    monkeypatch.setattr(embeddings, "IMAGES_PER_SHARD", images_per_shard)
    store = make_store(model="tiny", settings={"num_tokens": 2})
    folder = store.save(tmp_path / "store")
    assert len(list(folder.glob("*.safetensors"))) == -(-7 // images_per_shard)
    assert_same(EmbeddingStore.load(folder), store)


def test_saving_again_replaces_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "IMAGES_PER_SHARD", 2)
    make_store(7).save(tmp_path / "store")
    make_store(3).save(tmp_path / "store")
    assert_same(EmbeddingStore.load(tmp_path / "store"), make_store(3))
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 2


def test_a_failed_save_leaves_the_old_store(tmp_path, monkeypatch):
    make_store(7).save(tmp_path / "store")
    monkeypatch.setattr(embeddings, "tensor_bytes", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_store(3).save(tmp_path / "store")
    assert_same(EmbeddingStore.load(tmp_path / "store"), make_store(7))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_foreign_files_are_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtefactError):
        make_store().save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_unreadable_stores_are_refused(tmp_path):
    with pytest.raises(ArtefactError, match="no embedding store"):
        EmbeddingStore.load(tmp_path)
    folder = make_store().save(tmp_path / "store")
    shard = folder / "embeddings-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(ArtefactError, match=r"embeddings-00000\.safetensors is missing or damaged"):
        EmbeddingStore.load(folder)
    shard.unlink()
    with pytest.raises(ArtefactError, match="missing or damaged"):
        EmbeddingStore.load(folder)
    record = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(record | {"format": "diffinv.LabelledImages/1"}))
    with pytest.raises(ArtefactError, match="LabelledImages"):
        EmbeddingStore.load(folder)


@pytest.mark.parametrize("place", [3, 40, -2, 0.3, 0.6])
def test_a_flipped_bit_of_a_store_is_found(place, tmp_path):
    folder = make_store(200).save(tmp_path / "store")
    shard = folder / "embeddings-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[place if isinstance(place, int) else int(place * len(data))] ^= 0x40
    shard.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"embeddings-00000\.safetensors is (missing or )?damaged"):
        EmbeddingStore.load(folder)


def test_another_class_name_in_the_record_is_found(tmp_path):
    folder = make_store().save(tmp_path / "store")
    record = folder / "provenance.json"
    record.write_text(record.read_text().replace("square", "sqwere"))
    with pytest.raises(ArtefactError, match="damaged"):
        EmbeddingStore.load(folder)


def test_a_store_of_an_earlier_version_is_read(tmp_path):
    folder = make_store().save(tmp_path / "store")
    shard, record = folder / "embeddings-00000.safetensors", folder / "provenance.json"
    with safe_open(shard, framework="pt") as file:
        header = {name: text for name, text in file.metadata().items() if name != "checksum"}
    save_file(load_file(shard), shard, metadata=header)
    record.write_text(
        json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "checksum"})
    )
    assert_same(EmbeddingStore.load(folder), make_store())


def test_an_empty_store_round_trips(tmp_path):
    empty = make_store(model="tiny").subset([])
    assert_same(EmbeddingStore.load(empty.save(tmp_path / "store")), empty)


@given(st.lists(st.integers(0, 6), min_size=1, unique=True))
def test_a_subset_keeps_every_image_together(indices):
    store = make_store()
    part = store.subset(indices)
    for position, index in enumerate(indices):
        assert part.ids[position] == store.ids[index]
        assert part.labels[position] == store.labels[index]
        assert torch.equal(part.embeddings[position], store.embeddings[index])
        assert part.losses[position] == store.losses[index]


def test_the_mean_is_the_weighted_mean_of_the_class_means():
    store = make_store()
    weighted = sum((store.labels == label).sum() * store.class_mean(label) for label in range(3)) / len(store)
    torch.testing.assert_close(store.mean(), weighted)
    with pytest.raises(ValueError, match="no image of class 5"):
        store.class_mean(5)
    with pytest.raises(ValueError, match="empty"):
        store.subset([]).mean()


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="7 embeddings, 7 labels, 6 ids"):
        replace(make_store(), ids=make_store(6).ids)
    with pytest.raises(ValueError, match="share an id"):
        make_store().subset([1, 1])


def test_a_store_of_another_checkpoint_is_refused(tiny_diffusion, v_prediction_diffusion):
    store = make_store(model="tiny", model_fingerprint=tiny_diffusion.fingerprint)
    store.check_matches(tiny_diffusion)
    with pytest.raises(ValueError, match=r"learned with 'tiny'.*not those of 'tiny_v'.*load 'tiny'"):
        store.check_matches(v_prediction_diffusion)
    with pytest.raises(ValueError, match="24 wide but 'tiny' takes 16"):
        make_store(width=24).check_matches(tiny_diffusion)
    with pytest.raises(ValueError, match="unknown checkpoint"):
        make_store().check_matches(tiny_diffusion)


@pytest.mark.parametrize("codec", ["float16", "int8", "pca8", "pq4"])
@pytest.mark.parametrize("images_per_shard", [60, 1024])
def test_a_compressed_store_comes_back_as_its_codec_leaves_it(tmp_path, monkeypatch, codec, images_per_shard):
    monkeypatch.setattr(embeddings, "IMAGES_PER_SHARD", images_per_shard)
    store = make_store(150, model="tiny")
    whole, small = store.save(tmp_path / "whole"), store.save(tmp_path / "small", compress=codec)
    read = EmbeddingStore.load(small)
    lossy = replace(store, embeddings=unpack(pack(store.embeddings, codec), codec))
    assert_same(read, lossy)
    assert 0 < (read.embeddings - store.embeddings).norm() < 0.8 * store.embeddings.norm()
    sizes = [sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (whole, small)]
    assert sizes[1] < sizes[0]


def test_an_empty_store_is_compressed_too(tmp_path):
    empty = make_store(model="tiny").subset([])
    assert_same(EmbeddingStore.load(empty.save(tmp_path / "store", compress="int3")), empty)
