"""Pools, their index and KNN retrieval: the neighbours, what is built again when, what is drawn twice."""

import json
import os
import shutil
from dataclasses import replace

import faiss
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from benchmarks import retrieval as benchmark
from diffinv import LabelledImages
from diffinv.datasets import DatasetError, load_dataset
from diffinv.datasets.decoding import encode_png
from diffinv.models.clip import load_clip
from diffinv.synthesizers.base import Synthesizer
from diffinv.synthesizers.retrieval import index as retrieval
from diffinv.synthesizers.retrieval.index import build_index, embed, write_index
from diffinv.synthesizers.retrieval.knn_retrieval import KNNRetrieval
from diffinv.synthesizers.retrieval.pools import FolderPool, MemoryPool, open_pool


@pytest.fixture(scope="module")
def clip():
    return load_clip("tinysd", device="cpu")


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(pictures, tmp_path):
    """12 pictures, nested in three ways, beside what is no picture."""
    folder = tmp_path / "pool"
    for number, picture in enumerate(pictures):
        path = folder / ("", "a", "a/b c/d")[number % 3] / f"{number:02d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(picture))
    (folder / "captions.txt").write_text("not a picture")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "thumbnail.png").write_bytes(encode_png(pictures[0]))
    return folder


def labelled(images, name="real", num_classes=2):
    return LabelledImages(
        images=images,
        labels=np.arange(len(images)) % num_classes,
        class_names=tuple(f"class {label}" for label in range(num_classes)),
        ids=tuple(f"{name}/{number}" for number in range(len(images))),
        provenance={"name": name},
    )


def unit_vectors(count, width, centres=None, seed=0):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, width))
    if centres is not None:
        vectors = centres[random.integers(len(centres), size=count)] + 0.1 * vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def opened(vectors, path, shard_size=1000):
    write_index([vectors[start : start + shard_size] for start in range(0, len(vectors), shard_size)], path)
    pool = MemoryPool(labelled(np.zeros((2, 8, 8, 3), np.uint8)))
    return retrieval.PoolIndex(pool, retrieval.open_index(path))


def count_embeddings(monkeypatch):
    """Record how many images CLIP sees."""
    seen, genuine = [], retrieval.embed

    def counting(pool, indices, clip):
        seen.append(len(indices))
        return genuine(pool, indices, clip)

    monkeypatch.setattr(retrieval, "embed", counting)
    return seen


def test_up_to_the_limit_neighbours_are_those_of_scikit_learn(tmp_path):
    vectors, queries = unit_vectors(2500, 24), unit_vectors(40, 24, seed=1)
    rows, cosines = opened(vectors, tmp_path / "i").search(queries, 7)
    distances, expected = (
        NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors).kneighbors(queries, 7)
    )
    assert np.array_equal(rows, expected)
    np.testing.assert_allclose(cosines, 1 - distances, atol=1e-5)


def test_beyond_the_limit_nearly_all_neighbours_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(retrieval, "VECTORS_PER_LIST", 64)
    monkeypatch.setattr(retrieval, "PROBED_LISTS", 8)
    centres = unit_vectors(100, 24)
    vectors, queries = unit_vectors(6000, 24, centres), unit_vectors(100, 24, centres, seed=1)
    index = opened(vectors, tmp_path / "i")
    assert isinstance(index.index, faiss.IndexIVFScalarQuantizer) and index.index.nlist == 128
    rows, cosines = index.search(queries, 10)
    expected = NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors).kneighbors(queries, 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, expected, strict=True)])
    assert recall > 0.9
    true = (vectors[rows] * queries[:, None]).sum(axis=2)
    assert np.abs(true - cosines).max() < 0.02  # 8 bits a channel


def test_a_k_beyond_the_nearest_lists_looks_into_all(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "EXACT_UP_TO", 100)
    monkeypatch.setattr(retrieval, "VECTORS_PER_LIST", 32)
    monkeypatch.setattr(retrieval, "PROBED_LISTS", 1)
    vectors = unit_vectors(1000, 16)
    rows, _ = opened(vectors, tmp_path / "i").search(vectors[:5], 1000)
    assert all(set(found) == set(range(1000)) for found in rows.tolist())


def test_rows_without_a_vector_are_never_found_and_shift_no_number(tmp_path):
    vectors = unit_vectors(50, 16)
    vectors[[0, 17, 49]] = np.nan
    index = opened(vectors, tmp_path / "i", shard_size=20)
    present = np.setdiff1d(np.arange(50), [0, 17, 49])
    rows, _ = index.search(vectors[present], 47)
    assert len(index) == 47 and np.array_equal(rows[:, 0], present)
    assert not {0, 17, 49} & set(rows.flatten())


def test_the_index_is_searched_on_disk(clip, folder):
    index = build_index(folder, clip).index  # held: it owns its lists
    assert isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.OnDiskInvertedLists)


def test_a_pool_is_embedded_once_and_again_only_when_it_changes(
    clip, folder, pictures, monkeypatch, tmp_path
):
    seen = count_embeddings(monkeypatch)
    first = build_index(folder, clip)
    assert len(first) == 12 and sum(seen) == 12
    moved = folder.rename(tmp_path / "moved")
    assert build_index(moved, clip).pool.fingerprint == first.pool.fingerprint and sum(seen) == 12
    (moved / "new.png").write_bytes(encode_png(pictures[0]))
    assert len(build_index(moved, clip)) == 13 and sum(seen) == 25
    os.utime(moved / "new.png", ns=(1, 1))  # another time may be another picture of the same size
    build_index(moved, clip)
    assert sum(seen) == 38


def test_another_clip_is_another_index(clip, folder):
    assert clip.fingerprint == load_clip("tinysd", device="cpu").fingerprint
    other = load_clip("tinysd", device="cpu")
    other.model.visual_projection.weight.neg_()
    assert other.fingerprint != clip.fingerprint
    shifted = load_clip("tinysd", device="cpu")
    shifted.image_mean = shifted.image_mean + 0.1
    assert shifted.fingerprint != clip.fingerprint


def test_an_interrupted_embedding_continues_and_leaves_no_features(clip, folder, monkeypatch, fresh_cache):
    monkeypatch.setattr(retrieval, "SHARD_SIZE", 5)
    genuine, calls = retrieval.embed, []

    def interrupted(pool, indices, clip):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return genuine(pool, indices, clip)

    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_index(folder, clip)
    seen = count_embeddings(monkeypatch)
    index = build_index(folder, clip)
    assert seen == [2]  # of 12 pictures, 10 were done
    queries = embed(FolderPool(folder), range(12), clip)
    assert np.array_equal(index.search(queries, 1)[0][:, 0], np.arange(12))
    assert [path.name for path in fresh_cache.glob("retrieval/*/*")] in (
        ["index.faiss", "index.json"],
        ["index.json", "index.faiss"],
    )


def test_an_index_cut_short_is_built_again(clip, folder, fresh_cache):
    build_index(folder, clip)
    (path,) = fresh_cache.glob("retrieval/*/index.faiss")
    path.write_bytes(path.read_bytes()[:-100])
    queries = embed(FolderPool(folder), range(12), clip)
    assert np.array_equal(build_index(folder, clip).search(queries, 1)[0][:, 0], np.arange(12))


def test_unreadable_pictures_are_left_out_with_a_warning(clip, folder):
    (folder / "a" / "01.PNG").write_bytes(b"no picture")
    (folder / "empty.jpg").touch()
    pool = FolderPool(folder)
    with pytest.warns(UserWarning, match=r"2 of 13 images of the pool cannot be read, a/01\.PNG"):
        index = build_index(pool, clip)
    assert len(build_index(pool, clip)) == len(index) == 11  # from the cache too
    readable = [row for row, name in enumerate(pool.ids) if name not in ("a/01.PNG", "empty.jpg")]
    assert np.array_equal(index.search(embed(pool, readable, clip), 1)[0][:, 0], readable)
    for path in folder.rglob("*.PNG"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="no image of the pool can be read"):
        build_index(folder, clip)


def test_a_folder_is_a_pool_with_all_its_nested_images(folder, pictures):
    pool = open_pool(folder)
    assert len(pool.ids) == 12 and "a/b c/d/02.PNG" in pool.ids
    row = pool.ids.index("a/b c/d/02.PNG")
    assert np.array_equal(pool.images([row], 32)[0], pictures[2])
    assert pool.images([row, 0], 16).shape == (2, 16, 16, 3)
    shutil.rmtree(folder)
    with pytest.raises(DatasetError, match=r"02\.PNG cannot be read"):
        pool.images([row], 32)


def test_a_dataset_by_name_is_a_pool_of_its_training_images():
    pool, train = open_pool("novel10"), load_dataset("novel10", split="train")
    assert pool.ids == train.ids
    assert np.array_equal(pool.images([0, 5], train.resolution), train.images[[0, 5]])


def test_what_is_no_pool_is_refused_in_one_sentence(tmp_path, toy_images):
    with pytest.raises(DatasetError, match='no pool or folder "laion": choose "icons_pool"'):
        open_pool("laion")
    with pytest.raises(DatasetError, match="holds no image below it"):
        open_pool(tmp_path)
    with pytest.raises(DatasetError, match="is empty"):
        open_pool(toy_images.subset([]))


def test_the_shipped_pool_is_made_of_training_icons_alone(clip):
    from diffinv.synthesizers.retrieval.pools import FOLDER
    from diffinv.tinysd.corpus.concepts import UNSPOKEN_WORDS, parse_icon_name
    from diffinv.tinysd.corpus.corpus import held_out

    pool = open_pool("icons_pool")
    record = json.loads((FOLDER / "icons_pool" / "pool.json").read_text())
    assert len(pool.ids) == len(set(pool.ids)) == record["images"] > 4000
    assert sum(path.stat().st_size for path in (FOLDER / "icons_pool").iterdir()) < 5_000_000
    sets = {name.split("/")[0] for name in pool.ids}
    assert not any(map(held_out, sets))
    concepts = {parse_icon_name(name.split("/")[1])[0] for name in pool.ids}
    assert len(concepts) == record["concepts"] == 201 and {"heart", "star", "umbrella"} <= concepts
    assert not any(UNSPOKEN_WORDS & set(caption.split()) for caption in pool.captions)
    notice = (FOLDER / "icons_pool" / "NOTICE").read_text()
    assert all(f"({name})" in notice for name in sets)
    row = pool.ids.index(next(name for name in pool.ids if name.endswith("/heart")))
    assert "heart icon on" in pool.captions[row] and pool.images([row], 32).std() > 10


def knn(clip, pool, **changes):
    return KNNRetrieval(clip, pool, **{"k": 4, **changes})


def test_an_image_of_the_pool_finds_itself_first(clip, pictures):
    pool, real = labelled(pictures, "pool"), labelled(pictures[::-1][:5])
    neighbours = knn(clip, pool).neighbours(real)
    assert np.array_equal(neighbours.rows[:, 0], [11, 10, 9, 8, 7])
    np.testing.assert_allclose(neighbours.cosines[:, 0], 1, atol=1e-5)
    assert (np.diff(neighbours.cosines, axis=1) <= 0).all()
    assert knn(clip, pool, k=1)(real).provenance["equal_to_a_real_image"] == 5


def test_retrieved_images_have_their_sources_label_name_and_side(clip, folder, toy_images):
    synthesizer = knn(clip, folder)
    assert isinstance(synthesizer, Synthesizer)
    synthetic = synthesizer(toy_images, images_per_real=3, seed=0)
    assert len(synthetic) == 3 * len(toy_images) and synthetic.resolution == toy_images.resolution
    assert np.array_equal(synthetic.labels, np.tile(toy_images.labels, 3))
    assert synthetic.sources == toy_images.ids * 3
    assert synthetic.ids == tuple(f"{name}#{copy}" for copy in range(3) for name in toy_images.ids)
    record = json.loads(json.dumps(synthetic.provenance))
    assert record["synthesizer"] == synthesizer.describe() and record["seed"] == 0
    assert set(record["missing"].values()) == {0}


def test_the_k_nearest_are_drawn_each_once_for_a_real_image(clip, pictures, folder):
    real = labelled(pictures[:3])
    synthesizer = knn(clip, labelled(pictures, "pool"))
    synthetic = synthesizer(real, images_per_real=4, seed=0)
    rows = synthesizer.neighbours(real).rows
    for source, name in enumerate(real.ids):
        drawn = [image for image, own in zip(synthetic.images, synthetic.sources, strict=True) if own == name]
        assert {image.tobytes() for image in drawn} == {pictures[row].tobytes() for row in rows[source]}


@pytest.mark.parametrize("duplicates", ["keep", "remove"])
def test_fewer_images_are_a_prefix_and_the_seed_chooses(clip, pictures, duplicates):
    synthesizer = knn(clip, labelled(pictures, "pool"), k=6, duplicates=duplicates)
    real = labelled(pictures[:4])
    three = synthesizer(real, images_per_real=3, seed=0)
    one = synthesizer(real, images_per_real=1, seed=0)
    assert three.ids[: len(one)] == one.ids
    assert np.array_equal(three.images[: len(one)], one.images)
    assert not np.array_equal(synthesizer(real, images_per_real=1, seed=1).images, one.images)


def test_without_removal_a_sample_does_not_depend_on_the_other_real_images(clip, pictures):
    synthesizer = knn(clip, labelled(pictures, "pool"))
    real = labelled(pictures[:6])
    whole, alone = synthesizer(real, seed=0), synthesizer(real.subset([1, 4]), seed=0)
    assert np.array_equal(whole.images[[1, 4]], alone.images)


def test_duplicates_are_counted_or_removed_and_the_missing_are_counted(clip, pictures):
    pool = labelled(np.concatenate([pictures[:4], pictures[:4]]), "pool")  # 8 images, 4 pictures
    real = labelled(pictures[:6])
    kept = knn(clip, pool, k=8)(real, images_per_real=2, seed=0)
    pixels = [image.tobytes() for image in kept.images]
    assert len(kept) == 12 and kept.provenance["distinct_pixels"] == len(set(pixels)) <= 4
    assert kept.provenance["distinct_images"] > 4
    labels_of = {
        key: {int(n) for p, n in zip(pixels, kept.labels, strict=True) if p == key} for key in pixels
    }
    assert kept.provenance["in_several_classes"] == sum(len(labels) > 1 for labels in labels_of.values())
    removed = knn(clip, pool, k=8, duplicates="remove")(real, images_per_real=2, seed=0)
    assert len(removed) == 4 == len({image.tobytes() for image in removed.images})
    assert sum(removed.provenance["missing"].values()) == 8
    assert removed.provenance["in_several_classes"] == 0
    enough = knn(clip, labelled(pictures, "pool"), k=12, duplicates="remove")(real, images_per_real=2, seed=0)
    assert len(enough) == 12 == len({image.tobytes() for image in enough.images})


def test_what_cannot_be_retrieved_is_refused_in_one_sentence(clip, pictures, toy_images):
    pool = labelled(pictures, "pool")
    with pytest.raises(ValueError, match=r"images_per_real is 5, but only the k=4 nearest .* at least 5"):
        knn(clip, pool)(toy_images, images_per_real=5, seed=0)
    with pytest.raises(DatasetError, match=r"has 12 images, and k is 13: choose .* or a larger pool"):
        knn(clip, pool, k=13)(toy_images, images_per_real=1, seed=0)
    with pytest.raises(ValueError, match="k is 0"):
        knn(clip, pool, k=0)
    with pytest.raises(ValueError, match="duplicates is 'drop': choose one of keep, remove"):
        knn(clip, pool, duplicates="drop")
    index = build_index(pool, clip)
    with pytest.raises(DatasetError, match="k is 0: choose k from 1 to 12"):
        index.search(unit_vectors(1, index.index.d), 0)
    with pytest.raises(DatasetError, match="channels, not 3: search it with features of the CLIP"):
        index.search(unit_vectors(1, 3), 1)


def test_descriptions_are_json_and_tell_settings_apart(clip, pictures):
    synthesizer = knn(clip, labelled(pictures, "pool"))
    described = synthesizer.describe()
    assert json.loads(json.dumps(described)) == described
    others = [
        replace(synthesizer, k=5),
        replace(synthesizer, duplicates="remove"),
        replace(synthesizer, pool=labelled(pictures[:11], "pool")),
    ]
    assert all(other.describe() != described for other in others)


def test_the_benchmark_measures_every_phase_and_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "in_own_process", benchmark._measured)
    monkeypatch.setattr(benchmark, "SHARD_SIZE", 1000)
    monkeypatch.setattr(benchmark, "CENTRES", 50)
    monkeypatch.setattr(retrieval, "EXACT_UP_TO", 1000)
    output = tmp_path / "measured.json"
    small = ["--vectors", "2500", "--width", "16", "--queries", "40", "--k", "5"]
    assert benchmark.main([*small, "--folder", str(tmp_path / "work"), "--output", str(output)]) == 0
    record, printed = json.loads(output.read_text()), capsys.readouterr().out
    for phase in ("write_vectors", "build", "search", "check"):
        assert record[phase]["peak_mb"] > 0 and phase in printed
    assert record["check"]["recall_at_5"] > 0.9 and record["search"]["queries"] == 40
    assert not (tmp_path / "work").exists()
