"""The chat protocol: what a request means, and how its answer is written."""

import base64
import io
import json
from dataclasses import fields, replace

import jsonschema
import pytest
from client_shapes import pictured
from exchanges import MODEL, TERMS, body_of, frames_of
from pictures import make_picture

from mlx_lfm2vl.generation.result import Piece, Result, Timings
from mlx_lfm2vl.options import AnswerOptions, ImageOptions, Sampling
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.protocol.chat_answer import finish_reason
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.protocol.usage import token_usage
from mlx_lfm2vl.serving.request import Progress

HI = [{"role": "user", "content": "Hi"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def data_uri(picture) -> str:
    file = io.BytesIO()
    picture.save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def chat(**body):
    return read_chat({"messages": HI, "temperature": 0, "max_tokens": 8, **body}, TERMS)


def request_of(**body):
    (request,) = read_chat({"messages": HI, **body}, TERMS).requests
    return request


def texts(frames) -> dict[int, str]:
    """The text of each answer of a stream."""
    found: dict[int, str] = {}
    for frame in frames[:-1]:
        for choice in frame.data["choices"]:
            text = choice["delta"].get("content") or ""
            found[choice["index"]] = found.get(choice["index"], "") + text
    return found


def test_an_answer_is_that_of_the_engine_in_a_stream_and_as_one_object(core, engine):
    picture = make_picture(60, 40, 1)
    image = {"type": "image_url", "image_url": {"url": data_uri(picture)}}
    question = [{"role": "user", "content": [image, {"type": "text", "text": "Describe this."}]}]
    expected = engine.generate(
        user_message("Describe this.", [picture]), temperature=0, max_tokens=8
    )
    whole = body_of(chat(messages=question), core)
    (choice,) = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    assert choice["finish_reason"] == expected.finish_reason
    assert whole["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert whole["usage"]["completion_tokens"] == len(expected.token_ids)
    frames = frames_of(chat(messages=question, stream=True), core)
    assert texts(frames) == {0: expected.text}
    assert frames[-1].data == "[DONE]"
    assert frames[-2].data["choices"][0]["finish_reason"] == expected.finish_reason


def test_a_second_question_about_an_image_tells_how_much_was_cached(core):
    stream = chat(
        messages=[pictured("Describe this.")], stream=True, stream_options={"include_usage": True}
    )
    frames_of(stream, core)
    again = chat(
        messages=[pictured("Describe this.")], stream=True, stream_options={"include_usage": True}
    )
    *chunks, last, _ = frames_of(again, core)
    assert {chunk.data["usage"] for chunk in chunks} == {None}
    usage = last.data["usage"]
    assert last.data["choices"] == []
    assert usage["prompt_tokens_details"]["cached_tokens"] > 64
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_several_answers_have_seeds_of_their_own(core, engine):
    drawn = {"temperature": 1.5, "seed": 2**63 - 1, "n": 2}
    expected = [
        engine.generate(HI, temperature=1.5, seed=seed, max_tokens=8).text
        for seed in (2**63 - 1, 0)
    ]
    requests = chat(n=3, seed=2**63 - 2).requests
    assert [request.options.seed for request in requests] == [2**63 - 2, 2**63 - 1, 0]
    whole = body_of(chat(**drawn), core)
    assert [choice["message"]["content"] for choice in whole["choices"]] == expected
    assert texts(frames_of(chat(stream=True, **drawn), core)) == dict(enumerate(expected))
    written = whole["usage"]["completion_tokens"]
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + written


def test_several_answers_count_their_prompt_once():
    exchange = chat(n=2)
    for index, cached in ((1, 0), (0, 8)):
        timings = Timings(0.0, 0.0, 0.0)
        result = Result("a", [5], "length", 9, 0, [], Sampling(), 1, timings, 0, 0, 0, None, cached)
        call = {"name": "f", "arguments": {}}
        exchange.add(index, Piece("a", [5], replace(result, tool_calls=[call])))
    usage = token_usage(exchange._ordered())
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 2, 11)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert finish_reason(exchange._results[0]) == "length"
    assert exchange.body()["choices"][0]["message"]["content"] == "a"  # beside its call


def test_a_stop_string_ends_the_answer_and_is_cut_off(core):
    text = body_of(chat(), core)["choices"][0]["message"]["content"]
    word = text.split()[2]
    for stop in (word, [word, "never"]):
        (choice,) = body_of(chat(stop=stop), core)["choices"]
        assert choice["message"]["content"] == text[: text.index(word)]
        assert choice["finish_reason"] == "stop"


def test_logprobs_have_the_bytes_of_each_token(core, engine):
    expected = engine.generate(HI, temperature=0, max_tokens=8, logprobs=True)
    (choice,) = body_of(chat(logprobs=True), core)["choices"]
    content = choice["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in content).decode() == expected.text
    assert [token["logprob"] for token in content] == pytest.approx(expected.logprobs, abs=1e-4)
    frames = frames_of(chat(logprobs=True, stream=True), core)
    choices = [choice for frame in frames[:-1] for choice in frame.data["choices"]]
    parts = [choice["logprobs"]["content"] for choice in choices if choice["logprobs"]]
    assert [token["bytes"] for part in parts for token in part] == [
        token["bytes"] for token in content
    ]
    half = Piece("", [5], logprobs=[-1.0])  # of a character
    (frame,) = chat(logprobs=True, stream=True).add(0, half)
    assert len(frame.data["choices"][0]["logprobs"]["content"]) == 1
    assert chat(stream=True).add(0, half) == []


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}, PERSON),
    ],
)
def test_an_answer_in_json_is_valid(core, form, schema):
    whole = body_of(chat(response_format=form, max_tokens=60, temperature=1, seed=1), core)
    jsonschema.validate(json.loads(whole["choices"][0]["message"]["content"]), schema)


def test_a_constraint_is_followed(core):
    for constraint, expected in (
        ({"type": "choice", "choice": ["yes!"]}, "yes!"),
        ({"type": "regex", "regex": "a{3}"}, "aaa"),
        ({"type": "grammar", "grammar": 'start: "b" "c"'}, "bc"),
        ({"type": "json_schema", "json_schema": {"const": [1]}}, "[1]"),
    ):
        whole = body_of(chat(constraint=constraint), core)
        assert whole["choices"][0]["message"]["content"] == expected


def test_thoughts_of_another_model_are_told_to_templates_that_write_them(assets):
    said = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "thinking": ""}
    body = {"messages": [*HI, said, *HI]}
    info = replace(MODEL.info, folder=assets / "LFM2.5-VL-3B")
    writes = Terms(lambda _: replace(MODEL, look=lambda: info))
    for terms, thoughts in ((TERMS, {}), (writes, {"reasoning_content": "Hm."})):
        message = read_chat(body, terms).requests[0].messages[1]
        assert message == {"role": "assistant", "content": "Yes.", **thoughts}


def test_an_answer_that_has_begun_goes_on(core, engine):
    begun = [*HI, {"role": "assistant", "content": "The circle"}]
    expected = engine.generate(HI, answer_start="The circle", temperature=0, max_tokens=8).text
    for body in ({"messages": begun}, {"answer_start": "The circle"}):
        (choice,) = body_of(chat(**body), core)["choices"]
        assert choice["message"]["content"] == expected != "The circle"


def test_progress_is_told_to_who_asks():
    progress = Progress("prefill", 3, 9)
    (frame,) = chat(stream=True, return_progress=True).add(0, progress)
    assert frame.data["choices"] == []
    assert frame.data["lfm2vl"] == {"progress": {"stage": "prefill", "done": 3, "total": 9}}
    assert chat(stream=True).add(0, progress) == []


def test_a_result_is_told_to_who_asks(core, engine):
    asked = {"logprobs": True, "return_result": True}
    expected = engine.generate(HI, temperature=0, max_tokens=8, logprobs=True)
    frames = frames_of(chat(stream=True, **asked), core)
    *pieces, last = [frame.data["lfm2vl"] for frame in frames[1:-1]]
    assert [token for piece in pieces for token in piece["token_ids"]] == expected.token_ids
    logprobs = [number for piece in pieces for number in piece["logprobs"]]
    assert logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    for told in (last, body_of(chat(**asked), core)["lfm2vl"]):
        assert told["result"].keys() == expected.to_dict().keys()
        assert told["result"]["token_ids"] == expected.token_ids


def test_every_knob_of_the_package_is_a_field():
    knobs = {
        **{"max_tokens": 7, "stop": ["x"], "special_tokens": ["<s>"], "answer_start": "A"},
        **{"temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1},
        **{"seed": 3, "lookup": 4, "draft_tokens": 2, "kv_bits": 8},
    }
    images = {
        **{"min_image_tokens": 9, "max_image_tokens": 20, "min_tiles": 2, "max_tiles": 3},
        **{"do_image_splitting": True, "use_thumbnail": False, "jpeg_draft": False},
        "background": "white",
    }
    options = request_of(**knobs, **images).options
    assert options == AnswerOptions(**knobs, image_options=ImageOptions(**images))
    assert {field.name for field in fields(ImageOptions)} == set(images)
    hooks = {"logits_processors", "on_encode", "on_prefill"}
    others = {"sampling", "image_options", "tools", "constraint", "logprobs"}
    assert {field.name for field in fields(AnswerOptions)} == {*knobs, *hooks, *others}


def test_fields_that_leave_the_answer_alone_are_passed_over():
    idle = {
        **{"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        **{"prompt_cache_key": "k", "safety_identifier": "s", "reasoning_effort": "low"},
        **{"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "top_logprobs": 0},
        **{"modalities": ["text"], "audio": None, "tools": [], "tool_choice": "auto", "n": 1},
        **{"response_format": {"type": "text"}, "stop": None, "verbosity": "medium"},
        **{"stream_options": {"include_obfuscation": False}, "unheard_of": None},
    }
    assert request_of(**idle) == request_of()


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty", "use repetition_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "is not supported"),
        ({"top_logprobs": 3}, "top_logprobs", "only the chosen token"),
        ({"modalities": ["text", "audio"]}, "modalities", "may only hold text"),
        ({"functions": [{"name": "f"}]}, "functions", "send those"),
        ({"verbosity": "low"}, "verbosity", "in words"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        (
            {"enable_thinking": True},
            "enable_thinking",
            "remove it; docs/protocol.md lists the fields",
        ),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "expected include_usage"),
        ({"temperature": 101}, "temperature", "expected 0 to 100"),
        ({"temperature": "1"}, "temperature", "is a text, expected a number"),
        ({"temperature": 10**400}, "temperature", "is out of range"),
        ({"top_k": 1.5}, "top_k", "is a number, expected a whole number"),
        ({"max_tokens": 0}, "max_tokens", "is 0, expected 1 to"),
        ({"max_tokens": True}, "max_tokens", "is a boolean, expected a whole number"),
        ({"max_tokens": 5.5}, "max_tokens", "is a number, expected a whole number"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "contradicts"),
        ({"n": 9}, "n", "is 9, expected 1 to 8"),
        ({"n": 2, "return_result": True}, "return_result", "goes with one answer"),
        ({"seed": -1}, "seed", "expected 0 to"),
        ({"stop": ["a"] * 17}, "stop", "has 17 items, expected at most 16"),
        ({"stop": [""]}, "stop", "empty string"),
        ({"stop": [1]}, "stop", "holds a number, expected texts"),
        ({"max_tiles": "4"}, "max_tiles", "is a text, expected a whole number"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "expected text, json_"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
            "response_format",
            "the JSON schema cannot be used",
        ),
        ({"constraint": {"type": "regex", "regex": "("}}, "constraint.regex", "cannot be used"),
        ({"constraint": {"type": "choice"}}, "constraint.choice", "empty"),
        ({"constraint": {"type": "regex"}}, "constraint.regex", "is missing"),
        ({"constraint": {"regex": "a"}}, "constraint.type", "is missing, expected regex"),
        ({"response_format": {}}, "response_format.type", "is missing, expected text"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "is missing",
        ),
        ({"stream": "yes"}, "stream", "is a text, expected true or false"),
        ({"model": "a" * 1001}, "model", "has 1001 characters, expected at most 1000"),
        ({"stop": "a" * 1001}, "stop", "holds 1001 characters, expected at most 1000"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"stop": {}}, "stop", "is an object, expected a text or a list of texts"),
        ({"messages": None}, "messages", "messages is missing, expected a list such as"),
        ({"messages": []}, "messages", "messages is empty, expected a list such as"),
        ({"messages": "Hi"}, "messages", "is a text, expected a list"),
        ({"messages": ["Hi"]}, "messages[0]", "is a text, expected an object"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(body, param, message):
    with pytest.raises(BadField) as caught:
        request_of(**body)
    assert caught.value.param == param
    assert message in str(caught.value)


def test_what_is_as_long_as_allowed_is_read():
    request = request_of(model="a" * 1000, stop=["b" * 1000] * 16)
    assert request.options.stop == ("b" * 1000,) * 16


def test_a_whole_number_may_be_written_with_a_point():
    assert request_of(max_tokens=5.0).options.max_tokens == 5


def test_an_answer_is_no_longer_than_the_server_allows():
    short = Terms(lambda _: MODEL, max_tokens=50)
    (request,) = read_chat({"messages": HI}, short).requests
    assert request.options.max_tokens == 50
    with pytest.raises(BadField, match="max_tokens is 51, expected 1 to 50"):
        read_chat({"messages": HI, "max_tokens": 51}, short)


@pytest.mark.parametrize(
    ("details", "given", "splits"),
    [
        (["low"], None, False),
        (["low", "low"], None, False),
        (["low", "auto"], None, None),
        (["low", "high"], None, True),
        (["original"], None, True),
        ([], None, None),
        (["high"], False, False),
    ],
)
def test_the_most_detailed_image_decides_about_tiles(details, given, splits):
    messages = [*HI, *(pictured("", detail=detail) for detail in details)]
    options = request_of(messages=messages, do_image_splitting=given).options
    assert options.image_options.do_image_splitting is splits
