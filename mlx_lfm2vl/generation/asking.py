"""How every engine is asked, whether its model is in this process or in another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Unpack

from ..errors import Lfm2VLError
from ..options import AnswerChanges, AnswerOptions, Options, merged
from ..prompt.messages import Message, with_image
from .result import Piece, Result
from .scores import Scores

if TYPE_CHECKING:  # an engine of another process does without the modules of images
    from ..images.source import ImageSources

Conversation = Sequence[Message] | str
BATCH_SIZE = 8  # conversations answered at the same time


class Asking(ABC):
    """The questions of an engine. Keywords become options, and images a part of the question."""

    def stream(
        self,
        messages: Sequence[Message] | str,
        options: Options = None,
        *,
        image: ImageSources | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> Iterator[Piece]:
        """Answer a conversation piece by piece.

        Args:
            messages: a list of `{"role": ..., "content": ...}` (see `Processor`), or one question
                as a string.
            options: of the answer; `ImageOptions` alone are accepted too.
            image: one image or several for a question given as a string.
            changes: fields of `AnswerOptions` that override `options`.

        Yields:
            Pieces whose texts add up to the answer. The last one has the `Result`.

        Raises:
            InputError: messages, options or images are bad, or the prompt and `max_tokens` exceed
                the context.
            NetworkError: an image URL cannot be fetched.
            TypeError: a keyword is not a field of `AnswerOptions`.
        """
        chosen = merged(options, changes)
        return self._stream(with_image(messages, image), chosen)

    def generate(
        self,
        messages: Sequence[Message] | str,
        options: Options = None,
        *,
        image: ImageSources | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> Result:
        """Answer a conversation and return the result; see `stream` for arguments and errors."""
        chosen = merged(options, changes)
        return self._answer(with_image(messages, image), chosen)

    def stream_batch(
        self,
        conversations: Iterable[Conversation | None],
        options: Options = None,
        *,
        batch_size: int = BATCH_SIZE,
        **changes: Unpack[AnswerChanges],
    ) -> Iterator[tuple[int, Result | Lfm2VLError]]:
        """Answer conversations as a batch and yield each answer when it is complete.

        A finished conversation makes room for the next one at once. Conversations may differ in
        images and length. Those that start together and are equally long are read in one pass. The
        answers do not depend on one another. They equal those of `generate` up to rounding, which
        may differ because a batch computes larger matrix products.

        Args:
            conversations: messages of each, as for `stream`, but without `image`. They are taken
                one by one as there is room, so their number is not limited. None says that the next
                is not there yet, so that those under way go on; it has no number.
            options: of every answer, as for `stream`. Each conversation uses the seed as if it were
                alone. A draft model serves batches of up to three; larger ones if `draft_tokens` is
                given.
            batch_size: maximum conversations to answer at the same time, at least 1.
            changes: as for `stream`.

        Yields:
            The number of a conversation, from 0, with its `Result`. If it cannot be answered, with
            the error instead; the others continue.

        Raises:
            InputError: an option or `batch_size` is out of range.
            TypeError: a keyword is not a field of `AnswerOptions`.
        """
        chosen = merged(options, changes)
        return self._stream_batch(conversations, chosen, batch_size)

    def score(
        self,
        messages: Sequence[Message] | str,
        answers: Sequence[str],
        options: Options = None,
        *,
        image: ImageSources | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> Scores:
        """Return how likely given answers are; the prompt is read once.

        Args:
            messages: as for `stream`.
            answers: whole answers, as the model would write them.
            options: as for `stream`; only those of the prompt count, and `kv_bits`.
            image: as for `stream`.
            changes: as for `stream`.

        Raises:
            InputError: as for `stream`, or an answer is empty.
        """
        chosen = merged(options, changes)
        return self._score(with_image(messages, image), answers, chosen)

    @abstractmethod
    def _stream(self, asked: Conversation, options: AnswerOptions) -> Iterator[Piece]:
        """Do what `stream` does; errors of the question itself may come with the first piece."""

    def _answer(self, asked: Conversation, options: AnswerOptions) -> Result:
        """Do what `generate` does."""
        result = None
        for piece in self._stream(asked, options):
            result = piece.result
        assert result is not None
        return result

    @abstractmethod
    def _stream_batch(
        self, conversations: Iterable[Conversation | None], options: AnswerOptions, batch_size: int
    ) -> Iterator[tuple[int, Result | Lfm2VLError]]:
        """Do what `stream_batch` does."""

    @abstractmethod
    def _score(self, asked: Conversation, answers: Sequence[str], options: AnswerOptions) -> Scores:
        """Do what `score` does."""
