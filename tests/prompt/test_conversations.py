"""Started answers, tools, their calls and results: token ids are those of the reference."""

import json
from datetime import datetime

import pytest
from conftest import GOLDEN

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.prompt import template as template_module
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.prompt.template import ChatTemplate

DATA = json.loads((GOLDEN / "conversations.json").read_text())
IMAGE = "data:,"  # is never opened


@pytest.fixture
def processor_of(assets, published_processor, monkeypatch):
    """Makes the processor of a published model; its clock stands still."""
    date = datetime.fromisoformat(DATA["date"])
    monkeypatch.setattr(template_module, "_now", date.strftime)

    def make(name: str) -> Processor:
        tokenizer = published_processor.tokenizer
        template = ChatTemplate.from_folder(assets / name, tokenizer.bos_token, tokenizer.eos_token)
        return Processor(tokenizer, template, published_processor.image_config)

    return make


def with_images(message: dict) -> dict:
    if not isinstance(message["content"], list):
        return message
    parts = [{**p, "image": IMAGE} if p["type"] == "image" else p for p in message["content"]]
    return {**message, "content": parts}


def ids_of(processor: Processor, case: str) -> list[int]:
    values = DATA["cases"][case]
    messages = list(map(with_images, values["messages"]))
    goes_on = "tool_calls" not in messages[-1]
    rendered = processor.render(messages, values.get("tools"), goes_on)
    return processor.tokenizer.encode_rendered(rendered.text, rendered.guard)


@pytest.mark.parametrize("name", DATA["ids"])
def test_ids_are_those_of_the_reference(processor_of, name):
    processor = processor_of(name)
    expected = DATA["ids"][name]
    assert {case: ids_of(processor, case) for case in expected} == expected
    assert len(expected) >= 8


@pytest.mark.parametrize("name", ["LFM2.5-VL-450M", "LFM2.5-VL-3B"])
def test_a_call_without_text_is_a_whole_message(processor_of, name):
    processor = processor_of(name)
    assert ids_of(processor, "call, null") == DATA["ids"][name]["call"]


@pytest.mark.parametrize("name", ["LFM2-VL-450M", "LFM2.5-VL-1.6B"])
def test_calls_are_refused_where_the_template_would_drop_them(processor_of, name):
    processor = processor_of(name)
    with pytest.raises(InputError, match="does not use the 'tool_calls' of a message"):
        ids_of(processor, "call, null")


@pytest.mark.parametrize("name", ["LFM2.5-VL-450M", "LFM2.5-VL-3B"])
def test_calls_may_be_written_in_other_ways(processor_of, name):
    processor = processor_of(name)
    user, _, result = DATA["cases"]["call"]["messages"]
    arguments = {"at": "x", "n": [1]}
    functions = [
        {"function": {"name": "look", "arguments": arguments}},
        {
            "id": "1",
            "type": "function",
            "function": {"name": "look", "arguments": '{"at": "x", "n": [1]}'},
        },
        {"name": "look", "arguments": arguments},
        {"name": "look", "parameters": arguments},
    ]

    def text(call: dict) -> str:
        calling = {"role": "assistant", "content": None, "tool_calls": [call]}
        return processor.render([user, calling, result], None, True).text

    assert len(set(map(text, functions))) == 1
