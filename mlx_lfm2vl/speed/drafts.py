"""Measure what a draft model gains: one question about an image, with it and without it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..generation.engine import Engine
from ..generation.result import Result
from ..generation.sampling import greedy
from ..model.decode_step import decode_step, prefill
from ..model.drafter import DraftModel
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions, Sampling
from ..prompt.messages import user_message
from ..prompt.processor import Processor
from .stages import PROMPT

CONTEXT = 64  # tokens in the caches when a round is timed
ROUNDS = 5  # timed rounds, of which the fastest counts


@dataclass(frozen=True)
class DraftSpeed:
    """Greedy decoding with a draft model against plain decoding, in one process.

    Attributes:
        tokens: of the answer.
        same_tokens: whether both answers are the same, as they are in float32.
        plain_tokens_per_second: without it.
        tokens_per_second: with it.
        tokens_per_round: tokens that a verified draft gives, the model's own included.
        accepted_share: share of the verified tokens that were accepted.
        accepted_lengths: how many rounds accepted 0, 1, 2, ... tokens.
        proposals: tokens of the draft that is timed.
        plain_seconds: of a plain step.
        draft_seconds: of a draft. An answer does not wait between draft and verification. They are
            timed apart here, with a wait after each, so a round of an answer is faster.
        verify_seconds: of its verification.
    """

    tokens: int
    same_tokens: bool
    plain_tokens_per_second: float
    tokens_per_second: float
    tokens_per_round: float
    accepted_share: float
    accepted_lengths: list[int]
    proposals: int
    plain_seconds: float
    draft_seconds: float
    verify_seconds: float

    @property
    def gain(self) -> float:
        """How many times as fast decoding is."""
        return self.tokens_per_second / max(self.plain_tokens_per_second, 1e-9)


def measure_drafts(
    model: Lfm2VL,
    processor: Processor,
    drafter: DraftModel,
    image: Path,
    *,
    tokens: int,
    repeats: int,
    proposals: int | None = None,
    report: Callable[[int, int], object] = lambda *_: None,
) -> DraftSpeed:
    """Measure one question about one image; runs with and without the drafter take turns.

    Args:
        model: from `load`.
        processor: from `load`.
        drafter: from `load_drafter`.
        image: path of a file.
        tokens: longest answer after the first token.
        repeats: runs of each kind, of which the fastest counts. One more of each warms up, and
            teaches the length of drafts.
        proposals: most tokens of a draft; None chooses by what is measured.
        report: called with the number of pairs of runs done so far and the total.

    Raises:
        InputError: the image cannot be read, or the context is too small.
    """
    engine = Engine(model, processor, drafter=drafter)
    options = AnswerOptions(max_tokens=tokens + 1, sampling=Sampling(), draft_tokens=proposals)
    messages = user_message(PROMPT, [image])
    pairs: list[tuple[Result, Result]] = []
    for done in range(1, repeats + 2):
        plain = engine.generate(messages, options, draft_tokens=0)
        pairs.append((plain, engine.generate(messages, options)))
        report(done, repeats + 1)
    plains, drafted = zip(*pairs[1:], strict=True)
    last = drafted[-1]
    longest = drafter.config.block_size
    tried = min(longest, proposals or longest)
    return DraftSpeed(
        tokens=len(last.token_ids),
        same_tokens=all(one.token_ids == other.token_ids for one, other in pairs),
        plain_tokens_per_second=max(each.tokens_per_second for each in plains),
        tokens_per_second=max(each.tokens_per_second for each in drafted),
        tokens_per_round=last.tokens_per_round,
        accepted_share=last.accepted_tokens / max(last.drafted_tokens, 1),
        accepted_lengths=[last.rounds.get(n, 0) for n in range(max(last.rounds, default=-1) + 1)],
        proposals=tried,
        **round_seconds(model, drafter, tried),
    )


def round_seconds(model: Lfm2VL, drafter: DraftModel, proposals: int) -> dict[str, float]:
    """Time the parts of a round one by one, waiting for the device after each.

    Args:
        model: the target.
        drafter: of the target.
        proposals: tokens to draft and verify.

    Returns:
        Seconds by the names of `DraftSpeed`: of a plain step, a draft and its verification.
    """
    decoder, taps = model.language_model, drafter.config.target_layer_ids
    cache, context = model.make_cache(), drafter.make_cache()

    class Reader:
        """Gives the drafter the context."""

        def __init__(self) -> None:
            self.taps = taps

        def read(self, outputs: Sequence[mx.array]) -> None:
            drafter.append(mx.concatenate(list(outputs), axis=-1), context)

    prefill(model, model.embed([1] * CONTEXT), cache, reader=Reader())
    mx.eval(cache.arrays, context.arrays)
    ids = mx.array([[1] * (proposals + 1)], mx.uint32)
    masks = [drafter.config.mask_token_id] * (drafter.config.block_size - 1)
    block = decoder.embed_tokens(mx.array([[1, *masks]]))
    step = decode_step(model)

    def plain() -> None:
        mx.eval(greedy(step(ids[0, :1], cache)), cache.arrays)

    def verify() -> list[mx.array]:
        hidden, outputs = decoder.tapped(decoder.embed_tokens(ids), cache, taps)
        mx.eval(greedy(model.head(hidden[0])), *outputs, *cache.arrays)
        cache.trim(ids.shape[1])
        return list(outputs)

    joined = mx.concatenate(verify(), axis=-1)

    def draft() -> None:
        states = drafter.states(block, context, joined, ids.shape[1])[0]
        found = drafter.propose(states, model.head(states), ids[0, 0])
        mx.eval(found.numbers, *context.arrays)

    def fastest(work: Callable[[], object]) -> float:
        times: list[float] = []
        for _ in range(ROUNDS + 1):  # one to warm up
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return {
        "plain_seconds": fastest(plain),
        "draft_seconds": fastest(draft),
        "verify_seconds": fastest(verify),
    }
