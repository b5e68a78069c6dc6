"""docs/protocol.md is true: its tables name exactly the fields that the readers know."""

import re

import pytest
from exchanges import TERMS
from pages import page

from mlx_lfm2vl.serving.protocol.answer_fields import DEFAULT_TOKENS
from mlx_lfm2vl.serving.protocol.chat import REFUSED as CHAT_REFUSED
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.protocol.fields import Fields
from mlx_lfm2vl.serving.protocol.responses import REFUSED as RESPONSES_REFUSED
from mlx_lfm2vl.serving.protocol.responses import read_responses
from mlx_lfm2vl.serving.protocol.skills import EITHER, OPTIONS

PAGE = page("protocol")
ONLY_CHAT = {"background", "return_progress", "return_result"}


def section(title: str) -> str:
    return PAGE.text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def named(text: str, *heads: str) -> set[str]:
    """The fields in the first cells of tables."""
    found: set[str] = set()
    for head in heads:
        rows = text.partition(f"| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
        found |= {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    return found


@pytest.fixture
def known(monkeypatch) -> set[str]:
    """The fields of a body that are read."""
    names: set[str] = set()

    def close(fields: Fields) -> None:
        if not fields.path:
            names.update(fields._known)

    monkeypatch.setattr(Fields, "close", close)
    return names


def test_the_table_of_chat_is_complete(known):
    read_chat({"messages": [{"role": "user", "content": "Hi"}]}, TERMS)
    kinds = ("honoured", "of this package", "passed over", "refused")
    assert named(section("Chat"), *kinds) == known
    assert named(section("Chat"), "refused") == CHAT_REFUSED.keys()
    assert f"{DEFAULT_TOKENS} by default" in section("Chat")


def test_the_table_of_responses_is_complete(known):
    read_responses({"input": "Hi"}, TERMS)
    told = named(section("Responses"), "honoured", "passed over", "refused") | {"stop", "seed"}
    package = named(section("Chat"), "of this package") - ONLY_CHAT
    assert told | package == known
    assert named(section("Responses"), "refused") == RESPONSES_REFUSED.keys()


def test_the_options_of_the_skills_are_told():
    rows = dict(PAGE.table("| skill | own options |"))
    assert rows.keys() == {f"`{name}`" for name in OPTIONS}
    for name, options in OPTIONS.items():
        told = set(re.findall(r"`(\w+)`", rows[f"`{name}`"]))
        assert told == {*options, *(["together"] if name in EITHER else [])}
