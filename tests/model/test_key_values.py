"""Quantized keys and values: what they cost, and that their cache does all that another does."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from conftest import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TEXT, lively

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.model.attention import attend
from mlx_lfm2vl.model.cache import Cache, Rows
from mlx_lfm2vl.model.key_values import BLOCK, QuantizedKeyValueCache, group_of
from mlx_lfm2vl.model.language import LanguageModel
from mlx_lfm2vl.model.rewind import reach, rewind

TYPES = ("conv", "full_attention", "conv", "full_attention")


@pytest.fixture(scope="module")
def decoder() -> LanguageModel:
    return lively(LanguageModel(replace(TEXT, head_dim=32, layer_types=TYPES)))


def read(decoder, ids, cache) -> mx.array:
    return decoder(decoder.embed_tokens(mx.array([ids])), cache)


def ids_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, TEXT.vocab_size, length).tolist()


def filled(decoder, ids, bits=8) -> Cache:
    cache = decoder.make_cache(bits)
    read(decoder, ids, cache)
    return cache


@pytest.mark.parametrize(("bits", "least", "most"), [(8, 1e-4, 2e-2), (4, 1e-3, 0.3)])
def test_the_error_is_that_of_rounding(decoder, bits, least, most):
    ids = ids_of(60)
    x = read(decoder, ids, decoder.make_cache(bits))
    assert least < relative_error(x, read(decoder, ids, decoder.make_cache())) < most


@pytest.mark.parametrize(("bits", "of_sixteen"), [(8, 0.625), (4, 0.375)])
def test_memory_is_that_of_the_bits_and_of_two_floats_per_group(decoder, bits, of_sixteen):
    """Groups of 32: 8 + 2 bits for a number, or 4 + 2; groups of 64 take 8 + 1, or 4 + 1."""
    quantized, plain = decoder.make_cache(bits), decoder.make_cache()
    for cache in (quantized, plain):
        read(decoder, ids_of(40), cache)  # after a short step its inputs are kept, too
    windows = sum(row.nbytes for window in plain.windows for row in window)
    assert (quantized.nbytes - windows) / (plain.nbytes - windows) == of_sixteen / 2


@pytest.mark.parametrize("bits", [8, 4])
def test_a_step_equals_reading_at_once(decoder, bits):
    """One position attends to codes, several to a dequantized copy."""
    ids = ids_of(70)
    at_once = read(decoder, ids, decoder.make_cache(bits))
    cache = filled(decoder, ids[:40], bits)
    steps = mx.concatenate([read(decoder, [token], cache) for token in ids[40:]], axis=1)
    assert relative_error(steps, at_once[:, 40:]) < 1e-5


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_attention_to_codes_keeps_the_dtype_and_is_exact_in_half_precision(dtype):
    mx.random.seed(0)
    q = (mx.random.normal((2, 4, 1, 64)) * 4).astype(dtype)
    k, v = ((mx.random.normal((2, 2, 50, 64)) * 4).astype(dtype) for _ in range(2))
    cache = QuantizedKeyValueCache(8)
    keys, values = cache.update(k, v, 0)
    seen = attend(q, keys, values, 0.125, causal=True)
    wide = [part.dequantized() for part in (keys, values)]
    expected = attend(q.astype(mx.float32), *wide, 0.125, causal=True)
    assert seen.dtype == dtype
    assert relative_error(seen.astype(mx.float32), expected) < 2 ** -(
        10 if dtype == mx.float16 else 7
    )


def test_blocks_are_added_without_changing_what_is_stored(decoder):
    ids = ids_of(BLOCK + 20)
    cache = filled(decoder, ids[: BLOCK - 5])
    x = read(decoder, ids[BLOCK - 5 :], cache)
    assert cache.layers[1].arrays[0].shape[2] == 2 * BLOCK
    expected = read(decoder, ids, decoder.make_cache(8))[:, BLOCK - 5 :]
    assert relative_error(x, expected) < 1e-5


def test_a_batch_of_different_lengths_equals_single_sequences(decoder):
    prompts = [ids_of(30, 1), ids_of(9, 2), ids_of(21, 3)]
    batch = Cache.joined([Rows(filled(decoder, ids), [0]) for ids in prompts])
    assert batch.kv_bits == 8
    together = decoder(decoder.embed_tokens(mx.array([[7], [8], [9]])), batch)
    for row, (ids, token) in enumerate(zip(prompts, (7, 8, 9), strict=True)):
        alone = read(decoder, [token], filled(decoder, ids))
        assert relative_error(together[row : row + 1], alone) < 1e-5


def test_it_is_saved_and_restored(decoder, tmp_path):
    cache = filled(decoder, ids_of(20), 4)
    path = str(tmp_path / "cache.safetensors")
    mx.save_safetensors(path, cache.state, cache.meta_state)
    again = Cache.from_state(*mx.load(path, return_metadata=True))
    assert {name for name in cache.state if name[0] == "1"} == {"1.codes", "1.scales", "1.biases"}
    assert relative_error(read(decoder, [5, 6], again), read(decoder, [5, 6], cache)) < 1e-6


@pytest.mark.parametrize("bits", ["0", "3", "8.0"])
def test_a_saved_cache_of_other_bits_is_refused(decoder, bits):
    cache = filled(decoder, ids_of(20))
    with pytest.raises(ValueError, match="saved cache"):
        Cache.from_state(cache.state, {**cache.meta_state, "kv_bits": bits})


@pytest.mark.parametrize("part", ["codes", "scales", "biases"])
@pytest.mark.parametrize("damage", ["heads", "size", "dtype", "axes"])
def test_saved_codes_that_do_not_fit_their_scales_are_refused(decoder, part, damage):
    cache = filled(decoder, ids_of(20))
    array = cache.state[f"1.{part}"]
    changed = {
        "heads": array[:, :1],
        "size": mx.concatenate([array] * 3, axis=3),
        "dtype": array.astype(mx.float16),
        "axes": array[0],
    }
    state = {**cache.state, f"1.{part}": changed[damage]}
    with pytest.raises(ValueError, match="saved cache"):
        Cache.from_state(state, cache.meta_state)


def test_a_cache_saved_before_there_were_bits_is_read(decoder):
    cache = filled(decoder, ids_of(8), 0)
    meta = {name: value for name, value in cache.meta_state.items() if name != "kv_bits"}
    assert Cache.from_state(cache.state, meta).kv_bits == 0


@settings(max_examples=10, deadline=None)
@given(data=st.data(), bits=st.sampled_from([4, 8]))
def test_any_sequence_of_readings_and_returns_equals_a_fresh_one(decoder, data, bits):
    held: list[int] = []
    cache = decoder.make_cache(bits)
    for turn in range(data.draw(st.integers(1, 5))):
        new = ids_of(data.draw(st.integers(1, 40)), seed=turn)
        hidden = read(decoder, new, cache)
        held += new
        expected = read(decoder, held, decoder.make_cache(bits))[:, -len(new) :]
        # Rounding of an input can move a number to the next code, as far as float32 goes.
        assert relative_error(hidden, expected) < (2e-3 if bits == 8 else 2e-2)
        if data.draw(st.booleans()):
            cache = cache.fork()
        to = data.draw(st.integers(0, len(held)))
        length = min(to, reach(decoder))
        embeds = decoder.embed_tokens(mx.array([held[to - length : to] or [0]]))[:, :length]
        rewind(decoder, cache, to, embeds)
        held = held[:to]


def test_heads_that_no_group_divides_are_refused_in_one_line():
    assert [group_of(size) for size in (32, 64, 96, 128)] == [32, 64, 32, 64]
    with pytest.raises(InputError) as caught:
        LanguageModel(TEXT).make_cache(8)
    assert str(caught.value) == (
        "kv_bits needs heads whose size is a multiple of 32; this model's is 8"
    )
