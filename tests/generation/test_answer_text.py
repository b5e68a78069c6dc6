"""Tool calls in answers become data; what is no call stays in the text."""

import json
import logging
import shutil

import mlx.core as mx
import pytest
from conftest import edit_json, golden

from mlx_lfm2vl.generation.answer import Answer
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.generation.sampling import Drawn
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.tokenizer import Tokenizer

# Two tokens that the tiny vocabulary has, under the names that the checkpoint gives them.
BEGIN, END = "<|img_row_10_col_9|>", "<|img_row_10_col_10|>"
EOS = 2
CALL = '[look(at="é", n=[1])]'
READ = [{"name": "look", "arguments": {"at": "é", "n": [1]}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calling") / "checkpoint"
    shutil.copytree(golden("new_names").folder, folder)
    edit_json(
        folder / "tokenizer_config.json", tool_call_start_token=BEGIN, tool_call_end_token=END
    )
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer(folder)


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer.encode_rendered(text)


def answered(tokenizer, text: str, **options) -> tuple[Answer, list[str]]:
    """The answer whose tokens are those of a text, and its pieces."""
    answer = Answer(tokenizer, {EOS}, AnswerOptions(**options))
    pieces = []
    for token in [*ids_of(tokenizer, text), EOS]:
        pieces.append(answer.add(token))
        if answer.finish_reason:
            break
    assert "".join(pieces) == answer.text
    return answer, pieces


def test_a_call_is_taken_out_of_the_text(tokenizer):
    answer, pieces = answered(tokenizer, f"I look.{BEGIN}{CALL}{END} Wait.")
    assert (answer.text, answer.tool_calls) == ("I look. Wait.", READ)
    assert not any("[" in piece for piece in pieces)


def test_several_calls_are_in_order(tokenizer):
    answer, _ = answered(tokenizer, f"{BEGIN}[a(), b()]{END}{BEGIN}[c()]{END}")
    assert [call["name"] for call in answer.tool_calls] == ["a", "b", "c"]
    assert answer.text == ""


@pytest.mark.parametrize("inside", ["[look(1)]", "", "é", f"[f()] {BEGIN}[g()]", "<|im_start|>"])
def test_what_cannot_be_read_stays_in_the_text_with_a_note(tokenizer, inside, caplog):
    answer, pieces = answered(tokenizer, f"A{BEGIN}{inside}{END}B")
    assert answer.text == f"A{BEGIN}{inside}{END}B"
    assert answer.tool_calls == []
    assert pieces.count("") >= len(ids_of(tokenizer, inside))  # nothing comes before the end
    (note,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert note.startswith("a tool call stays in the text, because it cannot be read: ")


@pytest.mark.parametrize("limit", [512, 6])
def test_a_call_without_end_stays_in_the_text(tokenizer, limit, caplog):
    answer, _ = answered(tokenizer, f"A{BEGIN}{CALL}", max_tokens=limit)
    begun = CALL if limit == 512 else CALL[:4]
    assert (answer.text, answer.tool_calls) == (f"A{BEGIN}{begun}", [])
    assert "ended within a tool call" in caplog.text


def test_half_a_character_before_a_call_is_not_lost(tokenizer):
    half = tokenizer.encode_plain("é")[:1]
    answer = Answer(tokenizer, {EOS}, AnswerOptions())
    for token in [*half, *ids_of(tokenizer, f"{BEGIN}[f()]{END}é"), EOS]:
        answer.add(token)
    assert answer.text == "\ufffdé"
    assert [call["name"] for call in answer.tool_calls] == ["f"]


def test_stop_strings_count_in_the_text_only(tokenizer):
    answer, _ = answered(tokenizer, f'{BEGIN}[f(x="stop")]{END}go stop it', stop="stop")
    assert (answer.text, answer.finish_reason) == ("go ", "stop")
    assert answer.tool_calls == [{"name": "f", "arguments": {"x": "stop"}}]
    answer, _ = answered(tokenizer, f"{BEGIN}[stop it]{END}more", stop="stop")
    assert answer.text == f"{BEGIN}["


def test_a_vocabulary_without_the_markers_has_no_calls(checkpoint):
    plain = Tokenizer(checkpoint)
    assert plain.tool_call_ids == {}
    answer, _ = answered(plain, CALL)
    assert (answer.text, answer.tool_calls) == (CALL, [])


def test_published_vocabularies_have_the_markers(published_processor):
    published = published_processor.tokenizer
    assert published.tool_call_ids == {"<|tool_call_start|>": 10, "<|tool_call_end|>": 11}


def test_a_result_has_the_calls(folder, tokenizer, monkeypatch):
    engine = Engine(*load(folder, dtype="float32"))
    script = iter([*ids_of(tokenizer, f"Hm{BEGIN}{CALL}{END}"), *[EOS] * 99])
    monkeypatch.setattr(
        "mlx_lfm2vl.generation.stream.Sampler",
        lambda *_, **__: lambda _: Drawn(mx.array([next(script)]), None),
    )
    result = engine.generate("Hi")
    assert (result.text, result.tool_calls) == ("Hm", READ)
    assert result.token_ids == ids_of(tokenizer, f"Hm{BEGIN}{CALL}{END}")
    assert json.loads(json.dumps(result.to_dict()))["tool_calls"] == READ
