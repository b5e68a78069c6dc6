"""`POST /v1/responses`: a request of OpenAI's responses protocol, read into an exchange.

No state is kept: a conversation is sent again with every request. docs/protocol.md has the table of
fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..exchange import Terms
from .answer_fields import read_image_options
from .answer_form import read_schema
from .asked import BESIDE as BOTH_BESIDE
from .asked import Spelling, read_asked
from .fields import Fields, Refusals
from .response_answer import ResponseExchange
from .response_items import read_turns

SPELLING = Spelling(("max_output_tokens",), "text", nested=False)
MAX_INCLUDED = 100
MAX_WORD = 100  # characters
LOGPROBS = "message.output_text.logprobs"  # of `include`; the other words add nothing here
# The model does not reason, and the server calls nothing.
BESIDE = (*BOTH_BESIDE, "reasoning", "max_tool_calls")
# Fields that would change the answer and are not implemented, why, and the values that change
# nothing.
NO_STATE = "is not supported: no state is kept here; send the whole conversation as input"
REFUSED: Refusals = {
    "previous_response_id": (NO_STATE, ()),
    "conversation": (NO_STATE, ()),
    "background": ("is not supported: no state is kept here; use stream", ()),
    "prompt": ("names a prompt that is kept elsewhere; send its text as instructions", ()),
    "truncation": ("is not supported: send a shorter input", ("disabled",)),
    "top_logprobs": ("is not supported beyond 0: only the chosen token has a logprob", (0,)),
    "context_management": ("is not supported: send a shorter input", ()),
    "moderation": ("is not supported", ()),
    "max_tokens": ("is called max_output_tokens here", ()),
}
ECHOED = ("temperature", "top_p", "max_output_tokens", "instructions", "metadata")


def read_responses(body: Mapping[str, Any], terms: Terms) -> ResponseExchange:
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
    images = read_image_options(fields, None)  # `background` is another thing in this protocol
    asked = read_asked(fields, terms, images, _read_text(fields), SPELLING)
    streams = fields.flag("stream") is True
    logprobs = LOGPROBS in fields.texts("include", most=MAX_INCLUDED, longest=MAX_WORD)
    if settings := fields.inner("stream_options"):
        settings.ignore("include_obfuscation")
        settings.close()
    turns = read_turns(fields)
    fields.inner("metadata")
    fields.ignore(*BESIDE)
    fields.refuse_each(REFUSED)
    fields.close()
    request = asked.request(turns, terms, logprobs=logprobs)
    tokens = asked.model.info.token_bytes if logprobs else None
    return ResponseExchange(request, _echoed(fields), tokens, streams=streams)


def _read_text(fields: Fields) -> Any:
    """Return the JSON Schema that `text.format` demands, or None."""
    text = fields.inner("text")
    if text is None:
        return None
    text.refuse("verbosity", "is not supported; ask for short or long answers in words", "medium")
    schema = read_schema(text.inner("format"), nested=False)
    text.close()
    return schema


def _echoed(fields: Fields) -> dict[str, Any]:
    """Return what a response repeats of its request."""
    tools = [{"parameters": None, "strict": None, **tool} for tool in fields.get("tools") or ()]
    return {
        **{name: fields.get(name) for name in ECHOED},
        "tools": tools,
        "tool_choice": fields.get("tool_choice") or "auto",
        "parallel_tool_calls": fields.get("parallel_tool_calls") is not False,
        "text": fields.get("text") or {"format": {"type": "text"}},
        "truncation": "disabled",
        "store": False,
        "background": False,
        "previous_response_id": None,
    }
