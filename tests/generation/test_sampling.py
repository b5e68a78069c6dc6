"""Sampling against a plain NumPy implementation of the same definitions."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.sampling import KEYS, RandomKeys, Sampler, limits, logprobs_of
from mlx_lfm2vl.options import Sampling

LOGITS = np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32) * 3


def softmax(x: np.ndarray) -> np.ndarray:
    exponents = np.exp(x - x.max())
    return exponents / exponents.sum()


def kept(top_k: int = 0, top_p: float | None = None) -> set[int]:
    share = None if top_p is None else mx.array(top_p)
    (least,) = limits(mx.array(LOGITS), top_k, share)
    return set(np.flatnonzero(LOGITS[0] >= np.array(least)[0]).tolist())


@pytest.mark.parametrize("top_k", [1, 2, 10, 49])
def test_top_k_keeps_the_k_most_likely(top_k):
    assert kept(top_k=top_k) == set(np.argsort(-LOGITS[0])[:top_k].tolist())


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_smallest_sufficient_set(top_p):
    order = np.argsort(-LOGITS[0])
    total = np.cumsum(softmax(LOGITS[0])[order])
    count = int(np.searchsorted(total, top_p)) + 1
    assert kept(top_p=top_p) == set(order[:count].tolist())


def test_top_p_that_is_reached_exactly_takes_nothing_more():
    (least,) = limits(mx.array([[100.0, 0.0]]), 0, mx.array(1.0))  # the first alone rounds to 1
    assert least.item() == 100


@pytest.mark.parametrize("min_p", [0.15, 0.5, 1.0])
def test_min_p_is_relative_to_the_most_likely(min_p):
    probabilities = softmax(LOGITS[0])
    expected = np.flatnonzero(probabilities >= min_p * probabilities.max() * (1 - 1e-6))
    assert set(draws(Sampling(temperature=1.0, min_p=min_p), 400)) == set(expected.tolist())


def test_rows_draw_as_they_would_alone():
    sampling = Sampling(temperature=1.2, min_p=0.02, repetition_penalty=1.2)
    logits = [mx.array(LOGITS * factor) for factor in (1, 0.5, -1)]
    alone = [Sampler(sampling, [[row]], [row]) for row in range(3)]
    together = Sampler(sampling, [[0], [1]], [0, 1])
    expected = [
        [int(sampler(x).tokens.item()) for x in [row] * 6]
        for sampler, row in zip(alone, logits, strict=True)
    ]
    found = [together(mx.concatenate(logits[:2])).tokens.tolist() for _ in range(2)]
    late = Sampler(sampling, [[2]], [2])
    late(logits[2])
    joined = Sampler.joined([(late, [0]), (together, [1])])
    found += [joined(mx.concatenate([logits[2], logits[1]])).tokens.tolist() for _ in range(2)]
    assert found[:2] == [[expected[0][i], expected[1][i]] for i in range(2)]
    assert found[2:] == [[expected[2][1 + i], expected[1][2 + i]] for i in range(2)]


def draws(sampling: Sampling, count: int, seed: int = 0) -> list[int]:
    sampler = Sampler(sampling, [[]], [seed])
    return [int(sampler(mx.array(LOGITS)).tokens.item()) for _ in range(count)]


def test_temperature_zero_is_the_most_likely_token():
    assert draws(Sampling(), 3) == [int(LOGITS.argmax())] * 3
    assert draws(Sampling(temperature=0.0, top_p=0.5, min_p=0.3), 1) == [int(LOGITS.argmax())]


def test_draws_follow_the_softmax_at_the_temperature():
    counts = np.bincount(draws(Sampling(temperature=2.0), 2000), minlength=50) / 2000
    assert np.abs(counts - softmax(LOGITS[0] / 2)).max() < 0.03


def test_a_seed_repeats_the_draws():
    sampling = Sampling(temperature=1.0)
    assert draws(sampling, 20, seed=7) == draws(sampling, 20, seed=7)
    assert draws(sampling, 20, seed=7) != draws(sampling, 20, seed=8)


def test_all_filters_together_in_the_documented_order():
    sampling = Sampling(temperature=1.5, top_k=20, top_p=0.8, min_p=0.05)
    scaled = LOGITS[0] / 1.5
    order = np.argsort(-scaled)[:20]
    probabilities = softmax(scaled[order])
    nucleus = order[: int(np.searchsorted(np.cumsum(probabilities), 0.8)) + 1]
    allowed = {int(i) for i in nucleus if np.exp(scaled[i] - scaled.max()) >= 0.05}
    assert set(draws(sampling, 1500)) == allowed


def test_the_penalty_counts_prompt_and_answer():
    logits = np.array([[2.0, 1.9, -1.0, -1.05]], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=1.5), [[0]], [0])
    # 0 is in the prompt: 2.0 / 1.5. Then 1 is in the answer: 1.9 / 1.5.
    assert [int(sampler(mx.array(logits)).tokens.item()) for _ in range(3)] == [1, 0, 0]
    negative = np.array([[-1.0, -1.2, -9, -9]], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=1.5), [[0]], [0])
    assert int(sampler(mx.array(negative)).tokens.item()) == 1  # -1.0 * 1.5


def test_the_penalty_reaches_back_over_long_loops():
    logits = np.zeros((1, 200), np.float32) + np.linspace(1, 2, 200, dtype=np.float32)
    sampler = Sampler(Sampling(repetition_penalty=3.0), [[]], [0])
    seen = [int(sampler(mx.array(logits)).tokens.item()) for _ in range(200)]
    assert len(set(seen)) == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=f"{message} .* is out of range"):
        Sampling(**changes)


@pytest.mark.parametrize("sampling", [Sampling(temperature=1e-38), Sampling(temperature=1e-4)])
def test_a_tiny_temperature_is_greedy(sampling):
    assert draws(sampling, 5) == [int(LOGITS.argmax())] * 5


def test_a_tiny_top_p_keeps_the_first_token():
    assert draws(Sampling(temperature=1.0, top_p=1e-46), 5) == [int(LOGITS.argmax())] * 5


def test_the_penalty_is_applied_in_float32():
    # In bfloat16 both candidates would round to the same number.
    logits = mx.array([[4.0, 3.8125]]).astype(mx.bfloat16)
    sampler = Sampler(Sampling(repetition_penalty=1.05), [[0]], [0])
    assert int(sampler(logits).tokens.item()) == 1  # 4 / 1.05 = 3.8095


def test_a_logprob_is_that_of_the_models_own_distribution():
    logits = mx.array(np.concatenate([LOGITS, LOGITS[:, ::-1]]))
    tokens = mx.array([3, 44], mx.uint32)
    expected = [np.log(softmax(np.array(row))[t]) for row, t in zip(logits, (3, 44), strict=True)]
    assert np.allclose(np.array(logprobs_of(logits, tokens)), expected, atol=1e-5)
    cold = Sampler(Sampling(temperature=0.01, repetition_penalty=1.5), [[7]], [0], logprobs=True)
    drawn = cold(mx.array(LOGITS))
    token = int(drawn.tokens.item())
    assert np.isclose(drawn.logprobs.item(), np.log(softmax(LOGITS[0])[token]), atol=1e-5)


def test_a_logprob_is_behind_the_processors():
    best = int(LOGITS.argmax())
    forbid = mx.arange(50) == best
    sampler = Sampler(
        Sampling(),
        [[]],
        [0],
        processors=[lambda _, logits: mx.where(forbid, -mx.inf, logits)],
        logprobs=True,
    )
    drawn = sampler(mx.array(LOGITS))
    left = LOGITS[0].copy()
    left[best] = -np.inf
    assert drawn.tokens.item() == left.argmax()
    assert np.isclose(drawn.logprobs.item(), np.log(softmax(left).max()), atol=1e-5)


def test_random_states_do_not_come_again():
    keys = RandomKeys(3)
    assert len({tuple(keys.take().tolist()) for _ in range(2 * KEYS + 1)}) == 2 * KEYS + 1


def test_random_states_that_were_looked_at_come_when_they_are_taken():
    keys, others = RandomKeys(3), RandomKeys(3)
    for _ in range(KEYS - 3):
        keys.take()
        others.take()
    seen, later = keys.peek(5), keys.peek(2, after=mx.array(3))
    assert mx.array_equal(later, seen[3:5])
    assert [others.take().tolist() for _ in range(5)] == seen.tolist()
    keys.skip(4)
    assert keys.take().tolist() == seen[4].tolist()
    keys.skip(2 * KEYS)
    for _ in range(2 * KEYS):
        others.take()
    assert keys.take().tolist() == others.take().tolist()


def test_processors_see_prompt_and_answer_of_their_row():
    calls = []

    def forbid_what_was_said(tokens, logits):
        calls.append(tokens.tolist())
        mask = (mx.arange(50)[None] == tokens[:, None]).any(axis=0)
        return mx.where(mask, -1e9, logits)

    def sampler(*prompts):
        return Sampler(Sampling(), prompts, [0] * len(prompts), processors=[forbid_what_was_said])

    likely = np.argsort(-LOGITS[0]).tolist()
    alone = sampler([likely[0]])
    assert [alone(mx.array(LOGITS)).tokens.item() for _ in range(3)] == likely[1:4]
    assert calls[-1] == likely[:3]
    both = Sampler.joined([(alone, [0]), (sampler([likely[1]]), [0])])
    assert both(mx.array(LOGITS.repeat(2, axis=0))).tokens.tolist() == [likely[4], likely[0]]
