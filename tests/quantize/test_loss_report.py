"""What a conversion costs, measured."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.quantize.loss_report import (
    ANSWER_TOKENS,
    Observation,
    _spread,
    compare,
    decode_ceiling,
    observe,
    warnings,
    with_answer,
)
from mlx_lfm2vl.quantize.study import _first


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


@pytest.mark.parametrize("pictures", [[], [make_picture(90, 90, 1)]], ids=["text", "image"])
def test_the_models_own_answer_holds_no_image_token(demo, pictures, monkeypatch):
    model, processor = demo
    image, head = model.config.image_token_id, Lfm2VL.head
    likely = 1e4 * (mx.arange(model.config.text.vocab_size) == image)
    monkeypatch.setattr(Lfm2VL, "head", lambda *inputs: head(*inputs) + likely)
    inputs = processor(user_message("What is this?", pictures))
    sample = with_answer(model, inputs, set())
    answer = np.array(sample.input_ids)[sample.is_answer]
    assert len(answer) == ANSWER_TOKENS
    assert image not in answer
    assert len(observe(model, sample).answer) == ANSWER_TOKENS


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
    seen = observe(model, sample)
    assert len(seen.answer) == sample.is_answer.sum() < len(sample.input_ids) / 2
    logits = model(sample.input_ids, sample.pixel_values, sample.spatial_shapes)[0]
    logprobs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    places = np.flatnonzero(sample.is_answer)
    expected = [logprobs[i - 1, sample.input_ids[i]] for i in places]
    np.testing.assert_allclose(seen.answer, expected, rtol=1e-4, atol=1e-5)


def quality_of(kl: float, agreement: float, **features: float) -> dict:
    return {"answer": {"kl": kl, "agreement": agreement}, "features": features}


def test_warnings_begin_beyond_the_limits():
    assert warnings(quality_of(0.1, 0.9, tower=0.1)) == []
    for worse in ((0.11, 0.9), (0.1, 0.89)):
        (sentence,) = warnings(quality_of(*worse))
        assert "try more --bits" in sentence


def test_only_the_first_part_with_an_error_is_named():
    (sentence,) = warnings(quality_of(0, 1, tower=0.2, connector=0.3))
    assert "try a larger --vision-bits" in sentence
    (sentence,) = warnings(quality_of(0, 1, connector=0.3))
    assert "try a larger --connector-bits" in sentence
    assert warnings(quality_of(0, 1, tower=0.01, connector=0.3)) == []


def test_the_positions_compared_are_spread_from_the_first_to_the_last():
    assert _spread(np.arange(48)).tolist() == list(range(48))
    spread = _spread(np.arange(1000))
    assert len(spread) == 48
    assert (spread[0], spread[-1]) == (0, 999)
    assert set(np.diff(spread)) == {21, 22}


def test_bandwidth_limits_the_speed():
    assert decode_ceiling(10**9)["M1"] == 68.0
    assert decode_ceiling(2 * 10**9)["M3 Ultra"] == 409.5


@pytest.mark.parametrize(("number", "noted"), [(128, 0), (129, 1)])
def test_at_most_128_samples_are_used_and_a_note_says_so(number, noted, caplog):
    assert _first(list(range(number))) == list(range(128))
    assert len(caplog.records) == noted


def test_an_own_answer_has_no_image_token():
    model, processor = load(golden("untied_sharded_bf16").folder, dtype="float32")
    image = model.config.image_token_id
    inputs = processor(golden("untied_sharded_bf16").messages("small"))
    rows = [model.lm_head.weight[i] for i in range(model.config.text.vocab_size)]
    said = with_answer(model, inputs, set()).input_ids[len(inputs.input_ids)]
    rows[image] = 2 * rows[said]  # now the most likely token
    model.lm_head.weight = mx.stack(rows)
    sample = with_answer(model, inputs, set())
    assert sample.is_answer.sum() == ANSWER_TOKENS
    assert image not in np.array(sample.input_ids)[sample.is_answer]
