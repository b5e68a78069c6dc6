"""The engine: one loaded model that answers many conversations, singly or as a batch.

- An `Engine` holds a model and its processor. Programs that keep running are written against it.
- `once` has functions that do the same, for programs that ask once.
- Any thread may ask, and so may asyncio; see `device_thread`.
- It knows nothing of checkpoint files or the command line.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Unpack

from ..arrays import named_arrays
from ..device import Limits, choose_limits, set_limits
from ..device_thread import Steps, in_turn, in_turn_async
from ..errors import InputError, Lfm2VLError
from ..images.read import read_once
from ..images.source import ImageSources
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerChanges, AnswerOptions, Options, merged
from ..prompt.messages import Message, user_message, with_image
from ..prompt.processor import Processor
from ..prompt.sources import as_images
from .asking import BATCH_SIZE, Asking, Conversation
from .prefix_store import PrefixStore
from .result import Piece, Result
from .score import score_answers
from .scores import Scores
from .seen import Seen, read_images
from .stream import stream_answer
from .stream_batch import stream_answers

if TYPE_CHECKING:  # imported where there is a drafter
    from ..model.drafter import DraftModel
    from .drafting import Drafting


class Engine(Asking):
    """Answers conversations with one model, for any thread and for asyncio.

    A thread that changes the model's arrays must compute them (`mx.eval(model.parameters())`)
    before another thread asks, because no other can.

    Attributes:
        model: from `load`.
        processor: from `load`.
        store: keeps what answers have read, for prompts that begin in the same way; None keeps
            nothing.
        drafting: the draft model that was given, and what its rounds have taught.
    """

    def __init__(
        self,
        model: Lfm2VL,
        processor: Processor,
        *,
        store: PrefixStore | None = None,
        drafter: DraftModel | None = None,
    ) -> None:
        """
        Args:
            model: from `load`.
            processor: from `load`.
            store: keeps what answers have read; None keeps nothing.
            drafter: from `load_drafter`, for this model: the same answers in fewer steps.
        """
        self.model, self.processor, self.store = model, processor, store
        self.drafting: Drafting | None = None
        if drafter is not None:
            from .drafting import Drafting

            self.drafting = Drafting(drafter)

    def __repr__(self) -> str:
        return f"Engine({self.processor!r})"

    def limit_memory(self, cache: int | None = None, wired: int | None = None) -> Limits:
        """Set MLX's memory limits for the whole process.

        Args:
            cache: maximum bytes of freed memory to keep for reuse; None chooses by device.
            wired: maximum bytes to protect from being paged out; None chooses by device and model.

        Returns:
            The limits that were set.

        Raises:
            InputError: `wired` is more than the GPU may use.
        """
        arrays = named_arrays(self.model.parameters()).values()
        chosen = choose_limits(sum(array.nbytes for array in arrays))
        limits = Limits(
            chosen.cache if cache is None else cache, chosen.wired if wired is None else wired
        )
        set_limits(limits)
        return limits

    def streamed(
        self, messages: Sequence[Message], options: AnswerOptions, *, keys: list[bytes]
    ) -> Generator[Piece, None, None]:
        """Do what `stream` does, if the keys of the first images are known; adds the others'."""
        return in_turn(self._steps(messages, options, keys))

    def see(
        self,
        images: ImageSources,
        options: Options = None,
        *,
        system: str | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> Seen:
        """Read images once, to ask about them many times.

        >>> photo = engine.see("photo.jpg")
        >>> photo.ask("What is this?")
        >>> photo.ask_all(["Which colors are there?", "How many people?"], max_tokens=40)

        Args:
            images: one image or several, as for `stream`. Files are read here, once.
            options: defaults of the answers, as for `stream`.
            system: a system message; None has none.
            changes: fields of `AnswerOptions` that override `options`.

        Raises:
            InputError: an image cannot be read.
            NetworkError: an image URL cannot be fetched.
        """
        chosen = merged(options, changes)
        store = self.keep_prefixes()
        held = [read_once(image, self.processor.limits) for image in as_images(images)]
        if not held:
            raise InputError("there are no images to see")
        messages = user_message("", held, system)
        steps = read_images(self.model, self.processor, messages, chosen, store)
        ((keys, tokens),) = in_turn(steps)
        return Seen(self, held, system, chosen, keys, tokens)

    def astream(
        self,
        messages: Sequence[Message] | str,
        options: Options = None,
        *,
        image: ImageSources | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> AsyncGenerator[Piece, None]:
        """Do what `stream` does, for asyncio: `async for piece in engine.astream(...)`.

        The event loop goes on meanwhile. A task that is cancelled stops the answer.
        """
        chosen = merged(options, changes)
        return in_turn_async(self._steps(with_image(messages, image), chosen))

    async def agenerate(
        self,
        messages: Sequence[Message] | str,
        options: Options = None,
        *,
        image: ImageSources | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> Result:
        """Do what `generate` does, for asyncio: `await engine.agenerate(...)`."""
        result = None
        async for piece in self.astream(messages, options, image=image, **changes):
            result = piece.result
        assert result is not None
        return result

    def answered(
        self,
        conversations: Iterable[Conversation | None],
        options: AnswerOptions,
        *,
        batch_size: int = BATCH_SIZE,
        keys: Sequence[bytes] = (),
    ) -> list[Result]:
        """Answer conversations as a batch; see `batch_generate`, and `Seen` for the keys."""
        steps = self._batch_steps(options, batch_size, keys)
        results: dict[int, Result] = {}
        for number, result in in_turn(steps, conversations):
            if isinstance(result, Lfm2VLError):
                raise result
            results[number] = result
        return [results[number] for number in sorted(results)]

    def keep_prefixes(self) -> PrefixStore:
        """Keep what answers read from now on, for questions that begin in the same way."""
        self.store = self.store or PrefixStore()
        return self.store

    def content_fingerprint(self) -> bytes:
        """Return 32 bytes that are the same for the same weights and settings; see `FolderRun`."""
        from .fingerprint import content_fingerprint

        return content_fingerprint(self.model)

    def _stream(self, asked: Conversation, options: AnswerOptions) -> Iterator[Piece]:
        return in_turn(self._steps(asked, options))

    def _stream_batch(
        self, conversations: Iterable[Conversation | None], options: AnswerOptions, batch_size: int
    ) -> Iterator[tuple[int, Result | Lfm2VLError]]:
        return in_turn(self._batch_steps(options, batch_size), conversations)

    def _score(self, asked: Conversation, answers: Sequence[str], options: AnswerOptions) -> Scores:
        steps = score_answers(self.model, self.processor, asked, answers, options, self.store)
        (scores,) = in_turn(steps)
        return scores

    def _batch_steps(
        self, options: AnswerOptions, batch_size: int, keys: Sequence[bytes] = ()
    ) -> Steps[tuple[int, Result | Lfm2VLError]]:
        return stream_answers(
            self.model, self.processor, options, batch_size, self.store, keys, self.drafting
        )

    def _steps(
        self, asked: Conversation, options: AnswerOptions, keys: list[bytes] | None = None
    ) -> Steps[Piece]:
        return stream_answer(
            self.model, self.processor, asked, options, self.store, keys, self.drafting
        )
