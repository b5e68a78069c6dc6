"""A conversation that can be taken back: questions, their images, and the answers so far.

- It knows nothing of terminals or files. The `chat` command and `session` are written against it.
- Images are held as bytes. A file that changes or goes away later changes nothing.
- The engine's store has read what was said, so undoing costs nothing, and the next question costs
  its own tokens.
- A question that gets no word of an answer leaves the conversation as it was.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, Unpack

from ..errors import InputError
from ..images.geometry import ImagePlan, plan_image
from ..images.read import NamedBytes, read_source
from ..images.source import open_image
from ..options import LARGEST_SEED, AnswerChanges, AnswerOptions
from ..prompt.messages import Message, user_message
from .engine import Engine
from .prefix import Prefix
from .prefix_store import PrefixStore
from .result import FinishReason, Piece

Ended = FinishReason | Literal["interrupted"]


@dataclass(frozen=True)
class Picture:
    """An image of a conversation.

    Attributes:
        data: the bytes of its file, and its name.
        digest: SHA-256 of the bytes, in hexadecimal.
    """

    data: NamedBytes
    digest: str

    @classmethod
    def of(cls, name: str, data: bytes) -> "Picture":
        """Make the picture of a file's bytes."""
        held = NamedBytes(data)
        held.name = name
        return cls(held, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: its text.
        images: that came with it, before the text.
        answer: as far as it was said.
        seed: of the answer.
        ended: why the answer ended.
    """

    question: str
    images: tuple[Picture, ...]
    answer: str
    seed: int
    ended: Ended


@dataclass(frozen=True)
class Count:
    """What a conversation takes, in tokens.

    Attributes:
        tokens: all of them.
        images: number of images.
        image_tokens: image tokens among them.
        cached: need not be read again.
        context: the most that the model can read.
    """

    tokens: int
    images: int
    image_tokens: int
    cached: int
    context: int

    @property
    def left(self) -> int:
        """Tokens that the context has room for."""
        return max(0, self.context - self.tokens)


class Conversation:
    """Questions and answers, one after the other.

    Attributes:
        engine: that answers. It gets a store if it has none.
        options: of every answer.
        system: the system message; None for none.
        turns: what was said, oldest first.
        waiting: images that will go with the next question.
    """

    def __init__(
        self, engine: Engine, options: AnswerOptions | None = None, system: str | None = None
    ) -> None:
        engine.store = self.store = engine.store or PrefixStore()
        self.engine, self.options, self.system = engine, options or AnswerOptions(), system
        self.turns: list[Turn] = []
        self.waiting: list[Picture] = []
        # `image_key` of a picture as the image options show it.
        self.keys: dict[tuple[str, object], bytes] = {}

    @property
    def messages(self) -> list[Message]:
        """Everything that was said, as the engine takes it."""
        return self._messages(self.turns)

    @property
    def pictures(self) -> list[Picture]:
        """The images of all turns in their order."""
        return [picture for turn in self.turns for picture in turn.images]

    def add_image(self, source: Any) -> ImagePlan:
        """Read an image, which will go with the next question, and return what it costs.

        Raises:
            InputError: it cannot be read, or there are too many images.
            NetworkError: its URL cannot be fetched.
        """
        processor = self.engine.processor
        processor.limits.check_count(len(self.pictures) + len(self.waiting) + 1)
        picture = Picture.of(*read_source(source, processor.limits))
        config = processor.image_config.with_options(self.options.image_options)
        plan = plan_image(*open_image(picture.data, processor.limits).size, config)
        self.waiting.append(picture)
        return plan

    def ask(self, question: str, **changes: Unpack[AnswerChanges]) -> Generator[Piece, None, None]:
        """Answer a question about the images that wait and all that was said.

        The turn is added when the iterator ends or is closed. A closed one has the answer as far as
        it was said.

        Args:
            question: its text.
            changes: fields of `AnswerOptions` that override `options`.

        Raises:
            InputError: an option or an image is bad, or the prompt does not fit the context.
        """
        return self._answer(self.turns, question, tuple(self.waiting), changes)

    def retry(self, **changes: Unpack[AnswerChanges]) -> Generator[Piece, None, None]:
        """Answer the last question again, with the seed that follows the last one; see `ask`."""
        last = self._last()
        given: AnswerChanges = {"seed": (last.seed + 1) % (LARGEST_SEED + 1), **changes}
        return self._answer(self.turns[:-1], last.question, last.images, given)

    def edit(self, question: str, **changes: Unpack[AnswerChanges]) -> Generator[Piece, None, None]:
        """Ask another question in place of the last; images that wait come to its own."""
        images = (*self._last().images, *self.waiting)
        return self._answer(self.turns[:-1], question, images, changes)

    def undo(self) -> Turn:
        """Take the last question and its answer back, and return them.

        Raises:
            InputError: nothing was asked.
        """
        last = self._last()
        self.turns = self.turns[:-1]
        return last

    def count(self) -> Count:
        """Count the tokens of everything that was said, without decoding an image."""
        context = self.engine.model.config.text.max_position_embeddings
        if not self.messages:
            return Count(0, 0, 0, 0, context)
        whole, image_tokens = self.prefix()
        known = whole
        if len(whole.keys) < len(whole.spans):
            known = whole.until(whole.spans[len(whole.keys)][0])
        cached = self.store.common(known)
        return Count(len(whole), len(whole.spans), image_tokens, cached, context)

    def prefix(self) -> tuple[Prefix, int]:
        """Return the tokens of everything that was said, and how many are of images.

        Of images that the model has not seen, and of those after them, the keys are missing.
        """
        inputs = self.engine.processor(
            self.messages,
            options=self.options.image_options,
            tools=self.options.tools,
            special_tokens=self.options.special_tokens,
            add_generation_prompt=False,
        )
        keys = self._known_keys(self.pictures)
        return Prefix(inputs.input_ids, inputs.spans, keys), inputs.image_tokens

    def _last(self) -> Turn:
        if not self.turns:
            raise InputError("nothing was asked yet")
        return self.turns[-1]

    def _messages(self, turns: Sequence[Turn]) -> list[Message]:
        messages: list[Message] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in turns:
            messages += user_message(turn.question, [picture.data for picture in turn.images])
            messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def _known_keys(self, pictures: Sequence[Picture]) -> list[bytes]:
        """Return the keys of the first pictures, up to one whose key is not known."""
        shown_as = self.options.image_options
        found = (self.keys.get((picture.digest, shown_as)) for picture in pictures)
        return [key for key in takewhile(lambda key: key is not None, found) if key]

    def _answer(
        self,
        before: Sequence[Turn],
        question: str,
        images: tuple[Picture, ...],
        changes: AnswerChanges,
    ) -> Generator[Piece, None, None]:
        """Answer a question after some turns, in place of those that followed them."""
        options = self.options.changed(changes)
        options = options.changed({"seed": options.drawn_seed()})
        pictures = [picture for turn in before for picture in turn.images] + list(images)
        keys = self._known_keys(pictures)
        asked = user_message(question, [picture.data for picture in images])
        stream = self.engine.streamed([*self._messages(before), *asked], options, keys=keys)
        turn = Turn(question, images, "", options.drawn_seed(), "interrupted")

        def told() -> Generator[Piece, None, None]:
            answer, ended = "", turn.ended
            try:
                for piece in stream:
                    answer += piece.text
                    ended = piece.result.finish_reason if piece.result else ended
                    yield piece
            finally:
                stream.close()
                digests = (picture.digest for picture in pictures)
                shown_as = self.options.image_options
                self.keys.update(zip(((d, shown_as) for d in digests), keys, strict=False))
                if answer or ended != "interrupted":
                    self.turns = [*before, replace(turn, answer=answer, ended=ended)]
                    used = {id(picture) for picture in images}
                    self.waiting = [p for p in self.waiting if id(p) not in used]

        return told()
