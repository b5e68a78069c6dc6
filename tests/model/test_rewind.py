"""Going back to any position: windows from keys and values alone, for every published pattern."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from conftest import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TEXT, lively

from mlx_lfm2vl.model.cache import Cache
from mlx_lfm2vl.model.conv_window import Window
from mlx_lfm2vl.model.language import LanguageModel
from mlx_lfm2vl.model.rewind import reach, rewind

ATTENTIONS = {  # layers and which of them are attentions, as published
    "450M": (16, (2, 5, 8, 10, 12, 14)),
    "3B": (30, (2, 5, 9, 13, 17, 21, 24, 27)),
    "thirteen": (16, (3, 7, 11)),  # thirteen convolutions
}


def decoder_of(layers: int, attentions: tuple[int, ...], taps: int = 3) -> LanguageModel:
    types = tuple("full_attention" if i in attentions else "conv" for i in range(layers))
    decoder = lively(LanguageModel(replace(TEXT, layer_types=types, conv_L_cache=taps)))
    for layer in decoder.layers if taps > 3 else ():
        if not layer.is_attention:  # the oldest of many inputs would hardly matter
            layer.conv.conv.weight[:, 0] *= 8
    return decoder


@pytest.fixture(scope="module", params=[("450M", 3), ("3B", 3), ("thirteen", 7)], ids=str)
def decoder(request) -> LanguageModel:
    name, taps = request.param
    return decoder_of(*ATTENTIONS[name], taps)


def ids_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, TEXT.vocab_size, length).tolist()


def embedded(decoder: LanguageModel, ids: list[int]) -> mx.array:
    return decoder.embed_tokens(mx.array([ids]))


def filled(decoder: LanguageModel, ids: list[int]) -> Cache:
    cache = decoder.make_cache()
    if ids:
        decoder(embedded(decoder, ids), cache)
    return cache


def back(decoder: LanguageModel, cache: Cache, ids: list[int], to: int, less: int = 0) -> None:
    length = min(to, reach(decoder))
    embeds = embedded(decoder, ids[to - length : to] or [0])[:, :length]
    if less:  # as if the reach were shorter
        again = cache.reread(to - length + less)
        decoder(embeds[:, less:], again)
        cache.back(to, again.windows)
    else:
        rewind(decoder, cache, to, embeds)


def window_error(cache: Cache, expected: Cache) -> float:
    """The largest difference, relative to the largest value of the same window."""

    def error(ours: Window, theirs: Window) -> float:
        a, b = mx.stack(ours), mx.stack(theirs)
        return (mx.abs(a - b).max() / mx.abs(b).max()).item()

    return max(map(error, cache.windows, expected.windows))


@pytest.mark.parametrize("to", [1, 5, 100, 137])
def test_windows_of_any_position_come_back_from_keys_and_values(decoder, to):
    ids = ids_of(140)
    cache = filled(decoder, ids)
    back(decoder, cache, ids, to)
    assert cache.offset == to
    # Exactly 0 where the kernels do not depend on the length; a CPU has some that do.
    assert window_error(cache, filled(decoder, ids[:to])) < 1e-5


def test_one_token_fewer_does_not_restore_them(decoder):
    ids = ids_of(120)
    expected = filled(decoder, ids[:100])
    enough, fewer = filled(decoder, ids), filled(decoder, ids)
    back(decoder, enough, ids, 100)
    back(decoder, fewer, ids, 100, less=1)
    assert window_error(fewer, expected) > 10 * window_error(enough, expected)


def test_reading_again_writes_no_keys_or_values(decoder):
    ids = ids_of(60)
    cache = filled(decoder, ids)
    before = {name: np.array(value) for name, value in cache.state.items() if "window" not in name}
    back(decoder, cache, ids, 57)
    for name, value in cache.state.items():
        if "window" not in name:
            np.testing.assert_array_equal(np.array(value), before[name][:, :, :57])


def test_position_zero_is_the_beginning(decoder):
    ids = ids_of(30)
    cache = filled(decoder, ids)
    back(decoder, cache, ids, 0)
    x = decoder(embedded(decoder, ids), cache)
    assert relative_error(x, decoder(embedded(decoder, ids))) < 1e-6


def test_positions_outside_and_the_wrong_number_of_embeddings_are_refused(decoder):
    ids = ids_of(10)
    cache = filled(decoder, ids)
    for to in (11, -1):
        with pytest.raises(ValueError, match=f"cannot go back from position 10 to {to}"):
            cache.back(to, cache.windows)
    with pytest.raises(ValueError, match="3 embeddings to go back to 5, expected 5"):
        rewind(decoder, cache, 5, embedded(decoder, ids[:3]))


SMALL = decoder_of(5, (1, 4))


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_any_sequence_of_readings_and_returns_equals_a_fresh_one(data):
    """Read, go back to anywhere, read something else, fork, and so on."""
    held: list[int] = []
    cache = SMALL.make_cache()
    for turn in range(data.draw(st.integers(1, 5))):
        new = ids_of(data.draw(st.integers(1, 40)), seed=turn)
        hidden = SMALL(embedded(SMALL, new), cache)
        held += new
        expected = SMALL(embedded(SMALL, held))[:, -len(new) :]
        assert relative_error(hidden, expected) < 1e-5
        if data.draw(st.booleans()):
            cache = cache.fork()
        to = data.draw(st.integers(0, len(held)))
        back(SMALL, cache, held, to)
        held = held[:to]


@pytest.mark.parametrize(("name", "tokens"), [("450M", 20), ("3B", 44)])
def test_the_reach_is_that_of_the_published_models(name, tokens):
    assert reach(decoder_of(*ATTENTIONS[name])) == tokens
