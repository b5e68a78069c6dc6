"""An engine whose model is in another process. The process is started when it is needed.

This module imports neither MLX nor a decoder of images: a program that asks once must start fast.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Unpack

from ...errors import InputError, Lfm2VLError
from ...generation.asking import Asking
from ...generation.result import Piece, Result
from ...generation.scores import Scores
from ...images.limits import ImageLimits
from ...images.read import read_once
from ...options import AnswerChanges, AnswerOptions, ImageOptions, Options, Sampling, merged
from ...prompt.messages import user_message
from ...prompt.sources import as_images
from ..request import Progress, Request
from .http import Call, Lost, Other, Question
from .place import BUILD, SOCKET, Wanted, private_folder
from .wire import Alive, Note, Opened, Told, write_request

if TYPE_CHECKING:
    from ...checkpoint.image_config import ImageConfig
    from ...images.source import ImageSource, ImageSources
    from ...prompt.messages import Message

logger = logging.getLogger(__name__)

KEEP_ALIVE = 600.0  # seconds
TRIES = 3  # a process may end, idle, at the moment when it is asked
ASKS = 2  # a question that ends one process may end the next one, too


class RemoteEngine(Asking):
    """Answers as `Engine` does, through a process that keeps the model in memory.

    Any thread may ask. Images are read here, and decoded there. Options that are functions of this
    process, `logits_processors`, are refused.

    If the process ends or falls silent in the middle of an answer, that is an `Lfm2VLError`. If it
    ends before the caller has seen a piece of the answer, the question is asked once more.

    Attributes:
        model: what is known of the model without its weights.
        processor: what is known of its processor.
    """

    def __init__(
        self,
        wanted: Wanted,
        limits: ImageLimits | None = None,
        *,
        keep_alive: float | None = KEEP_ALIVE,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        """Start the process if there is none, and load the model if it is not in memory.

        Args:
            wanted: the model.
            limits: on images.
            keep_alive: seconds without a call after which the process ends; None is never.
            prepare: called before a process is started; it makes sure that the model's files are
                there, as `find_checkpoint` does.

        Raises:
            Lfm2VLError: there can be no process, or the model cannot be loaded.
        """
        self._wanted, self._keep_alive, self._prepare = wanted, keep_alive, prepare
        self._limits = limits or ImageLimits()
        self._path = os.path.join(private_folder(), wanted.name + SOCKET)
        opened = self._opened()
        self.model = RemoteModel(opened.name, RemoteConfig(opened.sampling))
        self.processor = RemoteProcessor(opened.images, self._limits)

    def __repr__(self) -> str:
        return f"RemoteEngine({self._wanted.model!r})"

    def see(
        self,
        images: ImageSources,
        options: Options = None,
        *,
        system: str | None = None,
        **changes: Unpack[AnswerChanges],
    ) -> RemoteSeen:
        """Read images once, to ask about them many times; see `Engine.see`."""
        held = [read_once(image, self._limits) for image in as_images(images)]
        if not held:
            raise InputError("there are no images to see")
        return RemoteSeen(self, held, system, _sendable(merged(options, changes)))

    def keep_prefixes(self) -> None:
        """Do nothing: the process keeps what answers have read."""

    def content_fingerprint(self) -> bytes:
        """Return what `Engine.content_fingerprint` returns."""
        for number in range(ASKS):
            if number:
                self._opened()
            with suppress(Lost, LookupError):  # nothing came of it, or a reply without content
                values = Call(self._path).object("GET", "/v1/lfm2vl/fingerprint")
                return bytes.fromhex(values["hex"])
        raise self._ended("unanswered")

    def _opened(self) -> Opened:
        """Load the model in the process; start the process, or another one, if need be."""
        body = {"wanted": asdict(self._wanted), "build": BUILD, "keep_alive": self._keep_alive}
        for left in reversed(range(TRIES)):
            try:
                call = Call(self._path)
                for event in call.events("/v1/lfm2vl/open", [json.dumps(body).encode()]):
                    if isinstance(event, Opened):
                        return event
                    _hear(event)
                raise Lost
            except Lost:
                if left:
                    from .start import start  # most often the process is there

                    start(self._path, self._wanted, self._prepare)
            except Other:
                from .start import retire

                retire(self._path)
        raise self._ended("as it loaded the model")

    def _stream(self, asked: Sequence[Message] | str, options: AnswerOptions) -> Iterator[Piece]:
        return self._pieces(Request(asked, _sendable(options)))

    def _answer(self, asked: Sequence[Message] | str, options: AnswerOptions) -> Result:
        return self._result(Request(asked, _sendable(options)))

    def _score(
        self, asked: Sequence[Message] | str, answers: Sequence[str], options: AnswerOptions
    ) -> Scores:
        if not answers:
            raise InputError("there is no answer to score, or one without text")
        for event in self._events(Request(asked, _sendable(options), answers=list(answers))):
            if isinstance(event, Scores):
                return event
        raise AssertionError("an answer ends with its last event")

    def _stream_batch(
        self,
        conversations: Iterable[Sequence[Message] | str | None],
        options: AnswerOptions,
        batch_size: int,
    ) -> Iterator[tuple[int, Result | Lfm2VLError]]:
        from .batch import answer_together

        chosen = _sendable(options)

        def ask(messages: Sequence[Message] | str, question: Question) -> Result:
            return self._result(Request(messages, chosen), question)

        return answer_together(ask, conversations, batch_size)

    def _pieces(self, request: Request) -> Iterator[Piece]:
        for event in self._events(request, shows=True):
            if isinstance(event, Piece):
                yield event
            elif isinstance(event, Progress):
                _report(event, request.options)

    def _result(self, request: Request, question: Question | None = None) -> Result:
        for event in self._events(request, question):
            if isinstance(event, Piece) and event.result is not None:
                return event.result
        raise AssertionError("an answer ends with its last event")

    def _events(
        self, request: Request, question: Question | None = None, *, shows: bool = False
    ) -> Iterator[Told]:
        """Ask, and yield what is told up to the last event; ask again if the process ends before.

        Args:
            request: what is asked.
            question: makes the calls and hears the notes, if another thread waits for the answer.
            shows: whether the caller hands on each piece when it comes. If the process ends after
                the first one, that is an error.
        """
        body = write_request(request, self._limits)
        has_begun = False
        for number in range(ASKS):
            if number:
                self._opened()
            try:
                call = question.call(self._path) if question else Call(self._path)
                for event in call.events("/v1/lfm2vl/answer", body):
                    if question is None:
                        _hear(event)
                    elif isinstance(event, Note):
                        question.hear(event.text)
                    elif not _waits(event):
                        question.hear("")
                    has_begun = has_begun or (shows and isinstance(event, Piece))
                    yield event
                    if isinstance(event, Scores) or _is_whole(event):
                        return
                raise Lost
            except (Lost, Other):
                if has_begun:
                    break
        when = "in the middle of the answer, which is not whole" if has_begun else "unanswered"
        raise self._ended(when)

    def _ended(self, when: str) -> Lfm2VLError:
        """The error that the process has ended, with the last line of its log."""
        from .start import last_line

        return Lfm2VLError(f"the resident process has ended {when}: {last_line(self._path)}")


class RemoteModel:
    """What is known here of a model in another process.

    Attributes:
        name: see `Lfm2VL`.
        config: what its configuration recommends.
    """

    def __init__(self, name: str, config: RemoteConfig) -> None:
        self.name, self.config = name, config


class RemoteConfig:
    """What is known here of a model's configuration.

    Attributes:
        sampling: that it recommends.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling


class RemoteProcessor:
    """What is known here of a processor in another process.

    Attributes:
        image_config: see `Processor`.
        limits: on images.
    """

    def __init__(self, image_config: ImageConfig, limits: ImageLimits) -> None:
        self.image_config, self.limits = image_config, limits

    def ready(self, source: Any, options: ImageOptions | None = None) -> Any:  # noqa: ARG002
        """Return the bytes of an image: it is decoded in the process."""
        from .images import image_bytes

        return image_bytes(source, self.limits)


class RemoteSeen:
    """Images that are asked about several times; see `Seen`. The first question sends them."""

    def __init__(
        self,
        engine: RemoteEngine,
        images: Sequence[ImageSource],
        system: str | None,
        options: AnswerOptions,
    ) -> None:
        self._engine, self._images = engine, images
        self._system, self._options = system, options

    def stream(self, question: str, **changes: Unpack[AnswerChanges]) -> Iterator[Piece]:
        """Answer a question piece by piece; see `RemoteEngine.stream`."""
        messages = user_message(question, self._images, self._system)
        return self._engine.stream(messages, self._options.changed(changes))


def _sendable(options: AnswerOptions) -> AnswerOptions:
    """Return options of which none is a function of this process.

    Raises:
        InputError: there is one that the answer would depend on.
    """
    if options.logits_processors:
        raise InputError(
            "logits_processors are functions of this process, which another one cannot call: "
            "remove them, or use Engine"
        )
    return options


def _is_whole(event: Told) -> bool:
    return isinstance(event, Piece) and event.result is not None


def _waits(event: Told) -> bool:
    """Whether the images of a question may not be read yet, so that notes about them may follow."""
    if isinstance(event, Progress):
        return event.stage in ("queue", "load")
    return isinstance(event, Alive)


def _hear(event: Told) -> None:
    """Log a note as the process has."""
    if isinstance(event, Note):
        logger.warning("%s", event.text)


def _report(event: Progress, options: AnswerOptions) -> None:
    hooks = {"encode": options.on_encode, "prefill": options.on_prefill}
    hook = hooks.get(event.stage)
    if hook:
        hook(event.done, event.total)
