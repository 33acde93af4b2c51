"""Properties of the synthesizers: prefixes, subsets, the cache, labels, what is refused before any work."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from diffinv import (
    DiffusionInversion,
    EmbeddingStore,
    Inversion,
    LabelledImages,
    Perturbation,
    Prompts,
    Real,
    Sampling,
    Synthesizer,
    invert,
    load_dataset,
)
from diffinv.synthesizers import base

FAST = {
    "inversion": Inversion(num_tokens=2, steps_per_image=3),
    "sampling": Sampling(num_inference_steps=2, batch_size=8),
}


def inversion_of(diffusion, **changes):
    return DiffusionInversion(diffusion, **{**FAST, **changes})


def prompts_of(diffusion, **changes):
    return Prompts(diffusion, **{"sampling": FAST["sampling"], **changes})


@pytest.fixture(params=[inversion_of, prompts_of], ids=["DiffusionInversion", "Prompts"])
def make(request):
    return request.param


def close(first, second):
    return np.abs(first.astype(int) - second.astype(int)).max() <= 1


def count_draws(monkeypatch):
    """Record how many samples are drawn instead of read."""
    drawn = []
    for module in ("diffusion_inversion", "prompts"):
        place = import_module(f"diffinv.synthesizers.{module}")
        genuine = place.sample

        def counting(diffusion, conditioning, *rest, genuine=genuine, **more):
            drawn.append(len(conditioning))
            return genuine(diffusion, conditioning, *rest, **more)

        monkeypatch.setattr(place, "sample", counting)
    return drawn


def test_samples_carry_their_sources_label_and_name(make, tiny_diffusion, toy_images):
    synthetic = make(tiny_diffusion)(toy_images, images_per_real=2, seed=0)
    assert isinstance(synthetic, LabelledImages)
    assert len(synthetic) == 2 * len(toy_images) and synthetic.resolution == toy_images.resolution
    label_of = dict(zip(toy_images.ids, toy_images.labels, strict=True))
    assert all(
        label_of[source] == label for source, label in zip(synthetic.sources, synthetic.labels, strict=True)
    )
    assert synthetic.ids[: len(toy_images)] == tuple(f"{name}#0" for name in toy_images.ids)
    assert len(set(synthetic.ids)) == len(synthetic)
    assert synthetic.class_names == toy_images.class_names
    record = json.loads(json.dumps(synthetic.provenance))
    assert record["seed"] == 0 and record["synthesizer"] == make(tiny_diffusion).describe()


def test_fewer_samples_are_a_prefix_of_more(make, tiny_diffusion, toy_images, monkeypatch, tmp_path):
    synthesizer = make(tiny_diffusion)
    monkeypatch.setattr(base, "SAMPLES_PER_SHARD", 25)  # 2 x 18 and 4 x 18 samples do not end with a shard
    four = synthesizer(toy_images, images_per_real=4, seed=0)
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    two = synthesizer(toy_images, images_per_real=2, seed=0)
    assert four.ids[: len(two)] == two.ids
    assert close(four.images[: len(two)], two.images)
    drawn = count_draws(monkeypatch)
    grown = synthesizer(toy_images, images_per_real=4, seed=0)
    assert sum(drawn) == 2 * len(toy_images)  # only the missing half
    assert close(grown.images, four.images)


def test_another_seed_is_another_set(make, tiny_diffusion, toy_images):
    one, two = (make(tiny_diffusion)(toy_images, images_per_real=1, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.images, two.images)


def test_the_batch_size_leaves_no_trace(make, tiny_diffusion, toy_images, monkeypatch, tmp_path):
    whole = make(tiny_diffusion)(toy_images, images_per_real=1, seed=0)
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    other = make(tiny_diffusion, sampling=replace(FAST["sampling"], batch_size=5))
    assert other.describe() == make(tiny_diffusion).describe()
    assert close(whole.images, other(toy_images, images_per_real=1, seed=0).images)


def test_cached_samples_equal_recomputed_ones(make, tiny_diffusion, toy_images, monkeypatch, tmp_path):
    synthesizer = make(tiny_diffusion)
    first = synthesizer(toy_images, images_per_real=2, seed=0)
    drawn = count_draws(monkeypatch)
    assert np.array_equal(synthesizer(toy_images, images_per_real=2, seed=0).images, first.images)
    assert drawn == []
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    assert np.array_equal(synthesizer(toy_images, images_per_real=2, seed=0).images, first.images)
    assert sum(drawn) == 2 * len(toy_images)


def test_an_interrupted_run_continues(make, tiny_diffusion, toy_images, monkeypatch, tmp_path):
    monkeypatch.setattr(base, "SAMPLES_PER_SHARD", 9)
    synthesizer = make(tiny_diffusion)
    whole = synthesizer(toy_images, images_per_real=2, seed=0)
    monkeypatch.setenv("DIFFINV_CACHE", str(tmp_path))
    genuine, written = base.write_cached_json, []

    def interrupted(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(1)
        return genuine(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(base, "write_cached_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthesizer(toy_images, images_per_real=2, seed=0)
    drawn = count_draws(monkeypatch)
    resumed = synthesizer(toy_images, images_per_real=2, seed=0)
    assert sum(drawn) == 2 * len(toy_images) - 2 * 9
    assert np.array_equal(resumed.images, whole.images)


@pytest.mark.parametrize("place", [None, -5], ids=["cut", "a bit flipped"])
def test_a_damaged_shard_is_drawn_again(make, tiny_diffusion, toy_images, fresh_cache, place):
    synthesizer = make(tiny_diffusion)
    first = synthesizer(toy_images, images_per_real=1, seed=0)
    (shard,) = fresh_cache.glob("samples/*/*.npy")
    data = bytearray(shard.read_bytes())
    if place is None:
        del data[200:]
    else:
        data[place] ^= 0x40
    shard.write_bytes(data)
    assert np.array_equal(synthesizer(toy_images, images_per_real=1, seed=0).images, first.images)


def test_another_real_set_is_another_cache_entry(tiny_diffusion, toy_images, fresh_cache):
    synthesizer = inversion_of(tiny_diffusion)
    synthesizer(toy_images, images_per_real=1, seed=0)
    synthesizer(toy_images.subset(range(2, len(toy_images))), images_per_real=1, seed=0)
    assert len(list((fresh_cache / "samples").iterdir())) == 2


def test_without_partners_and_mean_a_sample_is_its_own_images_alone(tiny_diffusion, toy_images):
    synthesizer = inversion_of(
        tiny_diffusion,
        perturbation=Perturbation(interpolation_weight=0),
        sampling=replace(FAST["sampling"], guidance_scale=1),
    )
    rows = [1, 7, 13]
    whole = synthesizer(toy_images, images_per_real=1, seed=0)
    alone = synthesizer(toy_images.subset(rows), images_per_real=1, seed=0)
    assert close(whole.images[rows], alone.images)


@pytest.mark.parametrize("unconditional", ["class_mean", "empty_prompt"])
def test_every_unconditional_vector_works(tiny_diffusion, toy_images, unconditional):
    synthesizer = inversion_of(tiny_diffusion, perturbation=Perturbation(unconditional=unconditional))
    default = inversion_of(tiny_diffusion)(toy_images, images_per_real=1, seed=0)
    assert not np.array_equal(synthesizer(toy_images, images_per_real=1, seed=0).images, default.images)


def test_samples_are_drawn_at_the_setting_and_saved_at_the_real_side(make, tiny_diffusion, toy_images):
    larger = make(tiny_diffusion, sampling=replace(FAST["sampling"], resolution=24))
    default = make(tiny_diffusion)(toy_images, images_per_real=1, seed=0)
    synthetic = larger(toy_images, images_per_real=1, seed=0)
    assert synthetic.resolution == toy_images.resolution == 16
    assert not np.array_equal(synthetic.images, default.images)


def test_the_class_name_reaches_the_prompt(tiny_diffusion, toy_images):
    assert prompts_of(tiny_diffusion, template="one {}").prompt("fire_truck") == "one fire truck"
    icons = prompts_of(tiny_diffusion)(toy_images, images_per_real=1, seed=0)
    others = prompts_of(tiny_diffusion, template="{} zzz")(toy_images, images_per_real=1, seed=0)
    assert not np.array_equal(icons.images, others.images)
    for template in ("a thing", "{} or {}"):
        with pytest.raises(ValueError, match=r"write \{\} once"):
            Prompts(tiny_diffusion, template=template)


def test_samples_that_start_from_their_original_resemble_it(tinysd):
    real = load_dataset("icons10", split="test").per_class(2, seed=0)
    sampling = Sampling(1.0, 10, "DPMSolverMultistepScheduler", resolution=32)
    perturbation = Perturbation(noise_std=0.1, interpolation_weight=0)
    inversion = Inversion(num_tokens=2, steps_per_image=1)

    def made(strength):
        method = DiffusionInversion(tinysd, inversion, perturbation, replace(sampling, strength=strength))
        return method(real, images_per_real=2, seed=0).images.astype(float)

    originals = np.concatenate([real.images, real.images])  # samples come copy by copy
    away = [np.square(made(strength) - originals).mean() for strength in (0.1, 0.5, 1.0)]
    assert away == sorted(away) and away[0] < 0.2 * away[-1]
    near = DiffusionInversion.from_store(
        tinysd, invert(tinysd, real.resize(32), inversion), perturbation, replace(sampling, strength=0.5)
    )
    assert np.array_equal(near(real, images_per_real=2, seed=0).images, made(0.5).astype(np.uint8))
    with pytest.raises(ValueError, match=r"strength is 0.5 and needs the real images: give them\.$"):
        near(images_per_real=2, seed=0)
    with pytest.raises(ValueError, match=r"strength is 0.5 and needs the latents"):
        Prompts(tinysd, sampling=replace(sampling, strength=0.5))(real, images_per_real=1, seed=0)


def test_settings_that_came_later_leave_old_samples_where_they_are(tiny_diffusion):
    described = inversion_of(tiny_diffusion).describe()["sampling"]
    assert not described.keys() & {"strength", "guidance_interval"}
    changes = {"strength": 0.5, "guidance_interval": (0.2, 0.8)}
    changed = inversion_of(tiny_diffusion, sampling=replace(FAST["sampling"], **changes)).describe()
    assert changes.items() <= changed["sampling"].items()


def test_real_is_the_identity(toy_images):
    assert Real()(toy_images, images_per_real=7, seed=3) is toy_images
    assert isinstance(Real(), Synthesizer)


def test_descriptions_are_json_and_tell_settings_apart(make, tiny_diffusion, v_prediction_diffusion):
    assert isinstance(make(tiny_diffusion), Synthesizer)
    described = make(tiny_diffusion).describe()
    assert json.loads(json.dumps(described)) == described
    assert make(v_prediction_diffusion).describe() != described
    slower = make(tiny_diffusion, sampling=replace(FAST["sampling"], num_inference_steps=3))
    assert slower.describe() != described


def test_what_cannot_be_used_is_refused_before_any_work(tiny_diffusion, toy_images, fresh_cache):
    single = toy_images.subset([0, 1, 6])
    cases = [
        (inversion_of(tiny_diffusion), single, 1, "single image"),
        (inversion_of(tiny_diffusion), toy_images, 0, "images_per_real is 0"),
        (inversion_of(tiny_diffusion), toy_images.subset([]), 1, "holds no image"),
        (inversion_of(tiny_diffusion, sampling=Sampling(resolution=20)), toy_images, 1, "resolution 20"),
        (inversion_of(tiny_diffusion, sampling=Sampling(scheduler="Nope")), toy_images, 1, "Nope"),
        (prompts_of(tiny_diffusion, sampling=Sampling(resolution=20)), toy_images, 1, "resolution 20"),
        (prompts_of(tiny_diffusion), toy_images, -1, "images_per_real is -1"),
    ]
    for synthesizer, real, images_per_real, culprit in cases:
        with pytest.raises(ValueError, match=culprit):
            synthesizer(real, images_per_real=images_per_real, seed=0)
    assert list(fresh_cache.iterdir()) == []
    without = inversion_of(tiny_diffusion, perturbation=Perturbation(interpolation_weight=0))
    assert len(without(single, images_per_real=1, seed=0)) == 3


def test_stage_two_alone_draws_the_samples_of_the_whole_method(
    tiny_diffusion, toy_images, monkeypatch, tmp_path, fresh_cache
):
    whole = inversion_of(tiny_diffusion)(toy_images, images_per_real=3, seed=1)
    store = invert(tiny_diffusion, toy_images, FAST["inversion"])
    store.save(tmp_path / "store")
    loaded = EmbeddingStore.load(tmp_path / "store")
    alone = DiffusionInversion.from_store(tiny_diffusion, loaded, sampling=FAST["sampling"])
    drawn = count_draws(monkeypatch)
    synthetic = alone(images_per_real=3, seed=1)
    assert np.array_equal(synthetic.images, whole.images) and synthetic.ids == whole.ids
    assert synthetic.provenance["cost"]["stages"] == whole.provenance["cost"]["stages"]
    assert synthetic.sources == whole.sources and np.array_equal(synthetic.labels, whole.labels)
    assert sum(drawn) == len(synthetic)
    # It goes through the cache as every synthesizer does, and beside real images takes their vectors alone.
    assert np.array_equal(alone(images_per_real=3, seed=1).images, synthetic.images)
    assert sum(drawn) == len(synthetic)
    few = toy_images.per_class(2, seed=0)
    of_few = alone(few, images_per_real=1, seed=1)
    expected = inversion_of(tiny_diffusion)(few, images_per_real=1, seed=1)
    assert close(of_few.images, expected.images) and of_few.sources == few.ids


def test_what_stage_two_alone_cannot_do_is_refused(tiny_diffusion, v_prediction_diffusion, toy_images):
    store = invert(tiny_diffusion, toy_images.subset(range(12)), FAST["inversion"])
    with pytest.raises(ValueError, match="whose weights are not those of"):
        DiffusionInversion.from_store(v_prediction_diffusion, store)
    alone = DiffusionInversion.from_store(tiny_diffusion, store)
    with pytest.raises(ValueError, match="no vectors of 6 of 18 images, 'train/cross/0000' for one"):
        alone(toy_images)
    with pytest.raises(ValueError, match="images_per_real is 0"):
        alone(images_per_real=0)
    whole = DiffusionInversion.from_store(
        tiny_diffusion, invert(tiny_diffusion, toy_images, FAST["inversion"])
    )
    turned = replace(toy_images, labels=(toy_images.labels + 1) % 3)
    with pytest.raises(ValueError, match="knows these images by other labels"):
        whole(turned)
    with pytest.raises(ValueError, match="whose weights are not those of"):
        replace(alone, diffusion=v_prediction_diffusion)
    with pytest.raises(ValueError, match="vectors are for 16 px: use from_store"):
        replace(alone, sampling=Sampling(resolution=32))
    with pytest.raises(ValueError, match="no real images to invert"):
        inversion_of(tiny_diffusion)()
