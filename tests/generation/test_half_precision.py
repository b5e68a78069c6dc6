"""What holds in half precision, where kernels round by the shapes that they see."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import golden
from drafters import Script
from pictures import make_picture

from mlx_lfm2vl import AnswerOptions, Engine, Sampling, user_message
from mlx_lfm2vl.generation.drafted import drafted_step
from mlx_lfm2vl.generation.loop import Drafts, generate_step
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.sampling import Sampler
from mlx_lfm2vl.generation.verifying import VerifyingSampler
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


def test_a_drafted_token_differs_only_where_two_logits_are_nearer_than_rounding(half):
    model, _ = half
    prompt, count, rows = [7, 30, 31, 32, 33], 16, dict[tuple[int, ...], np.ndarray]()

    def recorded(said, logits):
        rows[tuple(said.tolist()[len(prompt) :])] = np.array(logits[0].astype(mx.float32))
        return logits

    def answer(kind, steps, *more) -> list[int]:
        sampler = kind(Sampling(), [prompt], [0], processors=[recorded])
        tokens = steps(model, model.embed(prompt), model.make_cache(), sampler, count, *more)
        return [token.id for token in tokens]

    said = answer(Sampler, generate_step)
    plain = dict(rows)
    rows.clear()
    script = Script(said, [(5, 0), (1, 2), (0, 0)])
    found = answer(VerifyingSampler, drafted_step, script, Drafts())
    limit = 4 * mx.finfo(model.language_model.embedding_norm.weight.dtype).eps
    for place, (one, other) in enumerate(zip(said, found, strict=True)):
        before = tuple(said[:place])
        logits, verified = plain[before], rows[before]
        assert other == verified.argmax()
        apart = np.abs(logits - verified).max()
        assert apart <= limit * np.abs(logits).max()
        assert logits[one] - logits[other] <= 2 * apart
        if one != other:  # from here on the answers are of different texts
            break
