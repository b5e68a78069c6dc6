"""`POST /v1/chat/completions`: a request of OpenAI's chat protocol, read into an exchange.

Every field is either honoured, or passed over because the answer stays the same without it, or
refused by name. docs/protocol.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...options import LARGEST_SEED
from ..exchange import Terms
from ..request import Request
from .answer_fields import read_background, read_image_options
from .answer_form import read_schema
from .asked import BESIDE as BOTH_BESIDE
from .asked import Spelling, read_asked
from .chat_answer import ChatExchange, Shown
from .chat_messages import read_turns
from .fields import Fields, Refusals

SPELLING = Spelling(("max_completion_tokens", "max_tokens"), "response_format", nested=True)
BESIDE = (*BOTH_BESIDE, "metadata", "reasoning_effort")  # the model does not reason
# Fields that would change the answer and are not implemented, why, and the values that change
# nothing.
REFUSED: Refusals = {
    "frequency_penalty": ("is not supported; use repetition_penalty", (0,)),
    "presence_penalty": ("is not supported; use repetition_penalty", (0,)),
    "logit_bias": ("is not supported", ()),
    "top_logprobs": ("is not supported beyond 0: only the chosen token has a logprob", (0,)),
    "audio": ("is not supported: the model writes text", ()),
    "modalities": ("may only hold text", (["text"],)),
    "prediction": ("is not supported; lookup drafts from the prompt", ()),
    "web_search_options": ("is not supported: the model does not search", ()),
    "moderation": ("is not supported", ()),
    "verbosity": ("is not supported; ask for short or long answers in words", ("medium",)),
    "chat_template_kwargs": (
        "is not supported: the chat templates take none",
        ({"enable_thinking": False},),
    ),
    "functions": ("is an older form of tools; send those", ()),
    "function_call": ("is an older form of tool_choice; send that", ("auto", "none")),
}


@dataclass(frozen=True)
class _Wanted:
    """How many answers are wanted, and how they are told."""

    count: int
    streams: bool
    shown: Shown
    logprobs: bool


def read_chat(body: Mapping[str, Any], terms: Terms) -> ChatExchange:
    """Read a request. Its images are decoded from base64, and its PDFs opened.

    Args:
        body: of the request.
        terms: what it may ask for.

    Raises:
        BadField: a field is unknown, wrong, or asks for what is not allowed.
        InputError: image options contradict each other, or there are too many images.
        UnknownModel: no model of this name is served.
        Unfetched: some images are addresses that are not fetched yet.
    """
    fields = Fields(body)
    images = read_image_options(fields, read_background(fields))
    schema = read_schema(fields.inner("response_format"), nested=True)
    asked = read_asked(fields, terms, images, schema, SPELLING)
    wanted = _read_wanted(fields, terms)
    turns = read_turns(fields)
    fields.ignore(*BESIDE)
    fields.refuse_each(REFUSED)
    fields.close()
    first = asked.request(turns, terms, logprobs=wanted.logprobs)
    requests = [_one_of_several(first, number) for number in range(wanted.count)]
    tokens = asked.model.info.token_bytes if wanted.logprobs else None
    shown = replace(wanted.shown, tokens=tokens)
    return ChatExchange(requests, first.model, shown, streams=wanted.streams)


def _read_wanted(fields: Fields, terms: Terms) -> _Wanted:
    count = fields.integer("n", least=1, most=terms.max_answers) or 1
    streams = fields.flag("stream") is True
    with_usage = False
    if settings := fields.inner("stream_options"):
        with_usage = settings.flag("include_usage") is True
        settings.ignore("include_obfuscation")
        settings.close()
    progress = fields.flag("return_progress") is True
    result = fields.flag("return_result") is True
    if result and count > 1:
        raise fields.bad("return_result", f"goes with one answer, and n is {count}")
    logprobs = fields.flag("logprobs") is True
    return _Wanted(count, streams, Shown(with_usage, progress, result), logprobs)


def _one_of_several(request: Request, number: int) -> Request:
    """Return the request for one of several answers to a prompt.

    Each has a seed of its own. Only the first answer is kept for the next turn, for it is the one
    that most programs go on with. If all were, each with a copy of the prompt, a single request
    could push out what other conversations have read. A turn that continues another answer reads
    that answer again, but neither the prompt nor its images.
    """
    if not number:
        return request
    seed = request.options.seed
    own = {} if seed is None else {"seed": (seed + number) & LARGEST_SEED}
    return replace(request, options=request.options.changed(own), keeps_answer=False)
