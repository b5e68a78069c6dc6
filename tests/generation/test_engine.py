"""The engine, the functions that stand for it, and what a program may look at on the way."""

from dataclasses import replace
from inspect import signature
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from conftest import golden
from mlx.utils import tree_flatten
from pictures import make_picture

import mlx_lfm2vl
from mlx_lfm2vl import (
    AnswerOptions,
    Engine,
    ImageOptions,
    InputError,
    Sampling,
    regex,
    user_message,
)
from mlx_lfm2vl.device import Limits
from mlx_lfm2vl.generation import engine as module
from mlx_lfm2vl.generation import once
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.template import ChatTemplate

GREEDY = AnswerOptions(max_tokens=12, sampling=Sampling())
MESSAGES = golden("new_names").messages("two_images")


@pytest.fixture
def engine(tiny):
    return Engine(*tiny)


def test_the_public_functions_are_the_engines(tiny, engine):
    for name in ("generate", "stream_generate", "batch_generate", "stream_batch"):
        assert getattr(mlx_lfm2vl, name) is getattr(once, name)
    expected = engine.generate(MESSAGES, GREEDY).token_ids
    assert mlx_lfm2vl.generate(*tiny, MESSAGES, GREEDY).token_ids == expected
    *_, last = mlx_lfm2vl.stream_generate(*tiny, MESSAGES, GREEDY)
    assert last.result.token_ids == expected
    assert mlx_lfm2vl.batch_generate(*tiny, [MESSAGES], GREEDY)[0].token_ids == expected
    ((number, result),) = mlx_lfm2vl.stream_batch(*tiny, [MESSAGES], GREEDY)
    assert (number, result.token_ids) == (0, expected)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("generate", "generate"),
        ("stream_generate", "stream"),
        ("batch_generate", "stream_batch"),
        ("stream_batch", "stream_batch"),
    ],
)
def test_the_public_functions_take_what_the_engine_takes(name, method):
    function, own = signature(getattr(mlx_lfm2vl, name)), signature(getattr(Engine, method))
    assert list(function.parameters)[:2] == ["model", "processor"]
    assert list(function.parameters.values())[2:] == list(own.parameters.values())[1:]


def test_options_may_be_given_as_an_object_as_keywords_or_both(engine):
    expected = engine.generate("Hi", GREEDY).token_ids
    assert engine.generate("Hi", max_tokens=12, sampling=Sampling()).token_ids == expected
    assert engine.generate("Hi", GREEDY, max_tokens=3).token_ids == expected[:3]
    result = engine.generate("Hi", temperature=0.5, max_tokens=1)
    assert result.sampling == Sampling(temperature=0.5, min_p=0.15, repetition_penalty=1.05)


def test_a_question_may_come_with_its_image(engine):
    picture, other = make_picture(40, 90, 1), make_picture(40, 90, 2)
    alone = engine.generate("What?", GREEDY, image=picture)
    assert alone.token_ids == engine.generate(user_message("What?", [picture]), GREEDY).token_ids
    both = engine.generate("What?", GREEDY, image=[picture, other])
    assert len(both.images) == 2
    with pytest.raises(InputError, match="image goes with a question as text"):
        engine.generate(MESSAGES, GREEDY, image=picture)


def test_image_settings_alone_are_options(engine):
    picture = make_picture(600, 600, 1)
    options = ImageOptions(do_image_splitting=False)
    result = engine.generate("What?", options, image=picture, max_tokens=1)
    assert result.images[0].grid == (1, 1)
    with pytest.raises(InputError, match="options is 'greedy'"):
        engine.generate("Hi", "greedy")


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def test_tools_reach_the_template_in_batches_too(tiny):
    model, processor = tiny
    old = processor.template
    listing = ChatTemplate("{{ tools | tojson if tools }}" + old.source, old.bos_token, "")
    engine = Engine(model, Processor(processor.tokenizer, listing, processor.image_config))
    plain = engine.generate("Hi", GREEDY).prompt_tokens
    alone = engine.generate("Hi", GREEDY, tools=TOOLS)
    ((_, together),) = engine.stream_batch(["Hi"], GREEDY, tools=TOOLS)
    assert together.prompt_tokens == alone.prompt_tokens > plain


def test_tools_that_the_template_would_drop_are_refused(engine):
    with pytest.raises(InputError, match="template does not use tools here"):
        engine.generate("Hi", GREEDY, tools=TOOLS)
    ((_, outcome),) = engine.stream_batch(["Hi"], GREEDY, tools=TOOLS)
    assert "template does not use tools here" in str(outcome)
    assert engine.generate("Hi", GREEDY, tools=[]).prompt_tokens > 0


def test_lookup_in_a_batch_stays_inside_a_constraint(engine):
    options = {"constraint": regex("(ab|cd){9}"), "max_tokens": 30}
    expected = engine.generate("Hi", GREEDY, **options)
    ((_, found),) = engine.stream_batch(["Hi"], GREEDY, lookup=2, **options)
    assert found.token_ids == expected.token_ids


def test_logprobs_are_those_of_one_pass_over_prompt_and_answer(tiny, engine):
    model, processor = tiny
    result = engine.generate("Hi", GREEDY, logprobs=True)
    prompt = processor([{"role": "user", "content": "Hi"}]).input_ids
    logits = model([*prompt, *result.token_ids])[0]
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    expected = [logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(result.token_ids)]
    assert np.allclose(result.logprobs, expected, atol=1e-4)
    assert result.to_dict()["logprobs"] == result.logprobs
    pieces = list(engine.stream("Hi", GREEDY, logprobs=True))
    assert [p for piece in pieces for p in piece.logprobs] == result.logprobs
    ((_, together),) = engine.stream_batch(["Hi"], GREEDY, logprobs=True)
    assert np.allclose(together.logprobs, result.logprobs, atol=1e-4)
    looked_up = engine.generate("Hi", GREEDY, logprobs=True, lookup=4, max_tokens=60)
    plain = engine.generate("Hi", GREEDY, logprobs=True, max_tokens=60)
    assert looked_up.token_ids == plain.token_ids
    assert np.allclose(looked_up.logprobs, plain.logprobs, atol=1e-4)


def test_without_being_asked_there_are_no_logprobs(engine):
    result = engine.generate("Hi", GREEDY)
    assert result.logprobs is None
    assert "logprobs" not in result.to_dict()


def test_logits_processors_decide_what_can_be_said(engine):
    allowed = 70

    def only_one(tokens, logits):
        assert tokens.ndim == 1
        return mx.where(mx.arange(logits.shape[-1]) == allowed, logits, -mx.inf)

    result = engine.generate("Hi", GREEDY, logits_processors=[only_one], max_tokens=4)
    assert result.token_ids == [allowed] * 4
    conversations = ["Hi", "Another one"]
    answers = engine.stream_batch(conversations, GREEDY, logits_processors=[only_one], max_tokens=4)
    assert [answer.token_ids for _, answer in answers] == [[allowed] * 4] * 2


def test_a_long_prefill_tells_how_far_it_is(engine, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.model.decode_step.PREFILL_CHUNK", 8)
    seen = []
    result = engine.generate(
        "Hello", GREEDY, on_prefill=lambda done, total: seen.append((done, total))
    )
    total = result.prompt_tokens
    done = [0, *(done for done, _ in seen)]
    assert done[-1] == total
    assert all(0 < after - before <= 8 for before, after in pairwise(done))
    assert {whole for _, whole in seen} == {total}


@pytest.mark.parametrize("together", [False, True], ids=["alone", "batch"])
def test_encoding_tells_how_many_image_tokens_are_done(engine, together, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.model.lfm2vl.MAX_PATCHES", 1)  # one view at a time
    seen = []
    hooks = {"on_encode": lambda done, total: seen.append((done, total))}
    if together:
        ((_, result),) = engine.stream_batch([MESSAGES], GREEDY, **hooks)
    else:
        result = engine.generate(MESSAGES, GREEDY, **hooks)
    views = [tokens for plan in result.images for tokens in plan.view_tokens]
    assert len(result.images) == 2
    assert len(seen) == len(views) > 2
    assert seen == [(sum(views[: n + 1]), result.image_tokens) for n in range(len(views))]


def test_text_alone_tells_nothing_of_images(engine):
    engine.generate("Hello", GREEDY, on_encode=lambda *_: pytest.fail("there is no image"))


def test_memory_limits_are_those_asked_for(engine, monkeypatch):
    told = []
    monkeypatch.setattr(module, "set_limits", told.append)
    limits = engine.limit_memory(cache=10**6, wired=0)
    assert (limits.cache, limits.wired) == (10**6, 0)
    assert told == [limits]


def test_memory_limits_follow_the_weights(tiny, engine, monkeypatch):
    weights = sum(array.nbytes for _, array in tree_flatten(tiny[0].parameters()))
    monkeypatch.setattr(module, "choose_limits", lambda size: Limits(cache=3, wired=size))
    monkeypatch.setattr(module, "set_limits", lambda _: None)
    assert engine.limit_memory() == Limits(cache=3, wired=weights)
    assert engine.limit_memory(cache=0) == Limits(cache=0, wired=weights)


def test_a_result_is_plain_data_and_short_to_look_at(engine):
    result = engine.generate(MESSAGES, GREEDY)
    values = result.to_dict()
    assert values["completion_tokens"] == len(values["token_ids"]) == len(result.token_ids)
    assert values["images"][0]["size"] == list(result.images[0].size)
    assert repr(replace(result, text="x" * 60)).startswith(f"Result('{'x' * 60}', ")
    assert repr(replace(result, text="x" * 61)).startswith(f"Result('{'x' * 57}...', ")
    assert replace(result, text="**bold**")._repr_markdown_() == "**bold**"
    assert len(repr(engine)) < 200


def test_timings_are_stages_that_add_up(engine, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    timings = engine.generate("Hi", GREEDY, max_tokens=1).timings
    # Without an image the clock is read once before and after each of three stages, and by
    # `embed_prompt` at its start: one second of its own.
    assert (timings.prepare, timings.first_token, timings.decode) == (1, 2, 1)
    assert timings.total == 4
