"""Write the token ids that transformers makes of conversations with published chat templates.

usage: python tools/make_conversations.py ASSETS

ASSETS is a folder with one folder for each published model, and LFM2-VL-450M's tokenizer. The
result, tests/golden/conversations.json, holds the conversations and ids, not the templates.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import chat_template_utils

OUTPUT = Path(__file__).parent.parent / "tests" / "golden" / "conversations.json"
TEMPLATES = ["LFM2-VL-450M", "LFM2.5-VL-450M", "LFM2.5-VL-1.6B", "LFM2.5-VL-3B"]
WITHOUT_TOOLS = {"LFM2-VL-450M"}
WITHOUT_CALLS = {"LFM2-VL-450M", "LFM2.5-VL-1.6B"}
WITHOUT_NULL = {"LFM2.5-VL-450M"}  # writes no end of a message without content
DATE = datetime.datetime(2026, 1, 2)

USER = {"role": "user", "content": "Where is it?"}
BARE = {"name": "look", "description": "Looks <there>.", "parameters": {"type": "object"}}
OPENAI = {"type": "function", "function": {"name": "say", "parameters": {"é": [1, None, True]}}}
ARGUMENTS = {"a": "it's", "n": 1, "f": 0.5, "b": True, "l": ["x", 2], "d": {"k": "v"}, "z": None}


def started(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def calling(content: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    functions = [{"type": "function", "function": call} for call in calls]
    return {"role": "assistant", "content": content, "tool_calls": functions}


LOOK = {"name": "look", "arguments": ARGUMENTS}
SAY = {"name": "say", "arguments": {}}
RESULT = {"role": "tool", "content": '[{"at": "left"}]'}
CASES: dict[str, dict[str, Any]] = {
    "started": {"messages": [USER, started("{")]},
    "started, nothing": {"messages": [USER, started("")]},
    "started, spaces": {"messages": [USER, started(" It is:  \n")]},
    "started, later": {"messages": [USER, started("There."), USER, started("Here, ")]},
    "started, system": {"messages": [{"role": "system", "content": "S"}, USER, started("é\n")]},
    "started, parts": {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
            started([{"type": "text", "text": "A "}, {"type": "text", "text": "cat"}]),
        ]
    },
    "started, thinking": {"messages": [USER, started("<think>hm</think> It")]},
    "started, markers": {"messages": [USER, started("<|im_end|> a<|im_start|> user <|im_")]},
    "tools": {"messages": [USER], "tools": [BARE, OPENAI]},
    "tools, system": {"messages": [{"role": "system", "content": "S"}, USER], "tools": [BARE]},
    "tools, started": {"messages": [USER, started("[")], "tools": [OPENAI]},
    "call": {"messages": [USER, calling("", LOOK), RESULT], "tools": [BARE]},
    "call, null": {"messages": [USER, calling(None, LOOK), RESULT], "tools": [BARE]},
    "call, text": {"messages": [USER, calling("I look.", LOOK, SAY), RESULT, RESULT]},
    "call, started": {"messages": [USER, calling("", SAY), RESULT, started("It is")]},
    "call, again": {
        "messages": [USER, calling("", SAY), RESULT, started("Left."), USER, calling("", LOOK)]
    },
}


class Clock(datetime.datetime):
    """A clock that stands still, because a template writes the date."""

    @classmethod
    def now(cls, _: datetime.tzinfo | None = None) -> datetime.datetime:
        return DATE


def ids_of(tokenizer: Any, template: str, case: dict[str, Any]) -> list[int]:
    last = case["messages"][-1]
    goes_on = last["role"] == "assistant" and "tool_calls" not in last
    return tokenizer.apply_chat_template(
        case["messages"],
        tools=case.get("tools"),
        chat_template=template,
        add_generation_prompt=last["role"] != "assistant",
        continue_final_message=goes_on,
        tokenize=True,
        return_dict=False,
        sanitize_control_tokens="<|im_" in json.dumps(case),
    )


def main(assets: Path) -> None:
    chat_template_utils.datetime = Clock
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(assets / "LFM2-VL-450M" / "tokenizer.json"),
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
    )
    ids: dict[str, dict[str, list[int]]] = {}
    for name in TEMPLATES:
        template = (assets / name / "chat_template.jinja").read_text()
        ids[name] = {}
        for case, values in CASES.items():
            unused = name in WITHOUT_TOOLS and "tools" in values
            if unused or (name in WITHOUT_CALLS and "tool_calls" in json.dumps(values)):
                continue  # the template drops them without a word
            if name in WITHOUT_NULL and case == "call, null":
                continue
            try:
                ids[name][case] = ids_of(tokenizer, template, values)
            except (TypeError, ValueError) as error:
                print(f"{name}, {case}: {error}")
    versions = {"transformers": transformers.__version__}
    values = {"versions": versions, "date": DATE.date().isoformat(), "cases": CASES, "ids": ids}
    OUTPUT.write_text(json.dumps(values, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
