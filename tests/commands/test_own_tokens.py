"""`--special-tokens` of `generate` and `train`."""

import shutil

import pytest
from conftest import golden
from special_tokens import OWN, add_own_tokens
from training_runs import run, write_rows

from mlx_lfm2vl import AnswerOptions
from mlx_lfm2vl.commands.generate import main as generate
from mlx_lfm2vl.generation.answer import Answer
from mlx_lfm2vl.prompt.tokenizer import Tokenizer

NOTE = "note: the text holds <|leaf|> as letters; allow it with --special-tokens\n"


@pytest.fixture
def model(tmp_path):
    """A checkpoint with tokens of its own, for which its embedding has spare rows."""
    return add_own_tokens(shutil.copytree(golden("head_72").folder, tmp_path / "model"))


def test_generate_reads_letters_unless_told_otherwise(model, capsys):
    arguments = ["-m", str(model), "--max-tokens", "1", "--json", "--special-tokens", "<|leaf|>"]
    question = "Is it a <|leaf|>?"
    assert generate([*arguments[:5], question]) == 0
    assert NOTE in capsys.readouterr().err
    assert generate([*arguments, question]) == 0
    assert "note" not in capsys.readouterr().err
    assert generate([*arguments, "<|im_end|>", question]) == 2
    assert "<|im_end|> cannot be allowed in text" in capsys.readouterr().err


def test_an_answer_shows_the_tokens_that_are_allowed(model):
    tokenizer = Tokenizer(model)
    ids = tokenizer.encode_rendered("A<|leaf|>!<|stem|>")
    for allowed, text in {
        (): "A!",
        ("<|leaf|>",): "A<|leaf|>!",
        tuple(OWN): "A<|leaf|>!<|stem|>",
    }.items():
        answer = Answer(tokenizer, (), AnswerOptions(special_tokens=allowed))
        assert "".join(map(answer.add, ids)) == text


def test_train_learns_the_tokens_and_resumes_with_the_same_ones(model, tmp_path, capsys):
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": "What?", "answer": "A <|leaf|>."}])
    assert run(data, tmp_path / "out", "--show", "1", model=model) == 0
    assert NOTE in capsys.readouterr().err
    options = ["--steps", "1", "--special-tokens", "<|leaf|>"]
    assert run(data, tmp_path / "out", *options, model=model) == 0
    assert "as letters" not in capsys.readouterr().err
    assert run(data, tmp_path / "out", *options[:2], "--resume", model=model) == 2
    assert "special_tokens was '<|leaf|>'" in capsys.readouterr().err
