"""The decoder: reading positions of which only the last ones are asked for."""

from dataclasses import replace

import mlx.core as mx
import pytest
from conftest import relative_error
from networks import TEXT, lively

from mlx_lfm2vl.model.cache import Cache, Rows
from mlx_lfm2vl.model.language import FeedForward, LanguageModel

LAYERS = {
    "ends in attention": ("conv", "full_attention", "conv", "full_attention"),
    "ends in convolutions": ("full_attention", "conv", "full_attention", "conv", "conv"),
    "has convolutions alone": ("conv", "conv", "conv"),
}
EMBEDS = mx.random.normal((2, 12, TEXT.hidden_size), key=mx.random.key(1))


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def decoder(request) -> LanguageModel:
    decoder = LanguageModel(replace(TEXT, layer_types=request.param))
    lively(decoder)
    return decoder


def assert_equal(ours: Cache, other: Cache) -> None:
    assert ours.offset == other.offset
    for name, array in ours.state.items():
        assert relative_error(array, other.state[name]) < 1e-5, name


@pytest.mark.parametrize("read", [0, 3])
@pytest.mark.parametrize("last", [1, 3, 9])
def test_the_last_positions_are_those_of_all(decoder, last, read):
    caches = [decoder.make_cache(), decoder.make_cache()]
    if read:
        for cache in caches:
            decoder(EMBEDS[:, :read], cache)
    whole = decoder(EMBEDS[:, read:], caches[0])
    some = decoder(EMBEDS[:, read:], caches[1], last)
    assert relative_error(some, whole[:, -last:]) < 1e-5
    assert_equal(*caches)
    following = [decoder(EMBEDS[:, :2], cache) for cache in caches]
    assert relative_error(*following) < 1e-5


def test_rows_of_different_lengths_have_the_same_last_positions(decoder):
    parts = []
    for row, length in enumerate((5, 2)):
        parts.append(Rows(decoder.make_cache(), [0]))
        decoder(EMBEDS[row : row + 1, :length], parts[-1].cache)
    whole, some = (decoder(EMBEDS[:, 5:], Cache.joined(parts), last) for last in (None, 2))
    assert relative_error(some, whole[:, -2:]) < 1e-5


def test_tapped_layers_give_all_positions(decoder):
    taps = [0, len(decoder.layers) - 1]
    whole, expected = decoder.tapped(EMBEDS, None, taps)
    some, outputs = decoder.tapped(EMBEDS, None, taps, last=1)
    assert relative_error(some, whole[:, -1:]) < 1e-5
    for ours, theirs in zip(outputs, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_a_step_that_left_out_positions_cannot_be_trimmed(decoder):
    cache = decoder.make_cache()
    decoder(EMBEDS, cache, 1)
    assert not cache.can_trim(1)


def test_layers_from_the_last_attention_on_compute_what_is_asked_for(monkeypatch):
    rows: list[int] = []
    call = FeedForward.__call__

    def counted(layer: FeedForward, x: mx.array) -> mx.array:
        rows.append(x.shape[1])
        return call(layer, x)

    monkeypatch.setattr(FeedForward, "__call__", counted)
    decoder = LanguageModel(replace(TEXT, layer_types=LAYERS["ends in convolutions"]))
    decoder(EMBEDS, None, 1)
    assert rows == [12, 12, 5, 3, 1]  # a convolution of three taps looks back two positions
