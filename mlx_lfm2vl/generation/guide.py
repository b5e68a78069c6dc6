"""What keeps one answer inside its constraint.

- A `Guide` is given the tokens of one answer, and says which may come next.
- It knows token ids. It knows nothing of logits, sampling or the model.
- The answer always ends within its budget: at every token the guide knows other tokens that would
  end it, and writes them when no more fit.
- A token that comes without choice is the one that the tokenizer gives for the text that must
  follow. So the tokens do not depend on how many of them a step reads.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np

from ..constraints.constraint import Constraint, compiled
from ..errors import InputError
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions
from ..prompt.processor import Processor
from .closing import closing, shortest
from .result import FinishReason
from .vocabulary import Vocabulary, vocabulary_of

SUFFIXES = 4  # beginnings of the last closing that may already be written
OPEN = 0.25  # share of allowed tokens above which forced ones are unlikely to follow
LONGEST = 4096  # tokens of a closing that is looked for to name its length


class Guide:
    """Keeps one answer inside a constraint.

    Attributes:
        ended: why the answer is complete, or None. "length" if the budget has closed it.
    """

    def __init__(
        self, vocabulary: Vocabulary, constraint: Constraint, max_tokens: int, start: str = ""
    ) -> None:
        """
        Args:
            vocabulary: of the model.
            constraint: of the whole answer.
            max_tokens: the budget, without the end token.
            start: text that the answer begins with and that the prompt ends with.

        Raises:
            InputError: the start does not fit the constraint, or no answer fits the budget. Every
                method raises it where the constraint turns out to be too large to be followed.
        """
        self._vocabulary, self._name = vocabulary, constraint.name
        self._matcher = vocabulary.matcher(compiled(constraint))
        self._check()
        self._end = min(vocabulary.ends)
        self._left = max_tokens  # tokens that may still be decided
        self._decided: list[int] = []  # tokens that come next without choice
        self._closes = False  # whether the budget decides
        self.ended: FinishReason | None = None
        self._allowed: np.ndarray | None = None  # at this place, once it is asked for
        if start:
            ids = vocabulary.tokens.tokenize_str(start)
            if self._matcher.try_consume_tokens(ids) < len(ids):
                raise InputError(f"{self._name} allows no answer that begins with {start!r:.60}")
        if self._matcher.is_stopped():
            raise InputError(f"{self._name} leaves nothing to answer")
        found = closing(vocabulary, self._matcher, max_tokens)
        if found is None:
            raise InputError(self._too_long(max_tokens))
        self._closing = found  # from where the matcher stands
        self._decide()

    @property
    def decided(self) -> list[int]:
        """The tokens that come next without choice."""
        return list(self._decided)

    @property
    def is_open(self) -> bool:
        """Whether most tokens may come next, as within a string."""
        return not self._decided and float(np.mean(self.mask())) > OPEN

    def mask(self) -> np.ndarray:
        """Return (rows,) bool: the tokens that may come next."""
        if self._allowed is None:
            if self._decided or self.ended:
                self._allowed = np.zeros(self._vocabulary.rows, bool)
                self._allowed[self._decided[:1] or list(self._vocabulary.ends)] = True
            else:
                words = self._vocabulary.words(self._matcher)
                self._allowed = self._vocabulary.unpacked(words)
                self._check()
        return self._allowed

    def take(self, token: int) -> int:
        """Add a drawn token to the answer.

        Returns:
            The token, or the one that comes instead: if the answer could no longer end in time, or
            if the token is not allowed, because a logits processor excludes all that are.
        """
        self._allowed = None
        if self._decided:
            return self._next()
        if token in self._vocabulary.ends and self._matcher.is_accepting():
            self.ended = "stop"
            return token
        if not self._add([token]):
            self._close()
            return self._next()
        self._decide()
        self._note_end()
        return token

    def along(self, proposals: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Return which tokens of a draft may come next, and what may come beside and after them.

        Args:
            proposals: tokens in order. They end before the first that cannot come, would be
                replaced, or would end the answer.

        Returns:
            G of the proposals, and (G + 1, rows) bool: the tokens that may come at each place.
        """
        guide, masks, draft = self._copy(), [self.mask()], list[int]()
        for token in proposals:
            try:
                if not masks[-1][token] or guide.take(token) != token or guide.ended:
                    break
                masks.append(guide.mask())
            except InputError:  # the matcher fails on this way, which the answer may never go
                break
            draft.append(token)
        return draft, np.stack(masks)

    def _copy(self) -> "Guide":
        """Return a guide that goes on by itself from the same place."""
        other = copy(self)
        other._matcher = self._matcher.deep_copy()
        other._decided, other._closing = list(self._decided), list(self._closing)
        return other

    def forced(self) -> list[int]:
        """Add the tokens that come without choice, often none, and return them."""
        if self._decided:
            self._allowed = None
        return [self._next() for _ in range(len(self._decided))]

    def _next(self) -> int:
        token = self._decided.pop(0)
        self._note_end()
        return token

    def _note_end(self) -> None:
        """Note it if nothing can follow."""
        if self._decided:
            return
        if self._matcher.is_stopped() and not self._closes:
            self.ended = "stop"
        elif self._closes or not self._left:
            self.ended = "length"

    def _decide(self) -> None:
        """Decide what comes without choice."""
        if not self._left or self._matcher.is_stopped():
            return
        tokens: list[int] = self._matcher.compute_ff_tokens()
        if tokens and self._add(tokens):
            self._decided = tokens
        elif tokens:
            self._close()

    def _add(self, tokens: list[int]) -> bool:
        """Move on by some tokens if the answer can then end; else it must be closed now."""
        taken = self._matcher.try_consume_tokens(tokens)
        self._check()
        if taken == len(tokens) <= self._left:
            found = self._closing_after(tokens)
            if found is not None:
                self._closing, self._left = found, self._left - len(tokens)
                return True
        return False

    def _close(self) -> None:
        """Decide to end the answer now."""
        self._decided, self._closes = self._closing or [self._end], True

    def _closing_after(self, tokens: list[int]) -> list[int] | None:
        """Return a closing that fits behind tokens that the matcher has just been moved by.

        It is the last one, or a part of it, wherever that still works: a search takes longer.
        """
        left, old = self._left - len(tokens), self._closing
        if self._matcher.is_accepting():
            return []
        if old[: len(tokens)] == tokens:
            return old[len(tokens) :]
        for begin in range(min(SUFFIXES, len(old))):
            rest = old[begin:]
            if len(rest) <= left and self._matcher.validate_tokens([*rest, self._end]) > len(rest):
                return rest
        return closing(self._vocabulary, self._matcher, left)

    def _too_long(self, max_tokens: int) -> str:
        found = shortest(self._vocabulary, self._matcher, LONGEST)
        needed = "no answer that short was found" if found is None else f"it needs {len(found)}"
        return f"max_tokens is {max_tokens}, too few for {self._name}: {needed}; raise it"

    def _check(self) -> None:
        if self._matcher.is_error():
            # Behind the reason stands the state, which holds the answer.
            reason = " ".join(str(self._matcher.get_error()).partition("<state>")[0].split())[:300]
            raise InputError(f"{self._name} cannot be followed, make it simpler: {reason}")


def make_guide(model: Lfm2VL, processor: Processor, options: AnswerOptions, start: str) -> Guide:
    """Return the guide of an answer; see `Guide` for `start` and errors."""
    assert options.constraint is not None
    config = model.config
    vocabulary = vocabulary_of(processor.tokenizer, config.text.vocab_size, config.eos_token_ids)
    return Guide(vocabulary, options.constraint, options.max_tokens, start)
