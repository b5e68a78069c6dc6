"""What a conversion costs, measured."""

import mlx.core as mx
import numpy as np
import pytest
from pictures import make_picture

from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.quantize.loss_report import (
    Observation,
    Sample,
    compare,
    observe,
    warnings,
    with_answer,
)


@pytest.fixture(scope="module")
def demo(wide):
    return load(wide, dtype="float32")


def test_a_checkpoint_compared_with_itself_lost_nothing(demo):
    model, processor = demo
    inputs = processor(user_message("What is this?", [make_picture(90, 90, 1)]))
    sample = with_answer(model, inputs, {2})
    seen = [observe(model, sample)]
    quality = compare(seen, lambda _: observe(model, sample))
    assert quality["text"]["kl"] == pytest.approx(0, abs=1e-6)
    assert all(quality[kind]["agreement"] == 1 for kind in ("image", "text", "answer"))
    assert quality["perplexity"]["change"] == pytest.approx(0, abs=1e-6)
    assert "features" not in quality
    assert warnings(quality) == []


def test_divergence_and_perplexity_are_what_their_formulas_say():
    p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.2, 0.5, 0.3]])
    features = np.array([[3.0, 4.0]])

    def seen(probabilities, answer, tower):
        logs = {"answer": np.log(probabilities)}
        return Observation(logs, np.log(np.array(answer)), tower, None)

    quality = compare(
        [seen(p, [0.5], features)], lambda _: seen(q, [0.25], features + [[0.3, 0.4]])
    )
    assert quality["answer"]["kl"] == pytest.approx((p * np.log(p / q)).sum())
    assert quality["answer"]["agreement"] == 0
    assert quality["perplexity"] == pytest.approx({"source": 2, "converted": 4, "change": 1})
    assert quality["features"] == {"tower": pytest.approx(0.1)}
    assert any("--embed-bits" in sentence for sentence in warnings(quality))


def test_only_what_the_assistant_says_counts_as_answer(demo):
    model, processor = demo
    turns = [
        {"role": "user", "content": [{"type": "image", "image": make_picture(60, 60, 1)}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    sample = SampleMaker(processor, {2})(turns)
    seen = observe(model, Sample(sample.inputs, sample.learnt))
    assert len(seen.answer) == sample.learnt.sum() < len(sample.inputs.input_ids) / 2
    inputs = sample.inputs
    logits = model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes)[0]
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    places = np.flatnonzero(sample.learnt)
    expected = [logprobs[i - 1, sample.inputs.input_ids[i]] for i in places]
    np.testing.assert_allclose(seen.answer, expected, rtol=1e-4, atol=1e-5)
