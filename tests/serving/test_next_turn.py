"""What answers have read is kept: the next turn of a conversation reads only its own tokens."""

from dataclasses import replace

import numpy as np
import pytest
from exchanges import TERMS
from pictures import make_picture

from mlx_lfm2vl import AnswerOptions, Engine, Sampling, load, load_drafter, regex
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.model.decode_step import prefill
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.preparing import prepare
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.request import Request
from mlx_lfm2vl.serving.under_way import UnderWay

GREEDY = AnswerOptions(sampling=Sampling(), max_tokens=16)
PICTURE = make_picture(60, 60, 1)
FIRST = user_message("What is it?", [PICTURE])
MORE = user_message("And where is it?")


@pytest.fixture(scope="module")
def loaded():
    return load("demo", dtype="float32")


@pytest.fixture
def engine(loaded):
    return Engine(*loaded, store=PrefixStore())


def answered(engine, *requests):
    """Answer requests side by side; give their results in order."""
    work, results = UnderWay(engine, 0), {}
    for number, request in enumerate(requests):
        work.begin(number, prepare(engine, request))
    while work.numbers:
        for number, event in work.turn():
            if isinstance(event, Piece) and event.result:
                results[number] = event.result
    return [results[number] for number in range(len(requests))]


def next_turn(messages, text):
    return [*messages, {"role": "assistant", "content": text}, *MORE]


def assert_as_fresh(loaded, messages, options, result):
    assert result.token_ids == Engine(*loaded).generate(messages, options).token_ids


def test_answers_that_ended_in_any_way_are_not_read_again(engine, loaded):
    cut = GREEDY.changed({"max_tokens": 3})
    asked = [
        Request(FIRST, GREEDY),
        Request(user_message("What is your name?"), cut),
        Request(user_message("What is it called?"), GREEDY.changed({"stop": ["is"]})),
    ]
    before = answered(engine, *asked)
    assert [result.finish_reason for result in before] == ["stop", "length", "stop"]
    turns = [
        next_turn(request.messages, result.text)
        for request, result in zip(asked, before, strict=True)
    ]
    after = answered(engine, *(Request(messages, GREEDY) for messages in turns))
    # The first two hold their answers whole; the third was cut in text that had been read.
    for earlier, result in list(zip(before, after, strict=True))[:2]:
        assert result.cached_tokens >= earlier.prompt_tokens + len(earlier.token_ids)
    for messages, result in zip(turns, after, strict=True):
        assert_as_fresh(loaded, messages, GREEDY, result)


def test_what_was_read_for_a_client_that_left_is_kept(engine, loaded):
    work, text = UnderWay(engine, 0), ""
    work.begin(0, prepare(engine, Request(FIRST, GREEDY)))
    while len(text) < 5:
        text += "".join(event.text for _, event in work.turn() if isinstance(event, Piece))
    work.drop(0)  # no turn follows
    assert work._batch.rows == []
    messages = next_turn(FIRST, text)
    (result,) = answered(engine, Request(messages, GREEDY))
    asked = engine.processor(FIRST).input_ids
    assert result.cached_tokens > len(asked)
    assert_as_fresh(loaded, messages, GREEDY, result)


def test_of_several_answers_to_a_prompt_the_store_keeps_one(engine, loaded):
    warm = GREEDY.changed({"sampling": Sampling(temperature=2)})
    body = {"messages": [{"role": "user", "content": "What is your name?"}], "n": 4, "seed": 1}
    requests = read_chat(body, TERMS).requests
    asked = [replace(each, options=warm.changed({"seed": each.options.seed})) for each in requests]
    results = answered(engine, *asked)
    assert len({result.text for result in results}) == 4
    (branch,) = engine.store.branches
    first, other = results[:2]
    answer = branch.prefix.ids[first.prompt_tokens :]
    assert len(answer) > 1
    assert answer == first.token_ids[: len(answer)]
    messages = next_turn(user_message("What is your name?"), other.text)
    (result,) = answered(engine, Request(messages, GREEDY))
    assert result.cached_tokens >= other.prompt_tokens
    assert_as_fresh(loaded, messages, GREEDY, result)


def test_an_answer_that_the_client_writes_otherwise_is_read_from_there_on(engine, loaded):
    (first,) = answered(engine, Request(FIRST, GREEDY))
    messages = next_turn(FIRST, first.text.upper())
    (result,) = answered(engine, Request(messages, GREEDY))
    assert first.image_tokens < result.cached_tokens <= first.prompt_tokens
    assert_as_fresh(loaded, messages, GREEDY, result)


def test_a_last_token_that_a_constraint_has_put_there_is_the_one_that_is_kept(loaded, engine):
    options = GREEDY.changed({"constraint": regex("[a-z]{1,60}!"), "max_tokens": 6})
    (result,) = answered(engine, Request("What is your name?", options))
    assert (result.finish_reason, result.text[-1]) == ("length", "!")
    (branch,) = engine.store.branches
    assert branch.prefix.ids[-6:] == result.token_ids
    model, fresh = loaded[0], loaded[0].make_cache()
    prefill(model, model.embed(branch.prefix.ids), fresh)
    for kept, read in zip(branch.cache.windows, fresh.windows, strict=True):
        np.testing.assert_allclose(kept, read, atol=1e-3)


def test_a_draft_model_goes_on_with_what_it_has_read(loaded):
    engine = Engine(*loaded, store=PrefixStore(), drafter=load_drafter("demo", loaded[0]))
    options = GREEDY.changed({"draft_tokens": 4})
    (first,) = answered(engine, Request(FIRST, options))
    messages = next_turn(FIRST, first.text)
    (result,) = answered(engine, Request(messages, options))
    (branch,) = engine.store.branches
    assert branch.context.first == 0
    assert branch.context.end >= len(branch.prefix)
    assert result.cached_tokens > first.prompt_tokens
    assert_as_fresh(loaded, messages, GREEDY, result)
