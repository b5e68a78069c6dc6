"""Prompt lookup: the same tokens as without, in fewer steps."""

import mlx.core as mx
import pytest

from mlx_lfm2vl import InputError, Sampling, generate
from mlx_lfm2vl.generation.lookup import Lookup
from mlx_lfm2vl.options import MAX_LOOKUP

GREEDY = Sampling()


def test_what_followed_the_last_three_tokens_is_tried():
    said = [1, 2, 3, 4, 5, 9, 1, 2, 3]
    assert Lookup(said, 2).draft(9) == [4, 5]
    assert Lookup(said, 8).draft(9) == [4, 5, 9, 1, 2, 3, 4, 5]  # and so on
    lookup = Lookup(said, 1)
    lookup.add(4)
    assert lookup.draft(9) == [5]
    lookup.add(7)
    assert lookup.rests
    assert lookup.draft(9) == []


def test_the_latest_place_counts():
    assert Lookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1).draft(9) == [5]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_a_rewound_cache_goes_on_as_if_nothing_had_come(tiny, count):
    model, _ = tiny
    ids = [7, 9, 11, 13, 15, 17, 19, 21]
    decoder = model.language_model
    fresh, rewound = model.make_cache(), model.make_cache()
    for cache, more in ((fresh, []), (rewound, [30, 31, 32, 33, 34][:count])):
        decoder(model.embed(ids[:3]), cache)
        decoder(model.embed([*ids[3:5], *more]), cache)
    rewound.trim(count)
    assert rewound.offset == fresh.offset == 5
    for token in ids[5:]:
        expected, actual = (decoder(model.embed([token]), cache) for cache in (fresh, rewound))
        assert mx.allclose(expected, actual, atol=1e-6)


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        ("a b c d a b c d a b c", GREEDY),
        ("Say it again: one two three.", Sampling(0.3, repetition_penalty=1.05)),
    ],
)
def test_the_answer_is_the_same(tiny, prompt, sampling):
    options = {"max_tokens": 40, "sampling": sampling, "seed": 5}
    plain = generate(*tiny, prompt, **options)
    for lookup in (1, 4, MAX_LOOKUP):
        copied = generate(*tiny, prompt, **options, lookup=lookup)
        assert copied.token_ids == plain.token_ids
        assert copied.text == plain.text


def test_an_answer_that_repeats_itself_takes_fewer_steps(tiny):
    # A tiny random model falls into a loop sooner or later.
    result = generate(*tiny, "Look", max_tokens=60, sampling=GREEDY, lookup=8)
    assert result.accepted_tokens > 30
    assert result.drafted_tokens >= result.accepted_tokens


@pytest.mark.parametrize(
    ("lookup", "sampling", "message"),
    [
        (-1, GREEDY, "lookup is -1, expected 0 to"),
        (MAX_LOOKUP + 1, GREEDY, "expected 0 to"),
    ],
)
def test_what_would_change_the_answer_is_refused(tiny, lookup, sampling, message):
    with pytest.raises(InputError, match=message):
        generate(*tiny, "Hi", sampling=sampling, lookup=lookup)


def test_the_answer_ends_where_it_would_even_within_a_guess(tiny):
    ask = {"sampling": GREEDY, "max_tokens": 160}
    plain = generate(*tiny, "Look", **ask)
    limits = [{"max_tokens": count} for count in (1, 2, 60)]
    for changes in (*limits, {"stop": plain.text[-30:-27]}):
        expected = generate(*tiny, "Look", **{**ask, **changes})
        copied = generate(*tiny, "Look", **{**ask, **changes}, lookup=6)
        assert copied.text == expected.text
        assert copied.token_ids == expected.token_ids
        assert copied.finish_reason == expected.finish_reason
        assert copied.accepted_tokens <= len(copied.token_ids)
    assert copied.accepted_tokens > 20
