"""The loss of a drafter equals one written for a single anchor, without batches or masks."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from drafters import CONFIG
from mlx.utils import tree_flatten
from networks import TEXT, lively

from mlx_lfm2vl.model.drafter import DraftModel
from mlx_lfm2vl.model.language import LanguageModel
from mlx_lfm2vl.training import drafter_loss as module
from mlx_lfm2vl.training.drafter_data import Lesson, make_blocks
from mlx_lfm2vl.training.drafter_loss import drafter_loss

ANCHORS = 4


class Target(nn.Module):
    """The parts of a target that the loss uses."""

    def __init__(self):
        super().__init__()
        self.language_model = LanguageModel(TEXT)

    def head(self, hidden):
        return self.language_model.embed_tokens.as_linear(hidden)


def make_lesson(seed: int, length: int, answers: list[tuple[int, int]]) -> Lesson:
    draw = np.random.default_rng(seed)
    is_answer = np.zeros(length, bool)
    for first, last in answers:
        is_answer[first : last + 1] = True
    shape = (length, len(CONFIG.target_layer_ids) * CONFIG.hidden_size)
    return Lesson(
        draw.integers(0, 100, length).astype(np.int32),
        is_answer,
        is_answer & np.append(is_answer[1:], False),
        mx.array(draw.standard_normal(shape).astype(np.float32)),
        mx.array(draw.standard_normal((is_answer.sum(), 32)).astype(np.float32)),
        answers,
    )


LESSONS = [make_lesson(1, 19, [(4, 11), (15, 18)]), make_lesson(2, 9, [(5, 7)])]


@pytest.fixture
def drafter():
    return lively(DraftModel(CONFIG), 3)


@pytest.fixture
def target():
    return lively(Target(), 4)


def blocks_of(lessons):
    draws = [np.random.default_rng(n) for n in range(len(lessons))]
    return make_blocks(lessons, ANCHORS, CONFIG.block_size, draws)


def naive_loss(drafter, target, lesson, place):
    """The loss of one anchor, through the drafter's cache as answers use it; and its weights."""
    embed = target.language_model.embed_tokens
    cache = drafter.make_cache()
    drafter.append(lesson.taps[None, :place], cache)
    masks = [CONFIG.mask_token_id] * (CONFIG.block_size - 1)
    block = embed(mx.array([lesson.ids[place].item(), *masks]))[None]
    states = drafter.states(block, cache)[0]
    loss, weights = mx.array(0.0), 0.0
    for row in range(CONFIG.block_size):
        label = place + 1 + row
        if label >= len(lesson.ids) or not lesson.is_answer[label]:
            break
        weight = float(np.exp(-row / 4))
        code = drafter.markov_head.markov_w1.weight[lesson.ids[label - 1].item()]
        logits = target.head(states[row]) + drafter.markov_head.markov_w2.weight @ code
        number = int(lesson.is_answer[:label].sum()) - 1
        teacher = mx.softmax(target.head(lesson.finals[number]))
        own = mx.softmax(logits)
        apart = mx.abs(own - teacher).sum()
        survives = mx.stop_gradient(1 - apart / 2)
        sure = drafter.confidence_head.proj
        guess = mx.sigmoid((sure.weight[0] * mx.concatenate([states[row], code])).sum() + sure.bias)
        entropy = -(survives * mx.log(guess) + (1 - survives) * mx.log(1 - guess)).sum()
        surprise = -mx.log(own[lesson.ids[label].item()])
        loss = loss + weight * (0.1 * surprise + 0.9 * apart + entropy)
        weights += weight
    return loss, weights


def naive_sum(drafter, target, blocks):
    total, weights = mx.array(0.0), 0.0
    for lesson, places, rows in zip(LESSONS, blocks.places, blocks.weights, strict=True):
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            if row[0]:
                loss, weight = naive_loss(drafter, target, lesson, place)
                total, weights = total + loss, weights + weight
    return total, weights


@pytest.mark.parametrize("chunk_bytes", [module.CHUNK_BYTES, 1])
def test_losses_and_gradients_equal_those_of_single_anchors(
    drafter, target, monkeypatch, chunk_bytes
):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    blocks = blocks_of(LESSONS)
    ours, gradients = nn.value_and_grad(drafter, lambda b: drafter_loss(drafter, target, b)[0])(
        blocks
    )
    theirs, expected = nn.value_and_grad(drafter, lambda b: naive_sum(drafter, target, b)[0])(
        blocks
    )
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=1e-5)
    np.testing.assert_allclose(
        blocks.weights.sum().item(), naive_sum(drafter, target, blocks)[1], rtol=1e-5
    )
    found = dict(tree_flatten(gradients))
    for name, gradient in tree_flatten(expected):
        scale = mx.abs(gradient).max().item()
        assert scale > 0, name
        np.testing.assert_allclose(found[name], gradient, atol=2e-5 * scale, err_msg=name)


def test_a_lesson_with_few_anchors_has_blocks_without_weight():
    blocks = blocks_of(LESSONS)
    assert (blocks.weights[1, :, 0] > 0).tolist() == [True, True, False, False]
    assert sorted(blocks.places[1, :2].tolist()) == [5, 6]


def test_a_lesson_has_the_same_loss_in_a_batch_and_alone(drafter, target):
    together = drafter_loss(drafter, target, blocks_of(LESSONS))
    first = drafter_loss(drafter, target, blocks_of(LESSONS[:1]))
    draws = [np.random.default_rng(1)]
    alone = drafter_loss(
        drafter, target, make_blocks(LESSONS[1:], ANCHORS, CONFIG.block_size, draws)
    )
    for whole, *parts in zip(together, first, alone, strict=True):
        np.testing.assert_allclose(whole.item(), sum(p.item() for p in parts), rtol=1e-5)
