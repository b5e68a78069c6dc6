"""What the requests of both of OpenAI's protocols say in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...options import AnswerOptions, ImageOptions
from ..exchange import Terms
from ..request import Request
from ..served import Served
from .answer_fields import DEFAULT_TOKENS, read_answer_options, with_detail
from .answer_form import answer_form, read_constraint
from .fields import Fields
from .tool_fields import read_tools
from .turns import Turn, pictures_of, to_messages

MAX_NAME = 1000  # characters of a model's name
# Who asks, what it is worth, and where it is kept: the answer is the same.
BESIDE = (
    "user", "safety_identifier", "store", "service_tier", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention",
)  # fmt: skip


@dataclass(frozen=True)
class Spelling:
    """How a protocol writes what the other one writes in another way.

    Attributes:
        lengths: fields for the longest answer; they mean the same.
        form: the field that holds a schema of the answer.
        nested: whether a function stands in the `function` of a tool.
    """

    lengths: tuple[str, ...]
    form: str
    nested: bool


@dataclass(frozen=True)
class Asked:
    """Which model is asked, and the options of its answer.

    Attributes:
        model: which is asked.
        options: without those of images.
        images: how they are cut.
    """

    model: Served
    options: AnswerOptions
    images: ImageOptions

    def request(self, turns: Sequence[Turn], terms: Terms, *, logprobs: bool) -> Request:
        """Make a request for the core; the bytes of its images are read now.

        Args:
            turns: of the conversation.
            terms: what may be asked for.
            logprobs: whether the probabilities of tokens are wanted.

        Raises:
            InputError: an image cannot be read, there are too many, or image options contradict
                each other.
            Unfetched: an image must be fetched first.
        """
        images = with_detail(self.images, [picture.detail for picture in pictures_of(turns)])
        config = self.model.info.images.with_options(images)
        messages = to_messages([*map(self._without_unread, turns)], terms, config)
        options = self.options.changed({"image_options": images, "logprobs": logprobs})
        return Request(messages, options, self.model.name)

    def _without_unread(self, turn: Turn) -> Turn:
        """Pass over thoughts of other models that this one's template does not write."""
        reads = self.model.info.reads
        return replace(
            turn, thoughts={key: text for key, text in turn.thoughts.items() if reads(key)}
        )


def read_asked(
    fields: Fields, terms: Terms, images: ImageOptions, schema: Any, spelling: Spelling
) -> Asked:
    """Read `model`, the fields of `AnswerOptions`, and those of tools.

    Args:
        fields: of the request.
        terms: what it may ask for.
        images: from `read_image_options`.
        schema: of the answer, from `read_schema`.
        spelling: of the protocol.

    Raises:
        BadField: a field is wrong, or two exclude each other.
        UnknownModel: no model of this name is served.
    """
    model = terms.find(fields.text("model", most=MAX_NAME) or "")
    base = AnswerOptions(max_tokens=DEFAULT_TOKENS)
    options = read_answer_options(fields, base, terms.max_tokens, *spelling.lengths)
    tools = read_tools(fields, nested=spelling.nested)
    form = answer_form(fields, tools, schema, spelling.form, read_constraint(fields))
    changes = {"tools": list(tools.functions) or None, "constraint": form}
    return Asked(model, options.changed(changes), images)
