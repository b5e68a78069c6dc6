"""A skill: a kind of question about images whose answer has a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..options import AnswerOptions

if TYPE_CHECKING:
    from ..images.source import ImageSource
    from ..prompt.messages import Message

Messages = Callable[["Sequence[ImageSource]", Mapping[str, str]], "list[Message]"]
Reader = Callable[[str, Sequence[tuple[int, int]]], dict[str, Any]]


@dataclass(frozen=True)
class Skill:
    """A question about images, ready for one checkpoint.

    Attributes:
        name: such as `caption`.
        messages: makes the conversation from images, and from facts that the prompt may name in
            braces, such as `{name}`.
        options: sampling, length and constraint of the answer.
        read: makes the typed answer from the model's text and the (height, width) of each upright
            original. The result holds only what JSON can hold.
    """

    name: str
    messages: Messages
    options: AnswerOptions
    read: Reader
