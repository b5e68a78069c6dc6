"""Damaged requests of every protocol are read or refused; no other exception leaves the reader."""

import copy
import random
from dataclasses import replace
from functools import partial

from client_shapes import DOT, SHAPES, WEATHER
from mutations import damage_json, seeds

from mlx_lfm2vl.errors import Lfm2VLError
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.protocol.responses import read_responses
from mlx_lfm2vl.serving.protocol.skills import read_skill
from mlx_lfm2vl.serving.served import served_model

INFO = replace(served_model("demo").info, kind="3b")  # which was taught all skills
MODEL = replace(served_model("demo"), look=lambda: INFO)
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CHATS = [
    *SHAPES.values(),
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "sunny"},
        ],
        "tools": [{"type": "function", "function": {**WEATHER, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "n": 2,
        "logprobs": True,
    },
    {
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": DOT}}]}],
        "constraint": {"type": "choice", "choice": ["a", "b"]},
        "max_tiles": 4,
        "background": "white",
        "return_progress": True,
    },
]
RESPONSES = [
    {"input": "Hi", "instructions": "Be brief.", "stream": True},
    {
        "input": [
            {"role": "user", "content": [{"type": "input_image", "image_url": DOT}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        ],
        "tools": [{"type": "function", **WEATHER}],
        "tool_choice": "required",
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        "include": ["message.output_text.logprobs"],
        "metadata": {"a": "b"},
    },
]
SKILLS = {
    "caption": {"images": [DOT, {"data": DOT, "filename": "a"}], "length": "short"},
    "keywords": {"image": DOT, "count": 3, "max_tokens": 9},
    "ocr": {"image": DOT, "form": "text", "temperature": 0.5},
    "layout": {"image": DOT},
    "detect": {"images": [DOT, DOT], "target": ["cat", "dog"], "together": True},
    "point": {"image": DOT, "target": "cat", "surface": "web"},
    "classify": {"image": DOT, "labels": ["a", "b"]},
    "extract": {"image": DOT, "fields": {"a": "b"}, "do_image_splitting": False},
    "compare": {"images": [DOT, DOT]},
    "ask": {"image": DOT, "question": "Why?", "seed": 3},
}
READERS = [
    *((read_chat, body) for body in CHATS),
    *((read_responses, body) for body in RESPONSES),
    *((partial(read_skill, name), body) for name, body in SKILLS.items()),
]


@seeds(400, 20_000)
def test_a_damaged_request_is_read_or_refused_in_a_few_words(bounds, cases):
    refusals: list[str] = []
    for seed in range(cases):
        draw = random.Random(seed)
        reader, body = draw.choice(READERS)
        body = copy.deepcopy(body)
        damage_json(body, draw)
        with bounds.case(seed):
            try:
                assert reader(body, Terms(lambda _: MODEL)).requests
            except Lfm2VLError as error:
                refusals.append(str(error))
    assert cases / 2 < len(refusals) < cases * 0.95
    assert max(map(len, refusals)) < 1000
