"""Tokenizer files that would hang, kill or mislead are refused; the others work."""

import json
import time
from typing import Any

import pytest
from conftest import edit_json, golden

from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.prompt.expressions import KNOWN
from mlx_lfm2vl.prompt.tokenizer import MAX_BYTES, Tokenizer


def replace(pattern: str | dict[str, str], content: str) -> dict[str, Any]:
    pattern = pattern if isinstance(pattern, dict) else {"String": pattern}
    return {"type": "Replace", "pattern": pattern, "content": content}


def chain(kind: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", kind: steps}


def split(expression: str) -> dict[str, Any]:
    pattern = {"Regex": expression}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {"type": "WordPiece", "unk_token": "a", "vocab": {"a": 0}}
STRIP = {"type": "Strip", "content": "a"}
SLOW = ["(a+)+b", "a*[bc]d", "(?:a|a){20}[bc]d", "(.+)\\1+x", "a?a?a?a?b", "", "a|", "(?<=a{1,9})b"]
WORDS |= {"continuing_subword_prefix": "#", "max_input_chars_per_word": 10**9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": chain("normalizers", [replace("a", "aa")] * 60)}, "times as long"),
        ({"normalizer": replace("a", "b" * 10**7)}, "times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}}, "times as long"),
        ({"pre_tokenizer": chain("pretokenizers", [BYTES] * 60)}, "times as long"),
        ({"decoder": chain("decoders", [replace("a", "aa")] * 60)}, "times as long"),
        ({"model": WORDS}, "WordPiece is not supported"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "Precompiled"),
        ({"normalizer": {"type": "Nothing"}}, "cannot be read"),
        ({"normalizer": replace("", "aa")}, "searches for an empty text"),
        ({"normalizer": replace("a" * 10**6, "")}, "or for a long one"),
        ({"pre_tokenizer": chain("pretokenizers", [split(".")] * 1000)}, "more than 32 steps"),
        ({"normalizer": chain("normalizers", [replace("a", "b")] * 5000)}, "more than 32 steps"),
        ({"decoder": chain("decoders", [{"type": "Fuse"}] * 100)}, "more than 32 steps"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "FixedLength has a value"),
        ({"normalizer": {"type": "Prepend", "prepend": ""}}, "Prepend has a value"),
        ({"decoder": {**STRIP, "start": 0, "stop": 5}}, "Strip has a value"),
        ({"pre_tokenizer": split("a|" * 10**6 + "b")}, "may take too long"),
        ({"decoder": replace({"Regex": "(a|a)*b"}, "")}, "may take too long"),
        ({"normalizer": replace({"Regex": "a*"}, "b")}, "may take too long"),
        *[({"pre_tokenizer": split(text)}, "may take too long") for text in SLOW],
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_hangs_or_kills_is_refused(checkpoint, capfd, changes, message):
    edit_json(checkpoint / "tokenizer.json", **changes)
    begun = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        Tokenizer(checkpoint).encode_plain("a" * 64)
    assert time.process_time() - begun < 10
    assert capfd.readouterr().err == ""


def test_names_cannot_be_hidden_from_the_search_for_expressions(checkpoint):
    path = checkpoint / "tokenizer.json"
    edit_json(path, pre_tokenizer=split("(a+)+b"))
    text = path.read_text()
    for hidden in ('"Re\\u0067ex"', '"\\u0052egex"'):
        path.write_text(text.replace('"Regex"', hidden))
        with pytest.raises(CheckpointError, match="spells letters as escapes"):
            Tokenizer(checkpoint)
    path.write_text(text.replace('"Regex":', '"Regex"\n\t :\n'))
    with pytest.raises(CheckpointError, match="may take too long"):
        Tokenizer(checkpoint)


def test_a_token_that_looks_like_an_escape_is_none(checkpoint):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    values["model"]["vocab"]["\\u0041"] = len(values["model"]["vocab"])
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    assert Tokenizer(checkpoint).id_of("\\u0041")


@pytest.mark.parametrize(
    "text",
    [*sorted(KNOWN), r"\w+|[^\w\s]+|\s+", r"\d{1,3}", r" ?\p{Lu}?\p{Ll}+|\p{N}", ".", "[.,!?-]"],
)
def test_expressions_that_take_linear_time_are_run(checkpoint, text):
    edit_json(
        checkpoint / "tokenizer.json", pre_tokenizer=chain("pretokenizers", [split(text), BYTES])
    )
    tokenizer, longest = Tokenizer(checkpoint), 0.0
    for drawn in (" ", "a", "\n ", "9", ".", "'", ".\n", "aA"):
        long = drawn * (30_000 // len(drawn)) + "~"
        begun = time.process_time()
        assert tokenizer.decode(tokenizer.encode_plain(long)) == long
        longest = max(longest, time.process_time() - begun)
    assert longest < 1


def test_usual_steps_are_no_growth(checkpoint):
    steps = [{"type": "NFC"}, replace(" ", "▁"), {"type": "Lowercase"}]
    edit_json(checkpoint / "tokenizer.json", normalizer=chain("normalizers", steps))
    assert Tokenizer(checkpoint).encode_plain("Hello")


def test_a_text_beyond_any_context_is_refused_before_it_takes_time():
    tokenizer = Tokenizer(golden("new_names").folder)
    begun = time.process_time()
    for encode in (tokenizer.encode_plain, tokenizer.encode_rendered):
        with pytest.raises(InputError, match="the text has 8388608 bytes, expected at most"):
            encode("a" * MAX_BYTES)
    assert time.process_time() - begun < 1
    with pytest.raises(InputError, match="not valid Unicode"):
        tokenizer.encode_plain("\ud800")


def test_a_vocabulary_without_added_tokens_has_a_largest_id(checkpoint):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    values["model"]["vocab"]["<image>"] = 5
    edit_json(checkpoint / "tokenizer.json", added_tokens=[])
    assert Tokenizer(checkpoint).largest_id == len(values["model"]["vocab"]) - 1


def test_ids_beyond_the_vocabulary_are_refused(checkpoint):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    last = max(values["model"]["vocab"], key=values["model"]["vocab"].get)
    values["model"]["vocab"][last] = 10**6
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = Tokenizer(checkpoint)
    with pytest.raises(CheckpointError, match="have gaps"):
        tokenizer.id_of(last)


def test_too_many_or_too_long_special_tokens_are_refused(checkpoint):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "content": "<" * 5000, "id": 364})
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="too many special tokens, or too long ones"):
        Tokenizer(checkpoint)
