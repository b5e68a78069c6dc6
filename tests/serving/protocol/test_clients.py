"""Clients that speak OpenAI's protocols: their requests are taken, and they read the answers."""

import httpx
import openai
import pytest
from client_shapes import DOT, SHAPES, WEATHER, pictured
from exchanges import InProcess, as_sse, body_of, frames_of
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.result import Piece, Result, Timings
from mlx_lfm2vl.options import Sampling
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.protocol.responses import read_responses
from mlx_lfm2vl.serving.served import served_model

ROUTES = {"/v1/chat/completions": read_chat, "/v1/responses": read_responses}
CALL = {"name": "weather", "arguments": {"city": "Rome"}}


class Person(BaseModel):
    name: str
    age: int


class Scripted(Core):
    """A core whose answers call a function."""

    def stream(self, request):  # noqa: ARG002
        """Yield an answer of the model, in which it says something and calls twice."""
        yield Piece("I look.", [1, 2])
        timings = Timings(0.0, 0.0, 0.0)
        told = {"logprobs": None, "tool_calls": [CALL, CALL]}
        result = Result("I look.", [1, 2, 3], "stop", 9, 0, [], Sampling(), 1, timings, 0, **told)
        yield Piece("", [3], result)


def in_process(kind: type[Core]) -> InProcess:
    core = kind([served_model("demo", dtype="float32")])
    return InProcess(core, Terms(core.model), ROUTES)


@pytest.fixture(scope="module")
def server():
    server = in_process(Core)
    yield server
    server.core.stop()


@pytest.fixture(scope="module")
def calling():
    server = in_process(Scripted)
    yield server
    server.core.stop()


def sdk(server: httpx.BaseTransport) -> openai.OpenAI:
    """OpenAI's own client, which checks every answer against the protocol."""
    return openai.OpenAI(
        api_key="none",
        base_url="http://localhost/v1",
        http_client=httpx.Client(transport=server),
        max_retries=0,
        _strict_response_validation=True,
    )


def langchain(server: InProcess, **settings):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model="demo",
        api_key="none",
        base_url="http://localhost/v1",
        http_client=httpx.Client(transport=server),
        max_retries=0,
        temperature=0,
        **settings,
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_request_of_a_known_client_is_answered_in_valid_form(name, server):
    exchange = read_chat(SHAPES[name], server.terms)
    if exchange.streams:
        *chunks, done = frames_of(exchange, server.core)
        for chunk in chunks:
            ChatCompletionChunk.model_validate(chunk.data, strict=True)
        assert done.data == "[DONE]"
    else:
        reply = body_of(exchange, server.core)
        assert ChatCompletion.model_validate(reply, strict=True).choices[0].message.content


def test_the_sdk_reads_answers_and_streams(server):
    chat = sdk(server).chat.completions
    asked = {"model": "demo", "messages": [pictured("Describe this.")], "max_tokens": 8}
    whole = chat.create(**asked, temperature=0, logprobs=True)
    streamed = list(chat.create(**asked, temperature=0, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(texts) == whole.choices[0].message.content != ""
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens == 8


def test_the_sdk_is_told_which_field_is_wrong(server):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(server).chat.completions.create(model="demo", messages=[], presence_penalty=1)
    assert caught.value.param == "messages"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5' here"):
        sdk(server).chat.completions.create(model="gpt-5", messages=[pictured("Hi")])


def test_the_sdk_raises_a_failure_in_the_middle_of_a_stream(server):
    exchange = read_chat({"messages": [pictured("Hi")], "stream": True}, server.terms)
    content = as_sse(exchange.begin() + exchange.fail(InputError("image 1 is damaged")))
    headers = {"content-type": "text/event-stream"}
    broken = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=content))
    stream = sdk(broken).chat.completions.create(model="demo", messages=[], stream=True)
    with pytest.raises(openai.APIError, match="image 1 is damaged"):
        list(stream)


def test_the_sdk_parses_structured_answers(server):
    asked = {"model": "demo", "temperature": 1, "extra_body": {"seed": 1}}
    parsed = sdk(server).chat.completions.parse(
        messages=[{"role": "user", "content": "Hi"}],
        response_format=Person,
        max_completion_tokens=150,
        **asked,
    )
    assert isinstance(parsed.choices[0].message.parsed, Person)
    parsed = sdk(server).responses.parse(
        input="Hi", text_format=Person, max_output_tokens=150, **asked
    )
    assert isinstance(parsed.output_parsed, Person)


def test_the_sdk_reads_responses_and_their_events(server):
    image = {"type": "input_image", "image_url": DOT, "detail": "auto"}
    text = {"type": "input_text", "text": "Describe this image."}
    content = [{"role": "user", "content": [image, text]}]
    asked = {"model": "demo", "input": content, "temperature": 0}
    whole = sdk(server).responses.create(**asked)
    with sdk(server).responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == whole.output_text != ""
    cut = sdk(server).responses.create(**asked, max_output_tokens=3)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert final.output_text.startswith(cut.output_text)


def test_the_sdk_reads_calls_and_sends_them_back(calling):
    client, tools = sdk(calling), [{"type": "function", "function": WEATHER}]
    asked = {"model": "demo", "tools": tools, "messages": [pictured("Is it raining?")]}
    reply = client.chat.completions.create(**asked).choices[0]
    assert reply.finish_reason == "tool_calls"
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    for message in (reply.message, streamed.message):
        assert message.content == "I look."
        assert [call.function.arguments for call in message.tool_calls] == ['{"city": "Rome"}'] * 2
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "no"}
        for call in reply.message.tool_calls
    ]
    conversation = [*asked["messages"], reply.message, *results]
    client.chat.completions.create(**{**asked, "messages": conversation})
    response = client.responses.create(
        model="demo", input="Hi", tools=[{"type": "function", "strict": False, **WEATHER}]
    )
    said, *calls = response.output
    assert (said.type, [call.name for call in calls]) == ("message", ["weather", "weather"])
    outputs = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "no"} for call in calls
    ]
    client.responses.create(model="demo", input=[*response.output, *outputs])


@pytest.mark.slow
def test_langchain_reads_answers_streams_and_structures(server):
    content = pictured("Describe this.", detail="low")["content"]
    model = langchain(server, max_tokens=8)
    answer = model.invoke([("user", content)])
    assert answer.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.text for chunk in model.stream([("user", content)])) == answer.text != ""
    wide = langchain(server, max_tokens=150)
    assert isinstance(wide.with_structured_output(Person).invoke("Hi"), Person)
    responses = langchain(server, max_tokens=8, use_responses_api=True)
    assert responses.invoke([("user", content)]).text == answer.text


@pytest.mark.slow
def test_langchain_binds_functions_and_reads_calls(calling):
    model = langchain(calling).bind_tools([{"type": "function", "function": WEATHER}])
    answer = model.invoke("Is it raining?")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("weather", {"city": "Rome"})
    ] * 2
    streamed = None
    for chunk in model.stream("Is it raining?"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == {"city": "Rome"}
    model.invoke(
        [
            "Is it raining?",
            answer,
            *(
                {"role": "tool", "tool_call_id": call["id"], "content": "no"}
                for call in answer.tool_calls
            ),
        ]
    )
