"""Metrics against scikit-learn, SciPy and torchmetrics, and against cases with a known answer."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from diffinv.metrics.copies import authentic, closeness
from diffinv.metrics.distances import (
    diversity,
    diversity_between,
    frechet_distance,
    gaussian_distance,
    kernel_distance,
    nearest_neighbour_distances,
)
from diffinv.metrics.manifolds import manifolds, precision, recall
from diffinv.metrics.neighbours import nearest_neighbours, sum_of_distances


def cloud(count, width=6, seed=0, shift=0.0, scale=1.0):
    noise = np.random.default_rng(seed).normal(size=(count, width))
    return torch.tensor(noise * scale + shift, dtype=torch.float32)


def oracle(real, synthetic, k):
    """The four definitions, word by word, on scikit-learn's neighbours."""

    def radii(points):
        distances, _ = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(points).kneighbors(points)
        return distances[:, k]

    def balls_around(points, centres):
        reach = radii(centres)
        return [
            [j for j, centre in enumerate(centres) if np.linalg.norm(point - centre) <= reach[j]]
            for point in points
        ]

    real, synthetic = real.double().numpy(), synthetic.double().numpy()
    of_synthetic, of_real = balls_around(synthetic, real), balls_around(real, synthetic)
    return {
        "precision": np.mean([len(balls) > 0 for balls in of_synthetic]),
        "recall": np.mean([len(balls) > 0 for balls in of_real]),
        "density": sum(len(balls) for balls in of_synthetic) / (k * len(synthetic)),
        "coverage": len({ball for balls in of_synthetic for ball in balls}) / len(real),
    }


def discrepancy(a, b, kernel):
    """The unbiased estimate, term by term (Gretton et al. 2012, eq. 3)."""
    a, b = a.double().numpy(), b.double().numpy()
    within = [
        np.mean([kernel(own[i], own[j]) for i in range(len(own)) for j in range(len(own)) if i != j])
        for own in (a, b)
    ]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])


@pytest.mark.parametrize("block", [1 << 23, 20])  # all at once, and a few rows at a time
def test_kernel_distances_follow_their_definition(block, monkeypatch):
    monkeypatch.setattr("diffinv.metrics.distances.BLOCK", block)
    a, b = cloud(9, seed=1), cloud(6, seed=2, shift=0.7)
    expected = discrepancy(a, b, lambda x, y: (x @ y / 6 + 1) ** 3)
    assert kernel_distance(a, b) == pytest.approx(expected)

    def gaussian(x, y):
        x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
        return 1000 * np.exp(-np.sum((x - y) ** 2) / (2 * 10**2))

    assert gaussian_distance(a, b) == pytest.approx(discrepancy(a, b, gaussian), abs=1e-9)
    assert gaussian_distance(3 * a, b) == pytest.approx(gaussian_distance(a, b))
    with pytest.raises(ValueError, match="at least 2 images on each side"):
        kernel_distance(a, b[:1])


def test_distances_are_those_of_torch_fidelity():
    why = "torch-fidelity is not installed, or torchvision, which it imports, is not"
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason=why, exc_type=ImportError)
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason=why, exc_type=ImportError)
    sides = a, b = cloud(40), cloud(30, seed=1, shift=0.5, scale=1.3)
    statistics = [fid.fid_features_to_statistics(each.double()) for each in sides]
    theirs = fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)
    kernels = [kid.kernel_poly(x.double().numpy(), y.double().numpy()) for x, y in ((a, a), (a, b), (b, b))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[::2]]
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * kernels[1].mean(), rel=1e-9)


def test_the_cubic_kernel_is_that_of_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    a, b = cloud(40, width=12, seed=1).double(), cloud(40, width=12, seed=2, scale=1.3).double()
    assert kernel_distance(a, b) == pytest.approx(kid.poly_mmd(a, b).item(), rel=1e-6)


@pytest.mark.parametrize("distance", [kernel_distance, gaussian_distance])
def test_kernel_distances_of_few_images_are_zero_on_average(distance):
    """A Fréchet distance of so few is far from what it is for many."""
    same = [distance(cloud(5, 8, seed=2 * n), cloud(5, 8, seed=2 * n + 1)) for n in range(300)]
    apart = [distance(cloud(5, 8, seed=2 * n), cloud(5, 8, seed=2 * n + 1, shift=1)) for n in range(300)]
    error = np.std(same) / np.sqrt(len(same))
    assert min(same) < 0 and abs(np.mean(same)) < 3 * error < np.mean(apart) / 3


def test_an_image_is_authentic_unless_it_is_nearer_than_the_next_real_image():
    real = torch.tensor([[0.0], [1.0], [5.0]])
    made = torch.tensor([[0.4], [2.5], [5.0], [9.5]])  # the last is 4.5 off its neighbour, which is 4 off
    nearest = nearest_neighbours(made, real, 1)
    own = nearest_neighbours(real, real, 1, leave_one_out=True).distances[:, 0]
    found = authentic(nearest.distances[:, 0], nearest.indices[:, 0], own)
    assert found.tolist() == [False, True, False, True]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(7, 40), st.integers(7, 40), st.integers(1, 5), st.integers(0, 10**6), st.floats(0, 2),
    st.floats(0.3, 2),
)  # fmt: skip
def test_manifold_metrics_follow_their_definitions(num_real, num_synthetic, k, seed, shift, scale):
    real = cloud(num_real, seed=seed)
    synthetic = cloud(num_synthetic, seed=seed + 1, shift=shift, scale=scale)
    assert manifolds(real, synthetic, num_neighbours=k).values() == pytest.approx(oracle(real, synthetic, k))


def published_formulae(real, synthetic, k):
    """Naeem et al.'s own lines (their package `prdc`), with borders counted in, on full distance matrices."""

    def distances(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    def kth(points):
        return np.sort(distances(points, points), axis=1)[:, k]

    real, synthetic = real.double().numpy(), synthetic.double().numpy()
    across = distances(real, synthetic)
    in_real_ball = across <= kth(real)[:, None]
    return {
        "precision": in_real_ball.any(axis=0).mean(),
        "recall": (across <= kth(synthetic)[None, :]).any(axis=1).mean(),
        "density": in_real_ball.sum(axis=0).mean() / k,
        "coverage": (across.min(axis=1) <= kth(real)).mean(),
    }


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 6), st.integers(0, 10**6), st.integers(0, 20))
def test_manifold_metrics_agree_with_the_published_formulae_copies_included(
    num_real, num_synthetic, k, seed, num_copied
):
    real, synthetic = cloud(num_real, seed=seed), cloud(num_synthetic, seed=seed + 1, shift=0.4)
    # A copy of a real image lies on the border of a ball: a rounded distance would decide by chance.
    copied = min(num_copied, num_real, num_synthetic)
    synthetic[:copied] = real[:copied]
    expected = published_formulae(real, synthetic, k)
    assert manifolds(real, synthetic, num_neighbours=k).values() == pytest.approx(expected)
    alone = {f.__name__: f(real, synthetic, num_neighbours=k) for f in (precision, recall)}
    assert alone == pytest.approx({name: expected[name] for name in alone})


def test_means_over_a_class_are_those_of_its_images():
    real, synthetic = cloud(40), cloud(30, seed=1, shift=0.7)
    found = manifolds(real, synthetic)
    halves = [found.precision(slice(0, 10)), found.precision(np.arange(10, 30))]
    assert found.precision() == pytest.approx((10 * halves[0] + 20 * halves[1]) / 30)
    assert np.isnan(found.recall(np.array([], dtype=int)))


@pytest.mark.parametrize("offset", [0, 1000])  # far from the origin a matrix product loses its digits
def test_neighbours_are_those_of_scikit_learn(offset):
    references, queries = cloud(90) + offset, cloud(20, seed=1) + offset
    found = nearest_neighbours(queries, references, 7)
    oracle = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(references.double())
    distances, indices = oracle.kneighbors(queries.double())
    assert found.indices.tolist() == indices.tolist()
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    own = nearest_neighbours(references, references, 7, leave_one_out=True)
    distances, indices = oracle.kneighbors()  # of the references, each itself left out
    assert own.indices.tolist() == indices.tolist()
    np.testing.assert_allclose(own.distances, distances, rtol=1e-6)


def test_a_border_belongs_to_its_ball_however_many_images_share_it():
    corners = torch.tensor([[0.25, 0.5], [0.25, 1.5], [1.25, 0.5], [1.25, 1.5]]).repeat(30, 1)
    found = manifolds(corners, corners, num_neighbours=30).values()  # the 30th lies on the next corner
    assert found == pytest.approx(published_formulae(corners, corners, 30))
    assert found["density"] == pytest.approx(3)  # 90 balls: its own corner's and two neighbours'


def test_chunks_change_nothing(monkeypatch):
    real, synthetic = cloud(50), cloud(43, seed=1, shift=0.5)
    whole = manifolds(real, synthetic).values()
    monkeypatch.setattr("diffinv.metrics.neighbours.BLOCK", 7 * 50)
    assert manifolds(real, synthetic).values() == whole


def test_known_cases_of_the_manifold_metrics():
    real = cloud(60)
    assert manifolds(real, real).values() | {"density": 1} == dict.fromkeys(
        ("precision", "recall", "density", "coverage"), 1
    )
    assert set(manifolds(real, real + 100).values().values()) == {0.0}
    # Copies of one real image are on the real manifold and cover next to nothing of it.
    collapsed = real[:1].repeat(60, 1)
    found = manifolds(real, collapsed)
    assert found.precision() == 1 and found.recall() < 0.1 and found.coverage() < 0.5
    assert found.density() > 1  # at the centre of a ball, and in those of its neighbours


def test_frechet_distance_agrees_with_scipy():
    a, b = cloud(80, 8), cloud(90, 8, seed=1, shift=0.3, scale=1.4)
    x, y = a.double().numpy(), b.double().numpy()
    covariance_x, covariance_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(covariance_x @ covariance_y).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(covariance_x + covariance_y - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count", [5, 200])  # fewer images than features, and more
def test_frechet_distance_agrees_with_torchmetrics(count):
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = cloud(count, 12).double(), cloud(count, 12, seed=1, shift=0.2).double()
    moments = [(x.mean(0), x.T.cov()) for x in (a, b)]
    expected = fid._compute_fid(*moments[0], *moments[1]).item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_known_frechet_distances():
    a = cloud(50)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 4, rel=1e-5)
    spread = a.double().var(dim=0).sum().item()
    assert frechet_distance(a, 3 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(4 * spread, rel=1e-4)


def test_a_copy_is_at_distance_zero():
    real = cloud(700) + 50  # far from the origin, where the shortcut by a matrix product loses its digits
    distances = nearest_neighbour_distances(torch.cat([real[3:5], real[:1] + 0.25]), real)
    oracle, _ = NearestNeighbors(n_neighbors=1).fit(real.double()).kneighbors((real[:1] + 0.25).double())
    assert distances[:2].tolist() == [0, 0]
    assert distances[2].item() == pytest.approx(oracle.item(), rel=1e-6)


def test_diversity_is_within_originals():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0], [101.0, 0.0], [500.0, 0.0]])
    assert diversity(features, ["a", "a", "b", "b", "alone"]) == pytest.approx((5 + 1) / 2)


def test_diversity_between_originals_leaves_out_pairs_of_one():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
    assert diversity_between(features, ["a", "b", "b"]) == pytest.approx((5 + 4) / 2)
    assert diversity_between(features, ["a", "b", "c"]) == pytest.approx((5 + 4 + 3) / 3)
    many = cloud(200)
    assert sum_of_distances(many) == pytest.approx(float(torch.nn.functional.pdist(many.double()).sum()))


def test_closeness_finds_the_planted_copies_and_no_others():
    references = cloud(300)
    fresh = cloud(300, seed=1)
    planted = torch.cat([references[:20], references[20:40] + 1e-3, fresh])
    near = nearest_neighbours(planted, references, 1)
    own = nearest_neighbours(references, references, 1, leave_one_out=True).distances[:, 0]
    found = closeness(near.distances[:, 0], near.indices[:, 0], own)
    assert found.is_close[:40].all() and found.is_close[40:].double().mean() < 0.05
    assert found.nearest_index[:40].tolist() == list(range(40))
    assert found.own_ratios.median() == 1 and found.num_duplicates == 0
    # Two that are nearest to each other are at the threshold together.
    assert (found.own_ratios <= found.threshold).double().mean() == pytest.approx(0.01, abs=2 / 300)
    assert [index for index, _, _ in found.closest(20)] == list(range(20))
    assert {ratio for _, _, ratio in found.closest(20)} == {0.0}


def test_duplicates_among_the_references_do_not_hide_a_near_copy():
    references = cloud(200)
    references[100:] = references[:100]  # every distance to the nearest other image is 0 ...
    references[0] += 5  # ... but that of two
    near = references[5:6] + 1e-3
    own = nearest_neighbours(references, references, 1, leave_one_out=True).distances[:, 0]
    found = closeness(nearest_neighbour_distances(near, references), torch.tensor([5]), own)
    assert found.num_duplicates == 198 and found.share == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: precision(cloud(5), cloud(9)), "5 neighbours cannot be found among 5 images"),
        (lambda: recall(cloud(9), cloud(5)), "5 neighbours cannot be found among 5 images"),
        (lambda: manifolds(cloud(9), cloud(9), num_neighbours=0), "0 neighbours"),
        (lambda: manifolds(cloud(9), cloud(9, width=7)), "features of 6 and of 7 numbers"),
        (lambda: frechet_distance(cloud(1), cloud(9)), "at least 2 images"),
        (lambda: frechet_distance(cloud(9) * float("nan"), cloud(9)), "infinite or not a number"),
        (lambda: nearest_neighbour_distances(cloud(3), cloud(0)), "no image to compare with"),
        (lambda: diversity(cloud(3), ["a", "b", "c"]), "two samples of one original"),
        (lambda: diversity(cloud(3), ["a", "a"]), "3 samples have 2 originals"),
        (lambda: diversity_between(cloud(3), ["a"] * 3), "samples of two originals"),
        (lambda: closeness(torch.ones(2), torch.tensor([0, 0]), torch.zeros(2)), "remove the duplicates"),
        (lambda: closeness(torch.ones(2), torch.tensor([0, 0]), torch.ones(2), quantile=1), "quantile is 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
