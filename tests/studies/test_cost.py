"""The compute table: every synthesizer says what it cost, and the cache does not make it cheaper."""

import math
from dataclasses import asdict, replace

import pytest

from diffinv.method.inversion import Inversion
from diffinv.method.sampling import Sampling
from diffinv.models.clip import load_clip
from diffinv.studies.cost import compute_table
from diffinv.synthesizers.autoencode import Autoencode
from diffinv.synthesizers.base import Stage
from diffinv.synthesizers.diffusion_inversion import DiffusionInversion
from diffinv.synthesizers.gan.gan import GAN
from diffinv.synthesizers.gan.gan_inversion import GANInversion
from diffinv.synthesizers.gan.latent_inversion import LatentInversion
from diffinv.synthesizers.gan.training import GANTraining
from diffinv.synthesizers.lecf.lecf import LECF
from diffinv.synthesizers.real import Real
from diffinv.synthesizers.retrieval.knn_retrieval import KNNRetrieval

pytestmark = pytest.mark.filterwarnings("ignore:the GAN of seed .* has collapsed")


@pytest.fixture(scope="module")
def clip():
    return load_clip("tinysd", device="cpu")


@pytest.fixture
def methods(tiny_diffusion, clip, toy_images):
    training = GANTraining(optimiser_steps=3, batch_size=8, latent_dim=6, channels=4)
    latent = LatentInversion(steps_per_image=5, candidates=2)
    sampling = Sampling(num_inference_steps=2, resolution=16)
    return {
        "DI": DiffusionInversion(tiny_diffusion, Inversion(steps_per_image=4), sampling=sampling),
        "GAN": GAN(training, "warn", device="cpu"),
        "GAN inversion": GANInversion(training, latent, on_collapse="warn", device="cpu"),
        "autoencoding": Autoencode(tiny_diffusion, posterior="sample"),
        "KNN": KNNRetrieval(clip, toy_images, k=3),
        "LECF": LECF(tiny_diffusion, clip, sampling=sampling, threshold=0.0),
        "real": Real(),
    }


def table(methods, real, images_per_real=2, seed=0):
    made = {name: make(real, images_per_real=images_per_real, seed=seed) for name, make in methods.items()}
    return compute_table(made).set_index("method")


def test_every_synthesizer_says_what_it_cost(methods, toy_images):
    costs = table(methods, toy_images)
    assert costs["spent once on"].to_dict() == {
        "DI": "inversion",
        "GAN": "GAN training",
        "GAN inversion": "GAN training + latent inversion",
        "autoencoding": "",
        "KNN": "index",
        "LECF": "",
        "real": "",
    }
    updates = {"DI": 4 * 18, "GAN": 3 * 2 * 8, "GAN inversion": 3 * 2 * 8 + 5 * 18}
    assert costs["image updates"].to_dict() == {**dict.fromkeys(methods, 0), **updates}
    made = costs.drop("real")
    assert (made["samples"] == 36).all() and (made["seconds per sample"] > 0).all()
    assert (made.loc[["DI", "GAN", "GAN inversion", "KNN"], "seconds once"] > 0).all()
    expected = made["seconds once"] + made["samples"] * made["seconds per sample"]
    assert made["seconds in all"].to_list() == pytest.approx(expected.to_list())
    assert costs.loc["real", "seconds in all"] == 0


def test_what_is_found_in_the_cache_keeps_the_time_of_the_run_that_made_it(methods, toy_images):
    del methods["KNN"]  # is never cached but for its index
    first = table(methods, toy_images)
    again = table(methods, toy_images)
    assert again.equals(first)
    # A smaller request is a part of what was drawn, and a larger one only adds to it.
    smaller = table(methods, toy_images, images_per_real=1)
    assert smaller["seconds once"].to_list() == pytest.approx(first["seconds once"].to_list())
    cached = ["DI", "GAN", "GAN inversion", "autoencoding"]
    assert (smaller.loc[cached, "seconds per sample"] == first.loc[cached, "seconds per sample"]).all()
    larger = table(methods, toy_images, images_per_real=3)
    assert (larger["samples"].drop("real") == 54).all()
    assert (larger.loc[cached, "seconds per sample"] > first.loc[cached, "seconds per sample"] / 2).all()


def test_a_part_of_the_inverted_images_costs_its_share(methods, toy_images):
    costs = table({"DI": methods["DI"]}, toy_images)
    part = table({"DI": methods["DI"]}, toy_images.subset(range(6)))
    assert part.loc["DI", "seconds once"] == pytest.approx(costs.loc["DI", "seconds once"] / 3, abs=2e-3)


def test_time_is_no_part_of_a_key(methods, toy_images, fresh_cache):
    table(methods, toy_images)
    files = sorted(path.relative_to(fresh_cache) for path in fresh_cache.rglob("*") if path.is_file())
    assert any(path.parts[0] == "samples" and path.suffix == ".json" for path in files)
    for path in (fresh_cache / "samples").rglob("*.npy"):
        path.unlink()  # drawn again, at another speed
    table(methods, toy_images)
    assert files == sorted(path.relative_to(fresh_cache) for path in fresh_cache.rglob("*") if path.is_file())


def test_samples_that_lost_their_record_are_drawn_again(methods, toy_images, fresh_cache):
    make = {"autoencoding": methods["autoencoding"]}
    table(make, toy_images)
    for path in (fresh_cache / "samples").rglob("*.json"):
        path.unlink()
    assert table(make, toy_images).loc["autoencoding", "seconds per sample"] > 0


def test_several_seeds_are_averaged(toy_images):
    def cost(seconds, each):
        stage = asdict(Stage("training", seconds, 10))
        record = {"synthesizer": {}, "cost": {"stages": [stage], "seconds_per_sample": each}}
        return replace(toy_images, provenance=record)

    row = compute_table({"a": [cost(1.0, 0.1), cost(3.0, 0.3)]}).iloc[0]
    assert row["seconds once"] == 2 and row["seconds per sample"] == pytest.approx(0.2)
    assert row["seconds in all"] == pytest.approx(2 + 18 * 0.2) and row["image updates"] == 10
    # A time that is not known is not zero.
    assert math.isnan(compute_table({"a": [cost(1.0, 0.1), cost(None, 0.1)]}).iloc[0]["seconds in all"])


def test_images_without_a_record_are_refused(toy_images):
    silent = replace(toy_images, provenance={"synthesizer": {}})
    with pytest.raises(ValueError, match='images of "a" do not say what they cost'):
        compute_table({"a": silent})
    with pytest.raises(ValueError, match='no images of "a"'):
        compute_table({"a": []})
