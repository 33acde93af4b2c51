"""Compressed vectors: what comes back is near what went in, and every byte is counted."""

import pytest
import torch

from diffinv.artefacts.compression import Packed, check_codec, own_and_shared, pack, packed_shards, unpack

CODECS = ("float32", "float16", "int8", "int4", "int3", "pca8", "pca16", "pq4", "pq16")


@pytest.fixture(scope="module")
def vectors():
    """200 images of 4 tokens with 16 channels, nearly all of whose variance lies in 4 directions."""
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(200, 4, 4, generator=generator) @ torch.randn(4, 16, generator=generator)
    return few + 0.05 * torch.randn(200, 4, 16, generator=generator)


def error(vectors, codec):
    return float((unpack(pack(vectors, codec), codec) - vectors).norm() / vectors.norm())


@pytest.mark.parametrize("codec", CODECS)
def test_what_comes_back_has_the_shape_and_kind_of_what_went_in(vectors, codec):
    back = unpack(pack(vectors, codec), codec)
    assert back.shape == vectors.shape and back.dtype == torch.float32
    assert torch.equal(back, unpack(pack(vectors, codec), codec)), "the same vectors give the same bytes"


def test_errors_are_no_larger_than_the_code_is_coarse(vectors):
    assert torch.equal(unpack(pack(vectors, "float32"), "float32"), vectors)
    assert 0 < error(vectors, "float16") < 2**-11
    for bits in range(2, 9):
        steps = vectors.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
        away = (unpack(pack(vectors, f"int{bits}"), f"int{bits}") - vectors).abs()
        assert (away <= 0.51 * steps).all()
    assert error(vectors, "int3") > error(vectors, "int8") > error(vectors, "float16")


def test_more_bytes_mean_smaller_errors(vectors):
    assert error(vectors, "pca2") > error(vectors, "pca4") > error(vectors, "pca8") > error(vectors, "pca16")
    assert error(vectors, "pca4") < 0.1, "four directions hold nearly everything"
    assert error(vectors, "pq2") > error(vectors, "pq4") > error(vectors, "pq16")
    small = [pack(vectors, codec).num_bytes for codec in ("pca2", "pca8", "int8", "float16", "float32")]
    assert small == sorted(small)


def test_the_bytes_are_those_of_codes_scales_and_what_is_shared(vectors):
    images, tokens, width = vectors.shape
    values = vectors.numel()
    assert pack(vectors, "float32").num_bytes == 4 * values
    assert pack(vectors, "float16").num_bytes == 2 * values
    assert pack(vectors, "int8").num_bytes == values + 2 * images * tokens
    assert pack(vectors, "int3").num_bytes == 3 * values / 8 + 2 * images * tokens + 4
    shared = 2 * (8 * width + width)
    assert pack(vectors, "pca8").num_bytes == images * tokens * (8 + 2) + shared
    assert pack(vectors, "pq4").num_bytes == images * tokens * 4 + 2 * 256 * width


@pytest.mark.parametrize("codec", CODECS)
def test_shards_hold_what_is_shared_once_and_join_again(vectors, codec):
    packed = pack(vectors, codec)
    shards = [packed.shard(slice(start, start + 64)) for start in range(0, 200, 64)]
    sizes = [sum(t.numel() * t.element_size() for t in shard.values()) for shard in shards]
    assert sum(sizes) == packed.num_bytes
    names, shared = own_and_shared(shards[0])
    joined = Packed({name: torch.cat([shard[name] for shard in shards]) for name in names}, shared)
    assert torch.equal(unpack(joined, codec), unpack(packed, codec))
    streamed = list(packed_shards(vectors, codec, 64))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(streamed, shards, strict=True) for name in b)


def test_a_token_of_zeros_and_a_large_one_survive_eight_bits():
    vectors = torch.stack([torch.zeros(1, 8), torch.full((1, 8), 1e-6), torch.linspace(-9e3, 9e3, 8)[None]])
    back = unpack(pack(vectors, "int8"), "int8")
    assert back.isfinite().all() and back[0].abs().max() == 0
    torch.testing.assert_close(back[2], vectors[2], rtol=0, atol=9e3 / 127)


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("zip", "no compression 'zip': choose float32, float16, int and the bits"),
        ("pq", "no compression 'pq'"),
        ("pca17", "17 components per token cannot be kept: choose from 1 to 16"),
        ("pq0", "0 parts per token"),
        ("pq3", "16 wide cannot be cut into 3 equal parts"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(vectors, codec, words):
    with pytest.raises(ValueError, match=words) as refused:
        pack(vectors, codec)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_too_few_vectors_for_a_codebook_are_refused(vectors):
    with pytest.raises(ValueError, match="20 vectors are too few for 256 centroids: choose int8"):
        pack(vectors[:5], "pq4")


def test_a_name_is_checked_without_vectors():
    check_codec("pca48")
    with pytest.raises(ValueError, match="'pca48x'"):
        check_codec("pca48x")


def test_bits_that_do_not_fill_a_byte_come_back():
    vectors = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    assert pack(vectors, "int3").per_image["embeddings"].shape == (3, 2, 2), "15 bits"
    whole = torch.arange(-3.0, 4).expand(3, 2, 7)
    assert torch.equal(unpack(pack(whole, "int3"), "int3"), whole)
