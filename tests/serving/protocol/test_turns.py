"""The messages of clients, in the form that the package's chat templates read."""

import pytest
from client_shapes import DOT
from exchanges import TERMS

from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.protocol.responses import read_responses

USER = {"role": "user", "content": "Hi"}


def call(number: int, **function) -> dict:
    return {"id": f"c{number}", "type": "function", "function": {"name": "f", **function}}


def read(*messages):
    """The messages of a chat request, with images as their size in bytes."""
    (request,) = read_chat({"messages": list(messages)}, TERMS).requests
    return [shown(message) for message in request.messages]


def shown(message):
    if isinstance(message["content"], str):
        return message
    content = [
        len(part["image"]) if part["type"] == "image" else part["text"]
        for part in message["content"]
    ]
    return {**message, "content": content}


def test_system_and_developer_messages_at_the_beginning_become_one():
    first = [{"role": "developer", "content": "A"}, {"role": "system", "content": "B"}]
    later = {"role": "system", "content": "C"}
    assert read(*first, USER, later) == [
        {"role": "system", "content": "A\n\nB"},
        USER,
        {"role": "system", "content": "C"},
    ]
    assert read({"role": "system", "content": ""}, USER) == [USER]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DOT, "detail": "low"}},
        {"type": "image_url", "image_url": DOT},
        {"type": "input_image", "image_url": DOT, "detail": "auto"},
        {"type": "image_url", "image_url": {"url": DOT}, "prompt_cache_breakpoint": {}},
        {"type": "file", "file": {"file_data": DOT, "filename": "dot.png"}},
        {"type": "file", "file": {"file_data": DOT.partition(",")[2]}},
        {"type": "input_file", "file_data": DOT, "filename": "dot.png"},
    ],
)
def test_texts_and_images_keep_their_order_in_every_spelling(part):
    content = ["See", {"type": "text", "text": "this:"}, part, {"type": "input_text", "text": "?"}]
    assert read({"role": "user", "content": content}) == [
        {"role": "user", "content": ["See", "this:", 85, "?"]}
    ]


def test_results_follow_in_the_order_of_their_calls():
    calls = [call(1, arguments='{"x": 1}'), call(2)]
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": f"r{n}"} for n in (9, 2, 1)]
    asked, *answers = read(USER, {"role": "assistant", "tool_calls": calls}, *results)[1:]
    assert asked["content"] == ""
    assert [made["function"]["arguments"] for made in asked["tool_calls"]] == [{"x": 1}, {}]
    assert [answer["content"] for answer in answers] == ["r1", "r2", "r9"]  # of no known call


def test_what_an_assistant_has_said_may_come_back_as_it_went_out():
    said = {"role": "assistant", "content": "Yes.", "refusal": None, "annotations": [], "name": "x"}
    assert read(USER, said, USER)[1] == {"role": "assistant", "content": "Yes."}
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    assert read(USER, refused, USER)[1] == {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    ("message", "param", "text"),
    [
        ({"content": "Hi"}, "messages[0].role", "is missing"),
        ({"role": "bot", "content": ""}, "messages[0].role", "is 'bot', expected system, user"),
        ({"role": "user"}, "messages[0].content", "is missing"),
        (
            {"role": "user", "content": 5},
            "messages[0].content",
            "is a number, expected a text or a list of parts",
        ),
        ({"role": "user", "content": [5]}, "messages[0].content[0]", "expected an object"),
        ({**USER, "contents": "x"}, "messages[0].contents", "did you mean 'content'"),
        (
            {"role": "user", "content": [{"type": "video_url"}]},
            "messages[0].content[0].type",
            "is video_url, but videos are not read here",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            "messages[0].content[0].type",
            "does not hear",
        ),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "messages[0].content[0].text",
            "is missing",
        ),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
            "messages[0].content[0].file.file_id",
            "no files are kept here",
        ),
        (
            {"role": "user", "content": [{"type": "file"}]},
            "messages[0].content[0].file",
            "is missing",
        ),
        (
            {"role": "user", "content": [{"type": "input_file", "filename": "a.pdf"}]},
            "messages[0].content[0].file_data",
            "holds no file",
        ),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "messages[0].content[0].image_url",
            "holds no image",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "messages[0].tool_calls",
            "cannot be read",
        ),
        (
            {"role": "assistant", "function_call": {"name": "f"}},
            "messages[0].function_call",
            "send",
        ),
    ],
)
def test_a_message_that_is_wrong_is_refused_by_its_place(message, param, text):
    with pytest.raises(BadField) as caught:
        read(message)
    assert caught.value.param == param
    assert text in str(caught.value)


def test_items_of_a_response_become_the_turns_of_a_conversation():
    items = [
        {"role": "developer", "content": "B"},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "m",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "i"},
        {"type": "function_call", "call_id": "d", "name": "g", "arguments": '{"y": 2}'},
        {"type": "function_call_output", "call_id": "d", "output": "2"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": DOT}],
        },
    ]
    body = {"instructions": "A", "input": items}
    (request,) = read_responses(body, TERMS).requests
    system, user, said, first, second = map(shown, request.messages)
    assert (system["content"], user["content"]) == ("A\n\nB", "Hi")
    assert said["content"] == "I look."
    assert [made["function"]["name"] for made in said["tool_calls"]] == ["f", "g"]
    assert (first["content"], second["content"]) == ([85], "2")
