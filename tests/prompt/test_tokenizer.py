"""Text to ids and back: published values, and streams without losses."""

import json
import random

import pytest
from conftest import edit_json, golden

from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.prompt.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(published_processor):
    return published_processor.tokenizer


@pytest.fixture(scope="module")
def small():
    return Tokenizer(golden("new_names").folder)


def test_published_encodings(assets, tokenizer):
    checks = json.loads((assets / "golden_outputs.json").read_text())["tokenizer_checks"]
    for text, ids in checks.items():
        assert tokenizer.encode_rendered(text) == ids


def test_rendered_text_is_encoded_as_the_tokenizer_library_does(assets, tokenizer):
    library = __import__("tokenizers").Tokenizer.from_file(
        str(assets / "LFM2-VL-450M" / "tokenizer.json")
    )
    random.seed(0)
    pieces = [
        "<|im_start|>",
        "<image>",
        "user\n",
        " python",
        "Mathias",
        "<",
        "|im",
        "日本",
        " \n\n",
    ]
    for _ in range(200):
        text = "".join(random.choices(pieces, k=8))
        assert tokenizer.encode_rendered(text) == library.encode(text, add_special_tokens=False).ids


def test_special_ids_come_from_the_tokenizer(tokenizer):
    assert tokenizer.image_token_id == 396
    assert (tokenizer.image_start_id, tokenizer.image_end_id) == (498, 499)
    assert tokenizer.image_thumbnail_id == 497
    assert tokenizer.id_of("<|img_row_10_col_10|>") == 496
    assert tokenizer.id_of(tokenizer.eos_token) == 7
    other = Tokenizer(golden("head_72").folder)
    assert other.image_token_id == 261


def test_a_stream_never_splits_a_character_and_adds_up_to_the_whole(tokenizer):
    texts = ["Grüße, 日本語のテスト 🎉👩‍👩‍👧 done", "plain", "🎉", "ends in half 🎉"]
    for text in texts:
        ids = tokenizer.encode_plain(text)
        for cut in range(len(ids) + 1):
            stream = tokenizer.text_stream()
            pieces = [stream.add(i) for i in ids[:cut]]
            assert "\ufffd" not in "".join(pieces)
            assert "".join(pieces) + stream.finish() == tokenizer.decode(ids[:cut])


def test_a_stream_of_random_bytes_equals_the_whole_text(small):
    random.seed(1)
    for _ in range(200):
        ids = random.choices(range(120, 360), k=20)
        stream = small.text_stream()
        text = "".join(stream.add(i) for i in ids) + stream.finish()
        assert text == small.decode(ids)


@pytest.mark.parametrize(
    "leftover",
    [
        {"truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0}},
        {"truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 9}},
        {"padding": {"strategy": {"Fixed": 64}, "pad_to_multiple_of": None}},
        {"padding": {"strategy": {"Fixed": 10**9}, "pad_to_multiple_of": None}},
    ],
    ids=str,
)
def test_a_tokenizer_that_was_saved_with_limits_neither_cuts_nor_pads(checkpoint, small, leftover):
    for settings in leftover.values():
        settings |= {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    edit_json(checkpoint / "tokenizer.json", **leftover)
    text = "one two three four five six seven"
    assert Tokenizer(checkpoint).encode_plain(text) == small.encode_plain(text)


def test_a_broken_tokenizer_is_one_line(checkpoint):
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Tokenizer(checkpoint)
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Tokenizer(checkpoint)


def test_a_dropout_left_over_from_training_does_not_make_ids_random(checkpoint):
    text = "The quick brown fox jumps over the lazy dog"
    expected = Tokenizer(checkpoint).encode_rendered(text)
    edit_json(checkpoint / "tokenizer.json", model__dropout=0.9)
    tokenizer = Tokenizer(checkpoint)
    assert [tokenizer.encode_rendered(text) for _ in range(5)] == [expected] * 5
