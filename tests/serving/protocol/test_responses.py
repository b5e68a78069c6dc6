"""The responses protocol: what a request means, and the events of its answer."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from asgi_client import ask as http_ask
from exchanges import TERMS, body_of, frames_of
from scripted_core import ScriptedCore, pieces

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.result import Piece, Result, Timings
from mlx_lfm2vl.options import Sampling
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import App
from mlx_lfm2vl.serving.http.fronts import all_fronts
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.protocol.responses import read_responses
from mlx_lfm2vl.serving.resident.protocol import stream

FORM = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def ask(**body):
    return read_responses({"input": "Hi", "temperature": 0, "max_output_tokens": 8, **body}, TERMS)


def test_the_events_of_a_stream_tell_what_the_response_holds(core):
    whole = body_of(ask(), core)
    ((item,), usage) = whole["output"], whole["usage"]
    (part,) = item["content"]
    frames = frames_of(ask(stream=True), core)
    assert [frame.data["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert all(frame.event == frame.data["type"] for frame in frames)
    names = [frame.event.removeprefix("response.") for frame in frames]
    deltas = names.count("output_text.delta")
    assert names == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * deltas,
        *("output_text.done", "content_part.done", "output_item.done", "incomplete"),
    ]
    texts = [frame.data["delta"] for frame in frames if "delta" in frame.data]
    assert "".join(texts) == part["text"] == frames[-4].data["text"] != ""
    assert whole["status"] == item["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] == 8


def test_the_events_of_a_transport_are_numbered_in_their_order():
    core: Any = ScriptedCore(pieces("a", "b"))
    app = App(core, TERMS, Access(), all_fronts())
    reply = asyncio.run(http_ask(app, "/v1/responses", {"input": "Hi", "stream": True}))
    resident = b"".join(stream(ask(stream=True), core, lambda: False)).decode()
    for events in (reply.events, resident.split("\n\n")[:-1]):
        data = [json.loads(event.partition("\ndata: ")[2]) for event in events]
        assert [each["sequence_number"] for each in data] == list(range(len(data)))
        assert data[0]["type"] == "response.created"


def test_an_answer_in_json_is_valid_and_complete(core):
    form = {"type": "json_schema", "name": "x", "schema": FORM, "strict": True}
    whole = body_of(ask(text={"format": form}, max_output_tokens=60, seed=1), core)
    assert whole["status"] == "completed"
    jsonschema.validate(json.loads(whole["output"][0]["content"][0]["text"]), FORM)
    assert whole["text"] == {"format": form}


def test_logprobs_are_told_to_who_asks(core):
    included = ask(include=["message.output_text.logprobs", "reasoning.encrypted_content"])
    (part,) = body_of(included, core)["output"][0]["content"]
    assert b"".join(bytes(each["bytes"]) for each in part["logprobs"]).decode() == part["text"]
    assert body_of(ask(), core)["output"][0]["content"][0]["logprobs"] == []


def test_a_failure_in_the_middle_is_an_event():
    exchange = ask(stream=True)
    exchange.begin()
    (frame,) = exchange.fail(InputError("image 1 is damaged"))
    assert frame.event == "response.failed"
    error = frame.data["response"]["error"]
    assert error == {"code": "invalid_prompt", "message": "image 1 is damaged"}


def test_calls_stand_behind_the_text_and_an_empty_answer_is_a_message():
    timings = Timings(0.0, 0.0, 0.0)
    result = Result("a", [5], "stop", 9, 0, [], Sampling(), 1, timings, 0)
    call = {"name": "f", "arguments": {}}
    exchange = ask(stream=True)
    exchange.begin()
    frames = exchange.add(0, Piece("a", [5], replace(result, tool_calls=[call])))
    assert [item["type"] for item in exchange.body()["output"]] == ["message", "function_call"]
    places = [frame.data["output_index"] for frame in frames]
    assert places == sorted(places)
    assert places.count(1) == 4
    empty = ask()
    empty.add(0, Piece("", [], replace(result, text="")))
    (item,) = empty.body()["output"]
    assert item["content"][0]["text"] == ""
    assert empty.body()["parallel_tool_calls"] is True


def test_fields_that_leave_the_answer_alone_are_passed_over():
    idle = {
        **{"store": True, "user": "me", "reasoning": {"effort": "high"}, "background": False},
        **{"truncation": "disabled", "previous_response_id": None, "tools": [], "include": []},
        **{"stream_options": {"include_obfuscation": False}, "service_tier": "auto"},
        **{"metadata": {"a": "b"}, "text": {"format": {"type": "text"}, "verbosity": "medium"}},
    }
    assert ask(**idle).requests == ask().requests


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "no state is kept here"),
        ({"conversation": "conv_1"}, "conversation", "no state is kept here"),
        ({"background": True}, "background", "no state is kept here"),
        ({"truncation": "auto"}, "truncation", "send a shorter input"),
        ({"max_tokens": 5}, "max_tokens", "is called max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "only functions"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "in words"),
        ({"input": None}, "input", "is missing"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, "input[0].type", "send them again"),
        ({"input": [{"type": "shell_call"}]}, "input[0].type", "expected message, function_call"),
        ({"input": [{"role": "user"}]}, "input[0].content", "is missing"),
        ({"input": [{"content": "Hi"}]}, "input[0].role", "is missing"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
            "no files are kept here",
        ),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": "a.png"}]}
                ]
            },
            "input[0].content[0].image_url",
            "data URI",
        ),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(body, param, message):
    with pytest.raises(BadField) as caught:
        ask(**body)
    assert caught.value.param == param
    assert message in str(caught.value)
