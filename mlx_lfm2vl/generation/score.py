"""How likely given answers to a conversation are, without writing any of them.

- The prompt with its images is read once. Each answer then is a row of a batch that continues it.
- Shorter rows are filled up behind their end, where no earlier position looks.
- An answer's probability includes that of ending after it, so that "cat" does not stand for
  "cat tree".
- These are the model's own probabilities: no sampling setting changes them.
- The numbers equal those of reading prompt and answer as one sequence, up to rounding.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np

from ..device_thread import Steps
from ..errors import InputError
from ..model.cache import Cache, Rows
from ..model.decode_step import prefill_passes
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions
from ..prompt.messages import Message
from ..prompt.processor import Inputs, Processor
from .prefix_store import PrefixStore
from .prepare import Stage, embedding, finished, read_prompt
from .scores import Likelihood, Scores

MAX_POSITIONS = 512  # of all rows in one pass
# Positions of a pass that only fill up shorter rows. On a CPU they take as long as one more pass,
# which reads the weights once more.
MAX_FILLED = 16
MAX_BYTES = 2**29  # of the copies of the prompt's keys and values in one pass


def score_answers(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    answers: Sequence[str],
    options: AnswerOptions,
    store: PrefixStore | None = None,
) -> Steps[Scores]:
    """Yield how likely answers are; see `Engine.score`."""
    question = read_question(model, processor, messages, answers, options)
    yield finished(scoring(model, question, store))


@dataclass(frozen=True)
class Question:
    """A conversation that was read on the host, with answers to score.

    Attributes:
        prompt: of the conversation.
        answers: token ids of each.
        options: see `Engine.score`.
        keys: of the images, if they are known; see `embed_prompt`.
    """

    prompt: Inputs
    answers: list[list[int]]
    options: AnswerOptions
    keys: Sequence[bytes] = ()


def read_question(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    answers: Sequence[str],
    options: AnswerOptions,
) -> Question:
    """Read a conversation and answers to score; any thread may. See `Engine.score` for errors."""
    ids = [processor.tokenizer.encode_plain(answer) for answer in answers]
    if not ids or not all(ids):
        raise InputError("there is no answer to score, or one without text")
    room = options.changed({"max_tokens": max(map(len, ids)) + 1})
    prompt = read_prompt(model, processor, messages, room)
    if prompt.start:
        raise InputError("whole answers are scored, so none can have begun: drop answer_start")
    return Question(prompt, ids, options)


def scoring(
    model: Lfm2VL, question: Question, store: PrefixStore | None
) -> Generator[Stage, None, Scores]:
    """Return how likely answers are; yield whenever a part of the prompt is queued."""
    prompt, ids, options = question.prompt, question.answers, question.options
    encoded = embedding(model, prompt, store, options.on_encode, question.keys, options.kv_bits)
    ready = yield from encoded
    cached, cache = ready.cached, ready.branch.cache
    logits, tokens = None, len(prompt.input_ids)
    for done, found in prefill_passes(
        model, ready.taken(), cache, ready.passes(options.on_prefill)
    ):
        logits = found
        yield Stage("prefill", cached + done, tokens)
    assert logits is not None
    first = _log_softmax(logits)[0]
    mx.async_eval(first, *cache.arrays)
    if store:
        store.keep(ready.read([]))  # a fork reads the answers
    later: dict[int, list[float]] = {}
    for rows in _passes([len(row) for row in ids], cache.nbytes):
        read = _read_rows(model, cache, [ids[row] for row in rows])
        for row, logprobs in zip(rows, read, strict=True):
            later[row] = logprobs
    begins = cast(list[float], first[mx.array([row[0] for row in ids])].tolist())
    return Scores(
        [Likelihood(row, [begins[i], *later[i]]) for i, row in enumerate(ids)],
        len(prompt.input_ids),
        prompt.image_tokens,
        cached,
        prompt.images,
    )


def _passes(lengths: Sequence[int], prefix_bytes: int) -> Iterator[list[int]]:
    """Group rows of similar length, so that a pass is small and has little to fill up."""
    most = max(1, MAX_BYTES // max(1, prefix_bytes))
    rows: list[int] = []
    filled = 0
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        filled += len(rows) * (lengths[row] - lengths[rows[-1]]) if rows else 0
        is_full = len(rows) == most or (len(rows) + 1) * lengths[row] > MAX_POSITIONS
        if rows and (is_full or filled > MAX_FILLED):
            yield rows
            rows, filled = [], 0
        rows.append(row)
    yield rows


def _read_rows(model: Lfm2VL, cache: Cache, ids: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the log-probabilities of each row's tokens from the second on, and of the end."""
    length = max(map(len, ids))
    batch = np.zeros((len(ids), length), np.int32)
    for number, row in enumerate(ids):
        batch[number, : len(row)] = row
    branch = Cache.joined([Rows(cache, [0] * len(ids))])
    hidden = model.language_model(model.language_model.embed_tokens(mx.array(batch)), branch)
    places = [number * length + at for number, row in enumerate(ids) for at in range(len(row))]
    hidden = hidden.flatten(0, 1)[mx.array(places)]
    nexts = [token for row in ids for token in [*row[1:], -1]]  # -1 is the end
    ends = mx.array(model.config.eos_token_ids)
    logprobs: list[float] = []
    for begin in range(0, len(places), MAX_POSITIONS):  # few rows of logits at a time
        wanted = mx.array(nexts[begin : begin + MAX_POSITIONS])
        table = _log_softmax(model.head(hidden[begin : begin + MAX_POSITIONS]))
        tokens = mx.take_along_axis(table, mx.maximum(wanted, 0)[:, None], axis=1)[:, 0]
        ending = mx.logsumexp(table[:, ends], axis=1)
        logprobs += cast(list[float], mx.where(wanted < 0, ending, tokens).tolist())
    remaining = iter(logprobs)
    return [[next(remaining) for _ in row] for row in ids]


def _log_softmax(logits: mx.array) -> mx.array:
    """Return float32 log-probabilities of (B, vocab_size) logits."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
