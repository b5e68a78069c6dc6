"""Images that are read once and asked about many times."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Unpack

import mlx.core as mx

from ..device_thread import Steps
from ..images.source import ImageSource
from ..model.decode_step import prefill
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerChanges, AnswerOptions
from ..prompt.messages import Message, user_message
from ..prompt.processor import Inputs, Processor
from .prefix_store import PrefixStore
from .prepare import embed_prompt
from .result import Piece, Result

if TYPE_CHECKING:
    from .engine import Engine


class Seen:
    """Images that an engine has read, to ask about; from `Engine.see`.

    A question reads only its own tokens, as long as the engine's store holds the images. If it no
    longer does, they are read again. Answers are those of `Engine.generate` for the same messages.

    Attributes:
        tokens: number of prompt tokens up to the end of the last image.
    """

    def __init__(
        self,
        engine: "Engine",
        images: Sequence[ImageSource],
        system: str | None,
        options: AnswerOptions,
        keys: Sequence[bytes],
        tokens: int,
    ) -> None:
        self._engine, self._images, self._system = engine, images, system
        self._options, self._keys = options, keys
        self.tokens = tokens

    def messages(self, question: str) -> list[Message]:
        """Return the conversation of a question about the images."""
        return user_message(question, self._images, self._system)

    def ask(self, question: str, **changes: Unpack[AnswerChanges]) -> Result:
        """Answer a question.

        Args:
            question: about the images.
            changes: fields of `AnswerOptions`.

        Raises:
            InputError: an option is out of range, or the prompt is too long.
        """
        *_, last = self.stream(question, **changes)
        assert last.result is not None
        return last.result

    def ask_all(self, questions: Iterable[str], **changes: Unpack[AnswerChanges]) -> list[Result]:
        """Answer several questions at a time as a batch, in their order; see `ask`."""
        options = self._options.changed(changes)
        keys = self._keys_under(options)
        return self._engine.answered(map(self.messages, questions), options, keys=keys)

    def stream(self, question: str, **changes: Unpack[AnswerChanges]) -> Iterator[Piece]:
        """Answer a question piece by piece; see `Engine.stream`."""
        options = self._options.changed(changes)
        keys = self._keys_under(options)
        return self._engine.streamed(self.messages(question), options, keys=keys)

    def _keys_under(self, options: AnswerOptions) -> list[bytes]:
        """The keys of the images, unless other image options make other views of them."""
        is_same = options.image_options == self._options.image_options
        return list(self._keys) if is_same else []


def read_images(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message],
    options: AnswerOptions,
    store: PrefixStore,
) -> Steps[tuple[list[bytes], int]]:
    """Read a conversation up to its last image into a store; yield the images' keys, and tokens."""
    model.make_cache(options.kv_bits)  # or refuse them before images are decoded
    whole = processor(
        messages,
        options=options.image_options,
        tools=options.tools,
        add_generation_prompt=False,
        special_tokens=options.special_tokens,
    )
    tokens = whole.spans[-1][1]
    prompt = Inputs(whole.input_ids[:tokens], whole.images, whole.spans, whole.views)
    ready = embed_prompt(model, prompt, store, options.on_encode, kv_bits=options.kv_bits)
    cache = ready.branch.cache
    prefill(model, ready.taken(), cache, ready.passes(options.on_prefill))
    mx.eval(cache.arrays)
    store.keep(ready.read([]))
    yield list(ready.prefix.keys), tokens
