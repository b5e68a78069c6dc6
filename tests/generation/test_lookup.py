"""Prompt lookup: the same tokens as without, in fewer steps."""

import mlx.core as mx
import pytest

from mlx_lfm2vl import InputError, Sampling, generate
from mlx_lfm2vl.generation.lookup import Lookup
from mlx_lfm2vl.generation.loop import Drafts, generate_step
from mlx_lfm2vl.generation.sampling import draw_greedily
from mlx_lfm2vl.options import MAX_LOOKUP

GREEDY = Sampling()


def test_what_followed_the_last_three_tokens_is_tried():
    said = [1, 2, 3, 4, 5, 9, 1, 2, 3]
    assert Lookup(said, 2).draft() == [4, 5]
    assert Lookup(said, 8).draft() == [4, 5, 9, 1, 2, 3, 4, 5]  # and so on
    lookup = Lookup(said, 1)
    lookup.add(4)
    assert lookup.draft() == [5]
    lookup.add(7)
    assert lookup.draft() == []


def test_the_latest_place_counts():
    assert Lookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1).draft() == [5]


class Prophet:
    """A drafter that knows the answer, and errs in every third token of its one draft."""

    def __init__(self, answer):
        self.answer, self.said = answer, []

    def add(self, token):
        self.said.append(token)

    def draft(self):
        begin = len(self.said)
        # Asked after two tokens whether it knows more, and after three what that is.
        if begin not in (2, 3):
            return []
        right = self.answer[begin : begin + 2]
        return [*right, self.answer[begin + 2] + 1]


@pytest.mark.parametrize(("max_tokens", "tried", "accepted"), [(12, 3, 2), (5, 1, 1), (3, 0, 0)])
def test_drafts_and_what_is_right_of_them_are_counted(tiny, max_tokens, tried, accepted):
    model, _ = tiny

    def steps(most, **options):
        embeds, cache = model.embed([7, 9, 11, 13]), model.make_cache()
        found = generate_step(model, embeds, cache, draw_greedily, most, **options)
        return [token.id for token in found]

    plain, drafts = steps(12), Drafts()
    assert steps(max_tokens, drafter=Prophet(plain), drafts=drafts) == plain[:max_tokens]
    assert (drafts.tried, drafts.accepted) == (tried, accepted)


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


@pytest.mark.parametrize("lookup", [1, 4, MAX_LOOKUP])
@pytest.mark.parametrize("prompt", ["a b c d a b c d a b c", "Say it again: one two three."])
def test_the_answer_is_the_same(tiny, lookup, prompt):
    plain = generate(*tiny, prompt, max_tokens=120, sampling=GREEDY)
    copied = generate(*tiny, prompt, max_tokens=120, sampling=GREEDY, lookup=lookup)
    assert copied.token_ids == plain.token_ids
    assert copied.text == plain.text


def test_an_answer_that_repeats_itself_takes_fewer_steps(tiny):
    # A tiny random model falls into a loop sooner or later.
    result = generate(*tiny, "Hi", max_tokens=400, sampling=GREEDY, lookup=8)
    assert result.accepted_tokens > 60
    assert result.drafted_tokens >= result.accepted_tokens


@pytest.mark.parametrize(
    ("lookup", "sampling", "message"),
    [
        (-1, GREEDY, "lookup is -1, expected 0 to"),
        (MAX_LOOKUP + 1, GREEDY, "expected 0 to"),
        (4, Sampling(temperature=0.1), "needs greedy sampling"),
        (4, Sampling(repetition_penalty=1.05), "needs greedy sampling"),
    ],
)
def test_what_would_change_the_answer_is_refused(tiny, lookup, sampling, message):
    with pytest.raises(InputError, match=message):
        generate(*tiny, "Hi", sampling=sampling, lookup=lookup)


@pytest.mark.parametrize("max_tokens", [1, 2, 37, 61])
def test_the_answer_ends_where_it_would_even_within_a_guess(tiny, max_tokens):
    plain = generate(*tiny, "Hi", max_tokens=400, sampling=GREEDY)
    stop = plain.text[-30:-27]
    for settings in ({"max_tokens": max_tokens}, {"max_tokens": 400, "stop": stop}):
        expected = generate(*tiny, "Hi", sampling=GREEDY, **settings)
        copied = generate(*tiny, "Hi", sampling=GREEDY, lookup=6, **settings)
        assert copied.text == expected.text
        assert copied.token_ids == expected.token_ids
        assert copied.finish_reason == expected.finish_reason
        assert copied.accepted_tokens <= len(copied.token_ids)
