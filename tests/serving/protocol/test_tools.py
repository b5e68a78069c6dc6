"""Functions that a model may call: told to it, demanded of it, and read from its answer."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from client_shapes import WEATHER
from conftest import golden
from exchanges import body_of, frames_of
from schemas import drawn_schema

from mlx_lfm2vl.constraints.constraint import grammar
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.generation.guide import Guide
from mlx_lfm2vl.generation.vocabulary import Vocabulary
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.template import ChatTemplate
from mlx_lfm2vl.prompt.tokenizer import Tokenizer
from mlx_lfm2vl.prompt.tool_calls import parse_calls
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.protocol.call_grammar import ANY_TEXT, call_grammar, json_rule
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.protocol.responses import read_responses
from mlx_lfm2vl.serving.served import served_model

HI = [{"role": "user", "content": "Hi"}]
DAY = {
    "name": "day",
    "parameters": {
        "type": "object",
        "properties": {"name": {"enum": ["mon", "tue"]}, "early": {"type": "boolean"}},
        "required": ["name"],
    },
}
PLACE = {
    "name": "go-to",
    "parameters": {"type": "object", "properties": {"the place": {"enum": ["A", "B"]}}},
}
BEGIN, END = "<|tool_call_start|>", "<|tool_call_end|>"


def make_model(folder: Path) -> Path:
    """A model with random weights whose tokenizer and template know tools."""
    shutil.copytree(golden("new_names").folder, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        text = text.replace("<|img_row_10_col_9|>", BEGIN).replace("<|img_row_10_col_10|>", END)
        (folder / name).write_text(text)
    template = folder / "chat_template.jinja"
    calls = "{{ message['tool_calls'] | tojson if message['tool_calls'] }}"
    text = template.read_text().replace(
        '{%- if message["content"] is', calls + '{%- if message["content"] is'
    )
    template.write_text("{{ tools | tojson if tools }}" + text)
    return folder


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    core = Core([served_model(str(make_model(tmp_path_factory.mktemp("tools") / "model")))])
    yield core
    core.stop()


def offered(*functions: dict, **body) -> dict:
    tools = [{"type": "function", "function": function} for function in functions]
    return {"messages": HI, "tools": tools, "max_tokens": 60, "seed": 1, "temperature": 1, **body}


def allowed(mode: str, *names: str) -> dict:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
    }


def answers(tokenizer: Tokenizer, lark: str, seeds: range, length: int = 60) -> list[str]:
    """What a model without any preference writes inside a grammar."""
    rows = tokenizer.largest_id + 1
    end = tokenizer.special_tokens[tokenizer.eos_token]
    vocabulary, constraint = Vocabulary(tokenizer, rows, [end]), grammar(lark)
    texts = []
    for seed in seeds:
        draw, guide, ids = np.random.default_rng(seed), Guide(vocabulary, constraint, length), []
        while guide.ended is None:
            ids.append(guide.take(int(draw.choice(np.flatnonzero(guide.mask())))))
        texts.append(tokenizer.decode_all([token for token in ids if token != end]))
    return texts


def calls_in(text: str) -> list[dict]:
    return parse_calls(text.partition(BEGIN)[2].partition(END)[0])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer(make_model(tmp_path_factory.mktemp("tokenizer") / "model"))


@pytest.fixture
def published(published_processor) -> Tokenizer:
    """A published tokenizer, whose vocabulary all models of the family share."""
    return published_processor.tokenizer


def test_a_demanded_call_is_read_from_the_answer(core):
    terms = Terms(core.model)
    body = offered(DAY, PLACE, tool_choice="required", max_tokens=500)
    (choice,) = body_of(read_chat(body, terms), core)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    schemas = {each["name"]: each["parameters"] for each in (DAY, PLACE)}
    for call in choice["message"]["tool_calls"]:
        assert call["type"] == "function"
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, schemas[call["function"]["name"]])
    frames = frames_of(read_chat({**body, "stream": True}, terms), core)
    deltas = [frame.data["choices"][0]["delta"] for frame in frames[:-1]]
    streamed = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in streamed] == list(range(len(streamed)))
    assert [call["function"] for call in streamed] == [
        call["function"] for call in choice["message"]["tool_calls"]
    ]
    assert frames[-2].data["choices"][0]["finish_reason"] == "tool_calls"


def test_a_named_function_is_called_once(core):
    named = {"type": "function", "function": {"name": "day"}}
    body = offered(DAY, PLACE, tool_choice=named)
    (choice,) = body_of(read_chat(body, Terms(core.model)), core)["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "day"


def test_a_response_holds_calls_as_items(core):
    body = {
        **{"input": "Hi", "max_output_tokens": 60, "seed": 1, "tool_choice": "required"},
        "tools": [{"type": "function", **DAY}],
    }
    response = body_of(read_responses(body, Terms(core.model)), core)
    items = response["output"]
    assert {item["type"] for item in items} == {"function_call"}
    jsonschema.validate(json.loads(items[0]["arguments"]), DAY["parameters"])
    frames = frames_of(read_responses({**body, "stream": True}, Terms(core.model)), core)
    done = [frame.data for frame in frames if frame.event.endswith("arguments.done")]
    assert [each["arguments"] for each in done] == [item["arguments"] for item in items]
    assert frames[-1].data["response"]["output"][0]["name"] == "day"


def test_only_functions_that_may_be_called_bind_the_answer():
    model = served_model("demo")

    def options(**body):
        return read_chat(offered(WEATHER, **body), Terms(lambda _: model)).requests[0].options

    assert options().tools == [WEATHER]
    assert options().constraint is None
    assert options(tool_choice="none").tools is None
    assert options(parallel_tool_calls=True).constraint is None
    assert options(parallel_tool_calls=False).constraint is not None
    two = {"tools": [*offered(WEATHER, DAY)["tools"]]}
    assert options(**two, **allowed("auto", "day", "weather")).constraint is None
    for mode in ("auto", "required"):
        chosen = options(**two, **allowed(mode, "day", "day"))
        assert len(chosen.tools) == 2
        assert "day(" in chosen.constraint.text
        assert "weather(" not in chosen.constraint.text
    strict = [{"type": "function", "function": {**WEATHER, "strict": True}}]
    assert options(tools=strict).tools == [WEATHER]
    mixed = [*strict, {"type": "function", "function": DAY}]
    for tools in (strict, mixed, mixed[::-1]):
        assert options(tools=tools).constraint is not None
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    text = options(response_format=form).constraint.text
    assert "start: content | calls" in text
    assert "content" not in options(response_format=form, tool_choice="required").constraint.text


def test_schemas_of_tools_count_where_their_arguments_must_be_valid(tokenizer):
    model = served_model("demo")
    odd = {"name": "f", "parameters": {"properties": {"x": {"not": {}}, "y": {}}}}
    body = offered(
        odd, DAY, {"name": "g", "parameters": {"$ref": "#/x"}}, parallel_tool_calls=False
    )
    (request,) = read_chat(body, Terms(lambda _: model)).requests
    lark = request.options.constraint.text.replace("start: TEXT? calls?", "start: calls")
    lark = "\n".join(line for line in lark.splitlines() if not line.startswith("TEXT"))
    for text in answers(tokenizer, lark, range(3)):
        assert len(calls_in(text)) == 1
    strict = [{"type": "function", "function": {**odd, "strict": True}}]
    for demand in ({"tool_choice": "required"}, {"tools": strict}):
        with pytest.raises(BadField, match="cannot be used"):
            read_chat({**body, **demand}, Terms(lambda _: model))


@pytest.mark.parametrize(
    ("schema", "start"),
    [
        ({}, "[f("),
        ({"properties": {"a": {"const": 1}}, "required": ["a"]}, "[f(a=1)"),
        ({"properties": {"a": {"const": 1}}, "required": ["a", "b"]}, '[{"name": "f", "arg'),
        ({"properties": {"a b": {}}}, '[{"name": "f", "arguments": '),
        ({"additionalProperties": {"type": "integer"}}, '[{"name": "f", "arguments": '),
        (
            {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"const": 1}}},
            '[{"name": "f", "arguments": ',
        ),
        ({"properties": {"a": {"$ref": "#"}}}, '[{"name": "f", "arguments": '),
    ],
)
def test_arguments_are_named_where_python_can_name_them(tokenizer, schema, start):
    lark = call_grammar([{"name": "f", "parameters": schema}], None, parallel=False)
    (text,) = answers(tokenizer, lark, range(1))
    assert text.startswith(BEGIN + start)
    jsonschema.validate(calls_in(text)[0]["arguments"], schema)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "only functions"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "letters",
        ),
        ({"tool_choice": "weather"}, "tool_choice", "expected none, auto, required"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type", "expected function"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "is missing"),
        (
            {"tool_choice": 5},
            "tool_choice",
            "is a number, expected none, auto, required or an object",
        ),
        (
            allowed("auto", "weather", "x"),
            "tool_choice",
            "names the function 'x', expected weather",
        ),
        ({**allowed("auto", "x"), "tools": None}, "tool_choice", "but there are no tools"),
        (allowed("auto"), "tool_choice.allowed_tools.tools", "names no function"),
        ({"constraint": {"type": "choice", "choice": ["a"]}}, "constraint", "tools exclude"),
        (
            offered(
                {"name": "f", "parameters": {"properties": {"x": {"type": 1}}}},
                tool_choice="required",
            ),
            "tools",
            "cannot be used",
        ),
        (offered(DAY, DAY), "tools[1].function.name", "twice"),
    ],
)
def test_tools_that_are_wrong_are_refused_by_name(body, param, message):
    model = served_model("demo")
    with pytest.raises(BadField) as caught:
        read_chat({**offered(WEATHER), **body}, Terms(lambda _: model))
    assert caught.value.param == param
    assert message in str(caught.value)


def test_a_template_without_tools_refuses_them():
    core = Core([served_model("demo")])
    with pytest.raises(InputError, match="chat template does not use tools"):
        body_of(read_chat(offered(WEATHER, tool_choice="required"), Terms(core.model)), core)
    core.stop()


def test_calls_of_drawn_functions_are_read_and_valid(tokenizer):
    read = 0
    for seed in range(12):
        schema = {"type": "object", "properties": {"a": drawn_schema(seed), "b-c": {}}}
        schema["properties"].pop("b-c" if seed % 2 else "none", None)
        try:
            lark = call_grammar([{"name": "f", "parameters": schema}], None, parallel=False)
            texts = answers(tokenizer, lark, range(2), 100)
        except InputError:
            continue
        for text in texts:
            ((call),) = calls_in(text)
            jsonschema.validate(call["arguments"], schema)
            read += 1
    assert read > 10


@pytest.mark.parametrize("content", [None, ANY_TEXT, json_rule({"enum": ["x"]})])
def test_an_answer_holds_calls_or_what_else_is_allowed(tokenizer, content):
    lark = call_grammar([DAY, PLACE, {"name": "now"}], content, parallel=True)
    texts = answers(tokenizer, lark, range(6))
    for text in texts:
        if BEGIN in text:
            assert {call["name"] for call in calls_in(text)} <= {"day", "go-to", "now"}
        else:
            assert content == ANY_TEXT or text == '"x"'
    assert any(BEGIN in text for text in texts) or content == ANY_TEXT


def test_a_model_may_say_something_before_it_calls(tokenizer):
    lark = call_grammar([{"name": "now"}], ANY_TEXT, parallel=False)
    end = tokenizer.special_tokens[tokenizer.eos_token]
    guide = Guide(
        Vocabulary(tokenizer, tokenizer.largest_id + 1, [end]), grammar(lark), max_tokens=60
    )
    wanted = tokenizer.encode_rendered(f"I look.{BEGIN}[now()]{END}")
    said = wanted[: wanted.index(tokenizer.special_tokens[BEGIN]) + 1]
    assert [guide.take(token) for token in said] == said
    assert tokenizer.decode_all(said + guide.forced()) == f"I look.{BEGIN}[now()]{END}"
    assert guide.ended == "stop"


@pytest.mark.parametrize(("count", "fits"), [(16, True), (17, False)])
def test_one_answer_has_at_most_sixteen_calls(tokenizer, count, fits):
    end = tokenizer.special_tokens[tokenizer.eos_token]
    vocabulary = Vocabulary(tokenizer, tokenizer.largest_id + 1, [end])
    lark = call_grammar([{"name": "now"}], None, parallel=True)
    guide = Guide(vocabulary, grammar(lark), max_tokens=400)
    wanted = tokenizer.encode_rendered(f"{BEGIN}[{', '.join(['now()'] * count)}]{END}")
    assert ([guide.take(token) for token in wanted] == wanted) == fits


@pytest.mark.parametrize(
    ("name", "told", "call"),
    [
        ("LFM2.5-VL-450M", 'List of tools: [{"name": "weather"', '[weather(city="Rome", days=2)]'),
        ("LFM2.5-VL-3B", 'List of tools: [{"name": "weather"', "[weather(city='Rome', days=2)]"),
    ],
)
def test_the_published_templates_write_tools_calls_and_results(assets, published, name, told, call):
    marks = published.bos_token, published.eos_token
    template = ChatTemplate.from_folder(assets / name, *marks)
    processor = Processor(published, template, served_model("demo").info.images)
    function = {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'}
    messages = [
        {"role": "developer", "content": "Be brief."},
        *HI,
        {"role": "assistant", "tool_calls": [{"id": "c", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    model = served_model("demo")
    (request,) = read_chat(offered(WEATHER, messages=messages), Terms(lambda _: model)).requests
    text = processor.render(request.messages, request.options.tools, True).text
    assert told in text
    assert f"<|im_start|>assistant\n{BEGIN}{call}{END}" in text
    assert "<|im_start|>tool\nsunny<|im_end|>" in text


def test_calls_in_the_published_vocabulary_are_read(published):
    for text in answers(published, call_grammar([DAY, PLACE], None, parallel=False), range(2)):
        (call,) = calls_in(text)
        assert call["name"] in ("day", "go-to")
