"""The bodies of requests as JSON Schema, for the server's own description.

The schemas allow what the readers of requests allow: a field that is null is not there, and a field
that is unknown or refused may be there as long as it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, get_args

from ...options import KV_BITS, LARGEST_SEED, MAX_LOOKUP
from ...skills.answers import Form, Length
from ...skills.tasks import MAX_KEYWORDS, TASKS, Surface
from ..exchange import Terms
from ..page.plan import MAX_IMAGES, MAX_NUMBER
from ..protocol import chat as openai_chat
from ..protocol import response_items, tool_fields, turns
from ..protocol import responses as openai_responses
from ..protocol.answer_fields import (
    COUNTS,
    DETAILS,
    FLAGS,
    MAX_COLOR,
    MAX_COUNT,
    MAX_SPECIAL_TOKENS,
    MAX_STOP,
    MAX_STOPS,
    NO_LENGTH,
)
from ..protocol.answer_form import FORMATS, MAX_CHOICES
from ..protocol.chat_messages import BESIDE as MESSAGE_BESIDE
from ..protocol.chat_messages import ROLES, THOUGHTS
from ..protocol.fields import Refusals
from ..protocol.pictures import MAX_NAME
from ..protocol.skills import EITHER, MAX_ITEM, MAX_ITEMS
from .json_schemas import (
    ANYTHING,
    EMPTY,
    FLAG,
    OBJECT,
    Schema,
    nullable,
    number,
    record,
    text,
    texts,
    whole,
    word,
)

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB"
    "2kUIOwAAAABJRU5ErkJggg=="
)


def chat_request(terms: Terms, models: Sequence[str]) -> Schema:
    """Return the body of `POST /v1/chat/completions`."""
    length = _length(terms)
    return _posted(
        {
            **_answer_options(),
            **_image_options(),
            "model": _model(models),
            "messages": {"type": "array", "items": _message(), "minItems": 1},
            "max_tokens": length,
            "max_completion_tokens": length,
            "n": whole(1, terms.max_answers),
            "stream": FLAG,
            "stream_options": record({"include_usage": FLAG}, beside=("include_obfuscation",)),
            "logprobs": FLAG,
            "return_progress": FLAG,
            "return_result": FLAG,
            "response_format": _format(nested=True),
            "constraint": _constraint(),
            **_tools(nested=True),
        },
        ["messages"],
        openai_chat.BESIDE,
        openai_chat.REFUSED,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": PIXEL}},
                    ],
                }
            ],
            "max_tokens": 16,
        },
    )


def response_request(terms: Terms, models: Sequence[str]) -> Schema:
    """Return the body of `POST /v1/responses`."""
    return _posted(
        {
            **_answer_options(),
            **_image_options(),
            "model": _model(models),
            "instructions": text(),
            "input": {"anyOf": [text(), {"type": "array", "items": _item(), "minItems": 1}]},
            "max_output_tokens": _length(terms),
            "stream": FLAG,
            "stream_options": record({}, beside=("include_obfuscation",)),
            "include": texts(openai_responses.MAX_INCLUDED, openai_responses.MAX_WORD),
            "text": record(
                {"format": _format(nested=False), "verbosity": _neutral("medium")},
            ),
            "metadata": OBJECT,
            "constraint": _constraint(),
            **_tools(nested=False),
        },
        ["input"],
        openai_responses.BESIDE,
        openai_responses.REFUSED,
        {"input": "What is this?", "max_output_tokens": 16},
    )


def skill_request(name: str, terms: Terms, models: Sequence[str]) -> Schema:
    """Return the body of `POST /v1/skills/{name}`."""
    picture = {"anyOf": [text(), record({"data": text(), "filename": text(MAX_NAME)}, ["data"])]}
    own = {
        option: schema
        for option, schema in _skill_options().items()
        if option in signature(TASKS[name]).parameters
    }
    properties = {
        **_answer_options(),
        **_image_options(),
        "model": _model(models),
        "image": picture,
        "images": {"type": "array", "items": picture},
        "max_tokens": _length(terms),
        "stream": _neutral(),
        **own,
        **({"together": FLAG} if name in EITHER else {}),
    }
    required = [
        option
        for option in own
        if signature(TASKS[name]).parameters[option].default is Parameter.empty
    ]
    schema = record(properties, required)
    wanted = {
        "target": "star",
        "labels": ["star", "ring"],
        "question": "What is this?",
        "fields": ["color"],
    }
    images = {"images": [PIXEL, PIXEL]} if name == "compare" else {"image": PIXEL}
    example = {option: wanted[option] for option in own if option in wanted}
    return {**schema, "examples": [{**images, **example}]}


def _skill_options() -> dict[str, Schema]:
    words = texts(MAX_ITEMS, MAX_ITEM)
    described = {"type": "object", "additionalProperties": nullable(text(MAX_ITEM))}
    return {
        "length": word(*get_args(Length)),
        "count": whole(1, MAX_KEYWORDS),
        "form": word(*get_args(Form)),
        "target": words,
        "surface": word(*get_args(Surface)),
        "labels": words,
        "fields": {"anyOf": [words, described]},
        "schema": OBJECT,
        "question": text(),
    }


def plan_request(models: Sequence[str]) -> Schema:
    """Return the body of `POST /v1/plan`."""
    side = whole(1, MAX_NUMBER)
    size = record({"width": side, "height": side}, ["width", "height"])
    images = {"type": "array", "items": {"anyOf": [text(), size]}, "maxItems": MAX_IMAGES}
    properties = {**_image_options(), "model": _model(models), "images": images}
    return {**record(properties), "examples": [{"images": [PIXEL]}]}


def preview_request(models: Sequence[str]) -> Schema:
    """Return the body of `POST /v1/preview`."""
    properties = {
        **_image_options(),
        "model": _model(models),
        "image": text(),
        "pages": text(),
    }
    return {**record(properties, ["image"]), "examples": [{"image": PIXEL}]}


def _posted(
    properties: Mapping[str, Schema],
    required: Sequence[str],
    beside: Iterable[str],
    refused: Refusals,
    example: Mapping[str, Any],
) -> Schema:
    """Return the schema of a body, with what `Fields.ignore` and `Fields.refuse_each` let pass."""
    schema = record(properties, required, beside=beside)
    for name, (reason, neutral) in refused.items():
        schema["properties"][name] = {**_neutral(*neutral), "description": reason}
    return {**schema, "examples": [example]}


def _neutral(*values: Any) -> Schema:
    return {"enum": [*EMPTY, False, *values]}


def _model(names: Sequence[str]) -> Schema:
    return {"enum": ["", *names], "description": "the first one by default"}


def _length(terms: Terms) -> Schema:
    most = MAX_COUNT if terms.max_tokens is None else terms.max_tokens
    return {"anyOf": [whole(1, most), {"const": NO_LENGTH, "description": "sets no limit"}]}


def _answer_options() -> dict[str, Schema]:
    return {
        "stop": texts(MAX_STOPS, MAX_STOP),
        "special_tokens": texts(MAX_SPECIAL_TOKENS, MAX_STOP),
        "temperature": number(0, 100),
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "top_k": {"type": "integer", "minimum": 0},
        "min_p": number(0, 1),
        "repetition_penalty": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "seed": whole(0, LARGEST_SEED),
        "answer_start": text(),
        "lookup": whole(0, MAX_LOOKUP),
        "draft_tokens": whole(0, MAX_LOOKUP),
        "kv_bits": {"enum": list(KV_BITS)},
    }


def _image_options() -> dict[str, Schema]:
    return {
        **{name: whole(0, MAX_COUNT) for name in COUNTS},
        **dict.fromkeys(FLAGS, FLAG),
        "background": text(MAX_COLOR),
    }


def _constraint() -> Schema:
    values = {
        "regex": text(),
        "choice": {"type": "array", "items": text(), "maxItems": MAX_CHOICES},
        "grammar": text(),
        "json_schema": ANYTHING,
    }
    return {
        "anyOf": [
            record({"type": word(kind), kind: value}, ["type", kind])
            for kind, value in values.items()
        ]
    }


def _format(*, nested: bool) -> Schema:
    plain = [kind for kind in FORMATS if kind != "json_schema"]
    named = ("name", "description", "strict")
    if nested:
        inner = record({"schema": OBJECT}, ["schema"], beside=named)
        described = record(
            {"type": word("json_schema"), "json_schema": inner}, ["type", "json_schema"]
        )
    else:
        described = record(
            {"type": word("json_schema"), "schema": OBJECT}, ["type", "schema"], beside=named
        )
    return {"anyOf": [record({"type": word(*plain)}, ["type"]), described]}


def _tools(*, nested: bool) -> dict[str, Schema]:
    name = {"type": "string", "pattern": f"^{tool_fields.NAME.pattern}$"}
    about = {"name": name, "description": text(), "parameters": OBJECT, "strict": FLAG}
    kind, several = {"type": word("function")}, {"type": word("allowed_tools")}
    if nested:
        function = record(about, ["name"])
        tool = record({**kind, "function": function}, ["type", "function"])
        chosen = record({"name": text()}, ["name"])
        choice = record({**kind, "function": chosen}, ["type", "function"])
    else:
        tool = record({**kind, **about}, ["type", "name"])
        choice = record({**kind, "name": text()}, ["type", "name"])
    names = {"type": "array", "items": choice, "minItems": 1, "maxItems": tool_fields.MAX_TOOLS}
    allowed = {"mode": word("auto", "required"), "tools": names}
    if nested:
        inner = record(allowed, ["tools"])
        allowance = record({**several, "allowed_tools": inner}, ["type", "allowed_tools"])
    else:
        allowance = record({**several, **allowed}, ["type", "tools"])
    return {
        "tools": {"type": "array", "items": tool, "maxItems": tool_fields.MAX_TOOLS},
        "tool_choice": {"anyOf": [word(*tool_fields.WORDS), choice, allowance]},
        "parallel_tool_calls": FLAG,
    }


def _message() -> Schema:
    properties = {
        "role": word("system", "user", "assistant", "tool", *ROLES),
        "content": _content(),
        "refusal": text(),
        "tool_calls": {"type": "array", "items": OBJECT},
        "tool_call_id": text(turns.MAX_ID),
        "audio": _neutral(),
        "function_call": _neutral(),
        **dict.fromkeys(THOUGHTS, text()),
    }
    return record(properties, ["role"], beside=MESSAGE_BESIDE)


def _item() -> Schema:
    """Return a message, a call, or its result, in the input of a response."""
    beside = response_items.BESIDE
    message = {
        "type": {"enum": ["message", ""]},
        "role": word(*response_items.ROLES),
        "content": _content(),
    }
    call = {
        "type": word("function_call"),
        "call_id": text(turns.MAX_ID),
        "name": text(),
        "arguments": {"type": ["string", "object"]},
    }
    output = {
        "type": word("function_call_output"),
        "call_id": text(turns.MAX_ID),
        "output": _content(),
    }
    return {
        "anyOf": [
            record(message, ["role", "content"], beside=beside),
            record(call, ["type", "name"], beside=beside),
            record(output, ["type"], beside=(*beside, "name")),
            {**OBJECT, "properties": {"type": word("reasoning")}, "required": ["type"]},
        ]
    }


def _content() -> Schema:
    detail = word(*DETAILS)
    url = record({"url": text(), "detail": detail}, ["url"])
    file = {
        "file_data": text(),
        "file_url": text(),
        "filename": text(),
        "detail": detail,
        "file_id": _neutral(),
    }
    parts = [
        record(
            {"type": word(*turns.TEXT_TYPES), "text": text()},
            ["type", "text"],
            beside=turns.PART_BESIDE,
        ),
        record(
            {"type": word("refusal"), "refusal": text()},
            ["type", "refusal"],
            beside=turns.PART_BESIDE,
        ),
        record(
            {
                "type": word(*turns.IMAGE_TYPES),
                "image_url": {"anyOf": [text(), url]},
                "detail": detail,
                "file_id": _neutral(),
            },
            ["type", "image_url"],
            beside=turns.PART_BESIDE,
        ),
        record(
            {"type": word("file"), "file": record(file)},
            ["type", "file"],
            beside=turns.PART_BESIDE,
        ),
        record({"type": word("input_file"), **file}, ["type"], beside=turns.PART_BESIDE),
    ]
    items = {"anyOf": [text(), *parts]}
    return {"anyOf": [text(), {"type": "array", "items": items, "maxItems": turns.MAX_PARTS}]}
