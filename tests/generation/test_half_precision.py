"""What holds in half precision, where kernels round by the shapes that they see."""

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import AnswerOptions, Engine, Sampling, user_message
from mlx_lfm2vl.generation.lookup import Lookup
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.loading import load

OPTIONS = AnswerOptions(max_tokens=12, sampling=Sampling(), logprobs=True)


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def half(request):
    return load(golden("new_names").folder, dtype=request.param)


def test_what_is_read_after_an_image_repeats_the_calls_of_a_fresh_run(half):
    """The end of an image is the end of a segment, so the same positions are read in one pass."""
    picture = make_picture(60, 44, 2)
    engine, fresh = Engine(*half, store=PrefixStore()), Engine(*half, store=PrefixStore())
    engine.generate(user_message("What is it?", [picture]), OPTIONS)
    messages = user_message("Which colors are there in it?", [picture])
    again, first = engine.generate(messages, OPTIONS), fresh.generate(messages, OPTIONS)
    assert again.cached_tokens > 5
    assert (again.token_ids, again.logprobs) == (first.token_ids, first.logprobs)


def test_a_drafted_answer_may_differ_by_rounding_only(half, monkeypatch):
    plain = Engine(*half).generate("Look", OPTIONS)
    knowing = Lookup(plain.token_ids, 3)  # as if the prompt had held the answer
    monkeypatch.setattr("mlx_lfm2vl.generation.assisted.make_drafter", lambda *_: knowing)
    drafted = Engine(*half).generate("Look", OPTIONS, lookup=3)
    pairs = enumerate(zip(plain.token_ids, drafted.token_ids, strict=False))
    first = next((place for place, (one, other) in pairs if one != other), len(plain.token_ids))
    # The first two that differ are equally likely; what follows them is another answer.
    assert plain.logprobs[: first + 1] == pytest.approx(drafted.logprobs[: first + 1], abs=0.1)
    assert drafted.drafted_tokens >= 6
