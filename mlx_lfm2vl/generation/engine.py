"""A model and its processor, loaded once and asked many times; and the functions that ask it.

- An `Engine` holds what stays between questions: the network with its traced decode step, the
  processor, the memory limits. Programs that stay are written against it.
- `generate`, `stream_generate`, `batch_generate` and `stream_batch` are the same for a program that
  asks once.
- It knows nothing of files or of the command line.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from ..arrays import named_arrays
from ..device import Limits, choose_limits, set_limits
from ..errors import InputError, Lfm2VLError
from ..images.source import ImageSource
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerChanges, AnswerOptions, ImageOptions
from ..prompt.messages import Message, user_message
from ..prompt.processor import Processor
from .answer import Piece, Result
from .batch import BATCH_SIZE, Conversation, stream_answers
from .stream import stream_answer

Image = ImageSource | Sequence[ImageSource]
Options = AnswerOptions | ImageOptions | None


class Engine:
    """Answers conversations with one model.

    Attributes:
        model: from `load`.
        processor: from `load`.
    """

    def __init__(self, model: Lfm2VL, processor: Processor) -> None:
        self.model, self.processor = model, processor

    def __repr__(self) -> str:
        return f"Engine({self.processor!r})"

    def limit_memory(self, cache: int | None = None, wired: int | None = None) -> Limits:
        """Tell MLX how much memory to hold; it counts for the process.

        Args:
            cache: bytes of freed buffers kept to be used again; None for what suits the device.
            wired: bytes that are never paged out; None for what suits the device and the model.

        Returns:
            What was chosen.

        Raises:
            InputError: more is to be wired than the GPU may use.
        """
        arrays = named_arrays(self.model.parameters()).values()
        chosen = choose_limits(sum(array.nbytes for array in arrays))
        limits = Limits(
            chosen.cache if cache is None else cache, chosen.wired if wired is None else wired
        )
        set_limits(limits)
        return limits

    def stream(
        self,
        messages: Sequence[Message] | str,
        options: Options = None,
        *,
        image: Image | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> Iterator[Piece]:
        """Answer a conversation, piece by piece.

        Args:
            messages: `{"role": ..., "content": ...}` each, see `Processor`; or one question as
                text.
            options: of the answer; the image settings alone will do.
            image: one or several that the question, given as text, is about.
            changes: fields of `AnswerOptions` that are other than in `options`.

        Yields:
            Pieces of text that add up to the answer; the last one carries the `Result`.

        Raises:
            InputError: bad messages, settings or images, or a prompt that does not fit the context.
            NetworkError: an image URL cannot be fetched.
            TypeError: there is no such option.
        """
        chosen = merged(options, changes)
        return stream_answer(self.model, self.processor, _with_image(messages, image), chosen)

    def generate(
        self,
        messages: Sequence[Message] | str,
        options: Options = None,
        *,
        image: Image | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> Result:
        """Answer a conversation; see `stream` for the arguments and errors."""
        result = None
        for piece in self.stream(messages, options, image=image, **changes):
            result = piece.result
        assert result is not None
        return result

    def stream_batch(
        self,
        conversations: Iterable[Conversation],
        options: Options = None,
        *,
        batch_size: int = BATCH_SIZE,
        **changes: Unpack[AnswerChanges],
    ) -> Iterator[tuple[int, Result | Lfm2VLError]]:
        """Answer conversations together; yields each answer when it is complete.

        A finished row makes room for the next conversation at once. Conversations may have
        different images and lengths; those that begin together and are equally long are read in
        one pass. No row sees another: up to the rounding of larger products its tokens are those
        it gets alone.

        Args:
            conversations: messages as for `stream`; read when there is room, so that there may be
                any number of them.
            options: of every answer, as for `stream`; a seed counts for every row as if it were
                alone. Lookup is refused, it serves one conversation at a time.
            batch_size: how many are under way at a time.
            changes: as for `stream`.

        Yields:
            The number of a conversation, from 0, and its result; or the error, if it cannot be
            answered: the others go on.

        Raises:
            InputError: settings that fit no conversation.
            TypeError: there is no such option.
        """
        chosen = merged(options, changes)
        return stream_answers(self.model, self.processor, conversations, chosen, batch_size)


def generate(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: Options = None,
    *,
    image: Image | None = None,
    **changes: Unpack[AnswerChanges],
) -> Result:
    """Answer a conversation, or a question about an image; see `Engine.stream`.

    >>> generate(model, processor, "What is this?", image="photo.jpg", max_tokens=100)
    """
    return Engine(model, processor).generate(messages, options, image=image, **changes)


def stream_generate(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: Options = None,
    *,
    image: Image | None = None,
    **changes: Unpack[AnswerChanges],
) -> Iterator[Piece]:
    """Answer a conversation, piece by piece; see `Engine.stream`."""
    return Engine(model, processor).stream(messages, options, image=image, **changes)


def batch_generate(
    model: Lfm2VL,
    processor: Processor,
    conversations: Iterable[Conversation],
    options: Options = None,
    *,
    batch_size: int = BATCH_SIZE,
    **changes: Unpack[AnswerChanges],
) -> list[Result]:
    """Answer conversations together, each as `generate` answers it alone.

    See `Engine.stream_batch` for the arguments.

    Returns:
        The results, in the order of the conversations.

    Raises:
        InputError, NetworkError: of the first conversation that cannot be answered.
    """
    results: dict[int, Result] = {}
    engine = Engine(model, processor)
    answers = engine.stream_batch(conversations, options, batch_size=batch_size, **changes)
    for number, result in answers:
        if isinstance(result, Lfm2VLError):
            raise result
        results[number] = result
    return [results[number] for number in sorted(results)]


def stream_batch(
    model: Lfm2VL,
    processor: Processor,
    conversations: Iterable[Conversation],
    options: Options = None,
    *,
    batch_size: int = BATCH_SIZE,
    **changes: Unpack[AnswerChanges],
) -> Iterator[tuple[int, Result | Lfm2VLError]]:
    """Answer conversations together, each as soon as it is complete; see `Engine.stream_batch`."""
    engine = Engine(model, processor)
    return engine.stream_batch(conversations, options, batch_size=batch_size, **changes)


def merged(options: Options, changes: AnswerChanges) -> AnswerOptions:
    """The options of an answer, with single fields set anew.

    Raises:
        InputError: a value is out of range or of another type.
        TypeError: a name is not one of a field.
    """
    if isinstance(options, ImageOptions):
        options = AnswerOptions(image_options=options)
    if options is not None and not isinstance(options, AnswerOptions):
        raise InputError(f"options is {options!r:.60}, expected AnswerOptions or ImageOptions")
    return (options or AnswerOptions()).changed(changes)


def _with_image(messages: Sequence[Message] | str, image: Image | None) -> Sequence[Message] | str:
    if image is None:
        return messages
    if not isinstance(messages, str):
        raise InputError("image goes with a question as text; put it into the messages instead")
    is_one = isinstance(image, ImageSource)
    return user_message(messages, [image] if is_one else list(image))
