"""A drafter against mlx-vlm 0.7.10, which made the golden files: features to proposals."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from drafters import CONFIG, DRAFTERS, TARGETS, expected, make_target
from networks import lively

from mlx_lfm2vl.drafter_loading import load_drafter
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.draft_heads import chain_of
from mlx_lfm2vl.model.drafter import DraftModel

STEPS = range(3)


@pytest.fixture(scope="module", params=TARGETS)
def pair(request, tmp_path_factory):
    """A target, its golden drafter, and what mlx-vlm makes of them."""
    folder = make_target(tmp_path_factory.mktemp("target"), request.param)
    model, _ = load(folder, dtype="float32")
    # What is stored in bfloat16 is exact in float32, as in the golden run.
    drafter = load_drafter(DRAFTERS / request.param, model)
    return model, drafter, expected(request.param)


def block_of(model, drafter: DraftModel, anchor: int) -> mx.array:
    ids = [anchor, *[drafter.config.mask_token_id] * (drafter.config.block_size - 1)]
    return model.language_model.embed_tokens(mx.array([ids]))


def proposed(drafter: DraftModel, states, scores, anchor: int, scale=None):
    """The tokens of a draft and their confidences, as the host follows them."""
    factor = None if scale is None else mx.array(scale)
    found = drafter.propose(states, scores, mx.array(anchor, mx.uint32), factor)
    return chain_of(found.numbers.tolist(), len(states), 3)


@pytest.mark.parametrize("step", STEPS)
def test_proposals_are_those_of_mlx_vlm(pair, step):
    model, drafter, golden = pair
    key = f"step.{step}."
    taps, anchor = mx.array(golden[key + "hidden"]), int(golden[key + "anchor"].item())
    near = {"atol": 1e-4, "rtol": 1e-4}
    np.testing.assert_allclose(drafter.features(taps), golden[key + "features"], **near)
    cache = drafter.make_cache()
    drafter.append(taps, cache)
    states = drafter.states(block_of(model, drafter, anchor), cache)
    np.testing.assert_allclose(states, golden[key + "states"], **near)
    logits = model.head(states[0])
    np.testing.assert_allclose(logits[None], golden[key + "base_logits"], **near)
    tokens, confidence = proposed(drafter, states[0], logits, anchor)
    assert tokens == golden[key + "draft"][0].tolist()
    np.testing.assert_allclose(confidence, golden[key + "confidence"][0], **near)
    for i, layer in enumerate(cache.layers):
        keys, values = (array[:, :, : cache.length] for array in layer.arrays)
        np.testing.assert_allclose(keys, golden[f"{key}keys.{i}"], **near)
        np.testing.assert_allclose(values, golden[f"{key}values.{i}"], **near)


@pytest.mark.parametrize("step", STEPS)
def test_rows_that_were_not_accepted_do_not_touch_the_next_draft(pair, step):
    model, drafter, golden = pair
    key = f"step.{step}."
    cache = drafter.make_cache()
    drafter.append(mx.array(golden[key + "hidden"]), cache)
    accepted = mx.array(golden[key + "next_hidden"])
    refused = 7 * mx.ones((1, 4, accepted.shape[2]))
    anchor = golden[key + "next_anchor"].item()
    states = drafter.states(
        block_of(model, drafter, anchor),
        cache,
        mx.concatenate([accepted, refused], axis=1),
        mx.array(accepted.shape[1]),
    )
    tokens, _ = proposed(drafter, states[0], model.head(states[0]), anchor)
    assert tokens == golden[key + "next_draft"][0].tolist()


@pytest.mark.parametrize("step", STEPS)
def test_taps_of_the_target_are_what_its_layers_hand_on(pair, step):
    model, drafter, golden = pair
    prompt = mx.array(golden[f"step.{step}.prompt"])
    embeds = model.language_model.embed_tokens(prompt)
    hidden, taps = model.language_model.tapped(embeds, None, drafter.config.target_layer_ids)
    assert mx.array_equal(hidden, model.language_model(embeds))
    want = golden[f"step.{step}.hidden"]
    np.testing.assert_allclose(mx.concatenate(taps, axis=-1), want, atol=1e-4, rtol=1e-4)
    anchor = mx.argmax(model.head(hidden[0, -1])).item()
    assert anchor == golden[f"step.{step}.anchor"].item()


def test_a_large_vocabulary_gets_the_same_first_proposal_from_the_best_of_each_group(monkeypatch):
    config = replace(CONFIG, vocab_size=640)
    drafter = lively(DraftModel(config))
    states, logits = mx.random.normal((4, 32)), 6 * mx.random.normal((4, 640))
    found, _ = proposed(drafter, states, logits, 3)
    monkeypatch.setattr("mlx_lfm2vl.model.draft_heads.SMALL_VOCABULARY", 640)
    exact, _ = proposed(drafter, states, logits, 3)
    scores = logits + drafter.markov_head.markov_w2(
        drafter.markov_head.markov_w1(mx.array([3, *found[:-1]]))
    )
    assert found[0] == exact[0]
    best = mx.take_along_axis(scores, mx.array(found)[:, None], axis=1)[:, 0]
    assert mx.all(best > scores.max(axis=1) - 4)


def test_positions_read_with_a_block_stand_behind_the_first_one_read():
    drafter = lively(DraftModel(CONFIG))
    taps = mx.random.normal((1, 3, 3 * CONFIG.hidden_size), key=mx.random.key(1))
    block = mx.random.normal((1, CONFIG.block_size, CONFIG.hidden_size), key=mx.random.key(2))
    before, beside = drafter.make_cache(7), drafter.make_cache(7)
    drafter.append(taps, before)
    until = before.until(9)
    assert (before.end, until.end, until.length, before.until(7)) == (10, 9, 2, None)
    expected = drafter.states(block, before)
    found = drafter.states(block, beside, taps, mx.array(3))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("candidates", ["one", "of groups"])
@pytest.mark.parametrize("scale", [None, 2.5])
def test_the_chain_is_that_of_deciding_one_row_after_the_other(scale, candidates, monkeypatch):
    if candidates == "of groups":  # more than tokens, so that each is the best of its group
        monkeypatch.setattr("mlx_lfm2vl.model.draft_heads.SMALL_VOCABULARY", 0)
    drafter = lively(DraftModel(replace(CONFIG, vocab_size=60)))
    scores = mx.random.normal((9, 60), key=mx.random.key(1))
    states = mx.random.normal((9, 32), key=mx.random.key(2))
    token, expected, sure = 3, [], []
    for row, state in zip(scores, states, strict=True):
        code = drafter.markov_head.markov_w1(mx.array(token))
        chance = mx.sigmoid(drafter.confidence_head.proj(mx.concatenate([state, code])))
        token = mx.argmax(row + drafter.markov_head.markov_w2(code) * (scale or 1)).item()
        expected.append(token)
        sure.append(chance.item())
    tokens, confidence = proposed(drafter, states, scores, 3, scale)
    assert tokens == expected
    np.testing.assert_allclose(confidence, sure, atol=1e-6)


def test_a_vocabulary_that_groups_do_not_divide_gets_the_best_token(monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.model.draft_heads.SMALL_VOCABULARY", 90)
    drafter = lively(DraftModel(CONFIG))
    scores = mx.full((3, 100), -2e4).at[:, 99].add(1e4)
    assert proposed(drafter, mx.zeros((3, 32)), scores, 3)[0] == [99, 99, 99]
