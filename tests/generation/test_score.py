"""Answers that are scored together have the likelihood that each has alone."""

import math

import mlx.core as mx
import numpy as np
import pytest
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation import score
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message

ANSWERS = ["cat", "cat tree", "a", "the cat on the tree, and a good deal more of it", "Ω"]
PHOTO = make_picture(40, 60, 3)


def alone(engine: Engine, answer: str) -> list[float]:
    """The log-probabilities of an answer's tokens and its end, in one pass over all tokens."""
    model, processor = engine.model, engine.processor
    prompt = processor(user_message("What is it?", [PHOTO]))
    ids = processor.tokenizer.encode_plain(answer)
    logits = model([*prompt.input_ids, *ids], prompt.pixel_values, prompt.spatial_shapes)[0]
    table = np.array(logits[len(prompt.input_ids) - 1 :].astype(mx.float32), np.float64)
    table -= np.log(np.exp(table).sum(axis=1, keepdims=True))
    end = math.log(np.exp(table[-1, list(model.config.eos_token_ids)]).sum())
    return [*(table[at, token] for at, token in enumerate(ids)), end]


@pytest.mark.parametrize("limits", [(512, 2**29), (7, 2**29), (512, 1)])
def test_answers_have_the_likelihood_that_each_has_alone(tiny, monkeypatch, limits):
    monkeypatch.setattr(score, "MAX_POSITIONS", limits[0])
    monkeypatch.setattr(score, "MAX_BYTES", limits[1])
    engine = Engine(*tiny)
    scores = engine.score("What is it?", ANSWERS, image=PHOTO)
    assert len({len(found.token_ids) for found in scores.answers}) > 2
    for answer, found in zip(ANSWERS, scores.answers, strict=True):
        assert engine.processor.tokenizer.decode(found.token_ids) == answer
        assert found.logprobs == pytest.approx(alone(engine, answer), abs=2e-4)
        assert found.total == pytest.approx(sum(found.logprobs))
    assert scores.images[0].size == (40, 60)
    assert scores.prompt_tokens > scores.image_tokens > 0


def test_an_image_that_was_read_is_not_read_again_and_the_scores_are_the_same(tiny):
    engine = Engine(*tiny, store=PrefixStore())
    first = engine.score("What is it?", ANSWERS, image=PHOTO)
    again = engine.score("What is it?", ANSWERS[::-1], image=PHOTO)
    assert (first.cached_tokens, again.cached_tokens) == (0, pytest.approx(90, abs=60))
    assert again.cached_tokens >= first.image_tokens
    for one, other in zip(first.answers, again.answers[::-1], strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=2e-4)


def test_quantized_keys_are_scored_too():
    engine = Engine(*load("demo", dtype="float32"))
    plain, packed = (engine.score("What is it?", ANSWERS[:4], kv_bits=bits) for bits in (0, 8))
    for one, other in zip(plain.answers, packed.answers, strict=True):
        assert 0 < abs(other.total - one.total) < 0.1 * abs(one.total)


def test_what_cannot_be_scored_is_refused(tiny):
    engine = Engine(*tiny)
    for answers in ([], ["a", ""]):
        with pytest.raises(InputError, match="no answer to score"):
            engine.score("Hi", answers)
    with pytest.raises(InputError, match="drop answer_start"):
        engine.score("Hi", ["a"], answer_start="The ")
