"""Tokenizer files that would hang, kill or mislead are refused; the others work."""

import json
import time
from typing import Any

import pytest
from conftest import edit_json, golden

from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.prompt.tokenizer import MAX_BYTES, Tokenizer


def replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def chain(kind: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", kind: steps}


SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {"type": "WordPiece", "unk_token": "a", "vocab": {"a": 0}}
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
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "gave up"),
        ({"normalizer": {"type": "Nothing"}}, "cannot be read"),
        ({"pre_tokenizer": SPLIT}, "fails on this text: the tokenizer library gave up"),
        ({"normalizer": replace("", "aa")}, "fails on this text: the tokenizer library gave up"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_hangs_or_kills_is_refused(checkpoint, changes, message):
    edit_json(checkpoint / "tokenizer.json", **changes)
    begun = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        Tokenizer(checkpoint).encode_plain("a" * 64)
    assert time.process_time() - begun < 10


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
