"""One conversation of a batch: what was asked, and its answer as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import mlx.core as mx
import numpy as np

from ..errors import Lfm2VLError
from ..model.cache import Cache
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions, Sampling
from ..prompt.processor import Inputs, Processor, Views
from .answer import Answer, Clock, make_result
from .asking import Conversation
from .loop import Drafts, Token
from .prefix import image_key
from .prefix_store import Branch
from .prepare import Ready, fitted, read_prompt
from .result import Piece, Result, Timings
from .sampling import Sampler, logprobs_of

if TYPE_CHECKING:  # imported where there is a drafter or a constraint
    from ..model.drafter import DraftCache
    from .drafted import Drafter
    from .guide import Guide


@dataclass(frozen=True)
class Asked:
    """A conversation whose prompt was read on the host.

    Attributes:
        prompt: of the conversation.
        options: of the answer.
        sampling: of the answer.
        seed: of its random states.
        seconds: that this took, without decoding images.
        keys: of its images, if they are decoded; see `prefix.image_key`.
        context: in which the answer's tokens are read, so that what is logged can be told apart.
        keeps_answer: whether a store keeps what the answer has read; it keeps the prompt anyway.
    """

    prompt: Inputs
    options: AnswerOptions
    sampling: Sampling
    seed: int
    seconds: float
    keys: Sequence[bytes] = ()
    context: Context = field(default_factory=copy_context)
    keeps_answer: bool = True


def ask(
    model: Lfm2VL, processor: Processor, messages: Conversation, options: AnswerOptions
) -> Asked:
    """Read the prompt of a conversation; any thread may. See `read_prompt` for errors."""
    clock = Clock()
    prompt = read_prompt(model, processor, messages, options)
    sampling, seed = options.sampling_over(model.config.sampling), options.drawn_seed()
    return Asked(prompt, fitted(model, prompt, options), sampling, seed, clock.lap())


def with_images(asked: Asked) -> Asked:
    """Decode the images of a conversation now; any thread may.

    Raises:
        InputError: an image is damaged.
    """
    prompt, keys = decoded(asked.prompt)
    return replace(asked, prompt=prompt, keys=keys)


def decoded(prompt: Inputs) -> tuple[Inputs, list[bytes]]:
    """Return a prompt with images that are decoded, and their keys; see `with_images`."""
    views = list(prompt.views)
    pairs = zip(views, prompt.images, strict=True)
    keys = [image_key(patches, plan.spatial_shapes) for patches, plan in pairs]
    return replace(prompt, views=Views([partial(_same, patches) for patches in views])), keys


def _same(views: list[np.ndarray]) -> list[np.ndarray]:
    return views


@dataclass(eq=False)
class Row:
    """One conversation in the batch.

    Attributes:
        number: of the conversation, as its caller counts.
        asked: the conversation.
        ready: its prompt, embedded.
        answer: so far.
        clock: runs since the first image was encoded.
        guide: of its constraint.
        sampler: that draws its tokens, maybe those of other rows too.
        place: among the rows of that sampler.
        drafter: of its drafts; None if it has none.
        last: the last token that the host has read.
        error: why it cannot be continued.
        has_left: whether nobody waits for it any more.
        drafts: counts of its drafts.
        said: all tokens of the answer, the end token too.
    """

    number: int
    asked: Asked
    ready: Ready
    answer: Answer
    clock: Clock
    guide: Guide | None
    sampler: Sampler = field(init=False)
    place: int = 0
    drafter: Drafter | None = None
    last: int = 0
    error: Lfm2VLError | None = None
    has_left: bool = False
    drafts: Drafts = field(default_factory=Drafts)
    said: list[int] = field(default_factory=list[int])
    _first: float = 0.0  # seconds from the clock's start to the first token
    _text: str = ""  # since the last piece
    _given: int = 0  # tokens in pieces

    @property
    def options(self) -> AnswerOptions:
        """Options of its answer."""
        return self.asked.options

    @property
    def is_over(self) -> bool:
        """Whether no token of it is wanted any more."""
        return self.has_left or self.error is not None or self.answer.finish_reason is not None

    @property
    def left(self) -> int:
        """Number of tokens that may still come."""
        return self.options.max_tokens - len(self.answer.token_ids)

    def mask(self) -> np.ndarray | None:
        """Return (vocab_size,) bool, the tokens that may come next; None allows all."""
        if self.guide is None or self.is_over:
            return None
        try:
            return self.guide.mask()
        except Lfm2VLError as error:
            self.error = error
            return None

    def add(self, token: Token, logits: mx.array, place: int) -> None:
        """Add a token that was drawn, or what its constraint puts in its place.

        Args:
            token: that the host has read.
            logits: (N, vocab_size) that it was drawn from.
            place: of its row there.
        """
        if self.is_over:
            return
        self.last, logprob, ended = token.id, token.logprob, None
        if self.guide is not None:
            try:
                self.last = self.guide.take(token.id)
            except Lfm2VLError as error:
                self.error = error
                return
            ended = self.guide.ended
            if self.last != token.id and self.answer.wants_logprobs:
                own = logprobs_of(logits[place : place + 1], mx.array([self.last]))
                (logprob,) = cast(list[float], own.tolist())
        self._first = self._first or self.clock.lap()
        self.said.append(self.last)
        self._text += self.asked.context.run(self.answer.add, self.last, logprob, ended)
        if self.drafter is not None:
            self.drafter.add(self.last)

    def piece(self) -> Piece | None:
        """Return what is new since the last piece; None if there is no new text.

        The last piece has the result.
        """
        is_last = self.answer.finish_reason is not None
        if not (self._text or is_last):
            return None
        result = self.result() if is_last else None
        piece = self.answer.piece(self._text, self._given, result)
        self._text, self._given = "", len(self.answer.token_ids)
        return piece

    def read(self, cache: Cache) -> Branch:
        """Return what was read of the prompt and the answer.

        Args:
            cache: of this row alone.
        """
        context = self.drafter_context() or self.ready.branch.context
        snapshots = dict(self.ready.branch.snapshots)
        branch = replace(self.ready.branch, cache=cache, snapshots=snapshots, context=context)
        return replace(self.ready, branch=branch).read(self.said)

    def drafter_context(self) -> DraftCache | None:
        """Return what a draft model has read, which goes on with a copy; None without one."""
        if self.drafter is None:
            return None
        from .drafting import ModelDrafter

        return self.drafter.branched_off() if isinstance(self.drafter, ModelDrafter) else None

    def result(self) -> Result:
        """Return the result of a finished row; it reads the clock, so call it once."""
        decoding = self.ready.decoding
        timings = Timings(self.asked.seconds + decoding, self._first - decoding, self.clock.lap())
        return make_result(
            self.answer,
            self.asked.prompt,
            self.asked.sampling,
            self.asked.seed,
            timings,
            self.drafts,
            self.ready.cached,
        )
