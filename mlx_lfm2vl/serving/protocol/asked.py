"""What the requests of both of OpenAI's protocols say in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...constraints.constraint import Constraint
from ...options import AnswerOptions, ImageOptions
from ..exchange import Terms
from ..request import Request
from ..served import Served
from .answer_fields import DEFAULT_TOKENS, read_answer_options, with_detail
from .fields import Fields
from .tool_fields import Tools
from .turns import Turn, pictures_of, to_messages

MAX_NAME = 1000  # characters of a model's name


@dataclass(frozen=True)
class Asked:
    """Which model is asked, and the options of its answer.

    Attributes:
        model: which is asked.
        options: without those of images, tools and form.
        images: how they are cut.
    """

    model: Served
    options: AnswerOptions
    images: ImageOptions

    def request(
        self,
        turns: Sequence[Turn],
        tools: Tools,
        form: Constraint | None,
        terms: Terms,
        *,
        logprobs: bool,
    ) -> Request:
        """Make a request for the core; the bytes of its images are read now.

        Args:
            turns: of the conversation.
            tools: that the model is told of.
            form: of the answer.
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
        changes = {
            "image_options": images,
            "tools": list(tools.functions) or None,
            "constraint": form,
            "logprobs": logprobs,
        }
        return Request(messages, self.options.changed(changes), self.model.name)

    def _without_unread(self, turn: Turn) -> Turn:
        """Pass over thoughts of other models that this one's template does not write."""
        reads = self.model.info.reads
        return replace(
            turn, thoughts={key: text for key, text in turn.thoughts.items() if reads(key)}
        )


def read_asked(fields: Fields, terms: Terms, images: ImageOptions, *length_names: str) -> Asked:
    """Read `model`, and the fields of `AnswerOptions`.

    Args:
        fields: of the request.
        terms: what it may ask for.
        images: from `read_image_options`.
        length_names: of the field for the longest answer; they mean the same.

    Raises:
        BadField: a field is wrong.
        UnknownModel: no model of this name is served.
    """
    model = terms.find(fields.text("model", most=MAX_NAME) or "")
    base = AnswerOptions(max_tokens=DEFAULT_TOKENS)
    options = read_answer_options(fields, base, terms.max_tokens, *length_names)
    return Asked(model, options, images)
