"""What a front end asks the core for, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import Lfm2VLError
from ..generation.result import Piece
from ..generation.scores import Scores
from ..images.limits import ImageLimits
from ..options import AnswerOptions

if TYPE_CHECKING:  # a client that only asks does without the template's modules
    from ..prompt.messages import Message


@dataclass(frozen=True)
class Request:
    """One question to one model.

    Attributes:
        messages: a conversation, as `Engine.stream` takes it.
        options: of the answer. Their hooks are not used.
        model: name of a model that is served; empty for the first one.
        answers: to score instead of writing an answer; see `Engine.score`.
        limits: on its images; None takes those of the model.
        keeps_answer: whether what its answer has read is kept beside the prompt, because the next
            turn may continue it.
    """

    messages: Sequence[Message] | str
    options: AnswerOptions = AnswerOptions()
    model: str = ""
    answers: Sequence[str] = ()
    limits: ImageLimits | None = None
    keeps_answer: bool = True


@dataclass(frozen=True)
class Progress:
    """How far a question is before its first token.

    Attributes:
        stage: "queue": `done` is 0 and `total` the questions before it. "load": the model is being
            loaded. "encode": tokens of its images. "prefill": tokens of its prompt.
        done: of `total`.
        total: see `stage`.
    """

    stage: Literal["queue", "load", "encode", "prefill"]
    done: int
    total: int


class Busy(Lfm2VLError):
    """The queue is full; try again after `retry_after` seconds."""

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class UnknownModel(Lfm2VLError):
    """No model of this name is served."""

    exit_code = 2


class Overdue(Lfm2VLError):
    """An answer took longer than the server allows."""


class Stopping(Lfm2VLError):
    """The process is ending and takes no more questions."""


class Failed(Lfm2VLError):
    """The machine could not finish an answer, for example for lack of memory."""


# The last event of a request is a piece with a result, scores, or an error.
Event: TypeAlias = Progress | Piece | Scores | Lfm2VLError


def is_last(event: object) -> bool:
    """Return whether no other event follows."""
    if isinstance(event, Piece):
        return event.result is not None
    return not isinstance(event, Progress)


def as_error(error: BaseException) -> Lfm2VLError:
    """Return the error that a request ends with, and nothing that holds its images."""
    if isinstance(error, Lfm2VLError):
        return error.with_traceback(None)  # whose frames name them, and often the error too
    return Failed(f"the answer failed: {type(error).__name__}: {str(error)[:200]}")
