"""`POST /v1/chat/completions`: a request of OpenAI's chat protocol, read into an exchange.

Every field is either honoured, or passed over because the answer stays the same without it, or
refused by name. docs/protocol.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..options import LARGEST_SEED, AnswerOptions
from .answer_fields import DEFAULT_TOKENS, read_answer_options, read_image_options, with_detail
from .answer_form import answer_form, read_constraint, read_schema
from .chat_answer import ChatExchange, Shown
from .chat_messages import read_turns
from .exchange import Terms
from .fields import Fields, open_body
from .request import Request
from .tool_fields import read_tools
from .turns import pictures_of, to_messages

MAX_NAME = 1000  # characters of a model's name
# Who asks, what it is worth, and where it is kept: the answer is the same.
BESIDE = (
    "user", "safety_identifier", "metadata", "store", "service_tier", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention",
)  # fmt: skip
# Fields that would change the answer and are not implemented, why, and the values that change
# nothing.
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "frequency_penalty": ("is not supported; use repetition_penalty", (0,)),
    "presence_penalty": ("is not supported; use repetition_penalty", (0,)),
    "logit_bias": ("is not supported", ()),
    "top_logprobs": ("is not supported beyond 0: only the chosen token has a logprob", (0,)),
    "audio": ("is not supported: the model writes text", ()),
    "modalities": ("may only hold text", (["text"],)),
    "prediction": ("is not supported; lookup drafts from the prompt", ()),
    "web_search_options": ("is not supported: the model does not search", ()),
    "moderation": ("is not supported", ()),
    "reasoning_effort": ("is not supported: the model does not reason", ("none",)),
    "verbosity": ("is not supported; ask for short or long answers in words", ("medium",)),
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
    """Read a request. Its images are decoded from base64, its PDFs opened, its addresses fetched.

    Args:
        body: of the request.
        terms: what it may ask for.

    Raises:
        BadField: a field is unknown, wrong, or asks for what is not allowed.
        InputError: image options contradict each other, or there are too many images.
        UnknownModel: no model of this name is served.
        NetworkError: an image cannot be fetched.
    """
    fields = open_body(body)
    model = terms.find(fields.text("model", most=MAX_NAME) or "")
    base = AnswerOptions(max_tokens=DEFAULT_TOKENS)
    options = read_answer_options(
        fields, base, terms.max_tokens, "max_completion_tokens", "max_tokens"
    )
    wanted = _read_wanted(fields, terms)
    images = read_image_options(fields)
    tools = read_tools(fields, nested=True)
    schema = read_schema(fields.inner("response_format"), nested=True)
    constraint = answer_form(fields, tools, schema, "response_format", read_constraint(fields))
    turns = read_turns(fields)
    fields.ignore(*BESIDE)
    for name, (reason, neutral) in REFUSED.items():
        fields.refuse(name, reason, *neutral)
    fields.close()
    images = with_detail(images, [picture.detail for picture in pictures_of(turns)])
    messages = to_messages(turns, terms.limits, model.info.images.with_options(images))
    options = options.changed(
        {
            "image_options": images,
            "tools": list(tools.functions) or None,
            "constraint": constraint,
            "logprobs": wanted.logprobs,
        }
    )
    requests = [
        Request(messages, _with_own_seed(options, number), model.name)
        for number in range(wanted.count)
    ]
    tokens = model.info.token_bytes if wanted.logprobs else None
    shown = replace(wanted.shown, tokens=tokens)
    return ChatExchange(requests, model.name, shown, streams=wanted.streams)


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


def _with_own_seed(options: AnswerOptions, number: int) -> AnswerOptions:
    """Give each of several answers a seed of its own."""
    if options.seed is None or not number:
        return options
    return options.changed({"seed": (options.seed + number) & LARGEST_SEED})
