"""--ask asks several questions about the same images, each as if it were the only one."""

import io
import json
import sys

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.generation.engine import Engine
from mlx_lfm2vl.model.lfm2vl import Lfm2VL

TINY = str(golden("new_names").folder)
QUESTIONS = ["What is it?", "Which colors?", "Where?"]
ASKS = [word for question in QUESTIONS for word in ("--ask", question)]


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs `generate` in a folder with two pictures; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png")):
        make_picture(30 + seed, 44, seed).save(name)

    def ask(*arguments: str) -> tuple[int, str, str]:
        short = ["-m", TINY, "--max-tokens", "5", "--dtype", "float32"]
        code = cli.main(["generate", *short, *arguments])
        return code, *capsys.readouterr()

    return ask


DRAWN = ["--temperature", "1", "--seed", "5"]
GREEDY = ["--temperature", "0", "--repetition-penalty", "1"]


@pytest.mark.parametrize(
    ("images", "extra"),
    [
        (["a.png"], GREEDY),
        (["a.png"], DRAWN),
        (["a.png", "b.png"], [*GREEDY, "--system", "Be brief."]),
        (["a.png"], [*GREEDY, "--answer-start", "It"]),
        ([], [*GREEDY, "--system", "Be brief."]),
    ],
    ids=["greedy", "drawn", "system", "started", "no image"],
)
def test_each_answer_is_the_one_given_alone_under_its_question(ask, images, extra):
    extra = [*extra, *(["-i", *images] if images else [])]
    alone = [ask(*extra, "-p", question)[1] for question in QUESTIONS]
    code, out, _ = ask(*extra, *ASKS)
    assert code == 0
    expected = [f"==> {q} <==\n{text}\n" for q, text in zip(QUESTIONS, alone, strict=True)]
    assert out == "".join(expected)


def test_json_is_a_list_with_questions_and_what_was_cached(ask):
    code, out, _ = ask("a.png", *ASKS, "--json", "--token-ids", *GREEDY)
    assert code == 0
    answers = json.loads(out)
    assert [answer["question"] for answer in answers] == QUESTIONS
    for answer, question in zip(answers, QUESTIONS, strict=True):
        alone = json.loads(ask("a.png", question, "--json", "--token-ids", *GREEDY)[1])
        assert alone["cached_tokens"] == 0
        assert answer["cached_tokens"] > answer["image_tokens"]
        for key in ("text", "token_ids", "prompt_tokens", "images", "finish_reason", "schema"):
            assert answer[key] == alone[key]


def test_the_image_is_encoded_once(ask, monkeypatch):
    encoded, encode = [], Lfm2VL.encode_batches
    monkeypatch.setattr(Lfm2VL, "encode_batches", lambda *a: (encoded.append(a), encode(*a))[1])
    assert ask("a.png", "b.png", *ASKS)[0] == 0
    assert len(encoded) == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_a_question_that_is_too_long_does_not_stop_the_others(ask, as_json):
    long = "x" * 20_000
    flags = ["--json"] if as_json else []
    code, out, err = ask("a.png", "--ask", "One?", "--ask", long, "--ask", "Two?", *flags)
    assert code == 1
    bad, last = err.splitlines()
    assert bad.startswith("error: xxx")
    assert "the prompt has" in bad
    assert last == "1 of 3 questions not answered"
    if as_json:
        first, second, third = json.loads(out)
        assert (first["question"], third["question"]) == ("One?", "Two?")
        assert second["question"] == long
        assert second["exit_code"] == 2
        assert second["error"] in bad
    else:
        assert out.count("==> ") == 2


def test_questions_in_a_file_follow_those_of_the_command(ask, tmp_path, monkeypatch):
    text = "\ufeffTwo?\r\n\n  \nThree?"
    (tmp_path / "questions.txt").write_bytes(text.encode())
    _, out, _ = ask("a.png", "--ask", "One?", "--ask-file", "questions.txt")
    headers = ["==> One? <==", "==> Two? <==", "==> Three? <=="]
    assert [line for line in out.splitlines() if line.startswith("==> ")] == headers
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    _, out, _ = ask("a.png", "--ask-file", "-")
    assert [line for line in out.splitlines() if line.startswith("==> ")] == headers[1:]


def test_a_question_of_several_lines_has_one_header_line(ask):
    _, out, _ = ask("--ask", "a\nb\x1b[31m")
    assert out.startswith("==> a b\\x1b[31m <==\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ask", "One?", "-p", "Two?"], "--ask and the prompt 'Two?': use --ask for all"),
        (["--ask", "One?", "a.png", "Two?"], "--ask and the prompt 'Two?'"),
        (["--ask", "One?", "--each", "a.png"], "--ask asks about all images together"),
        (["--ask", " ", "a.png"], "a question of --ask is empty"),
        (["--ask-file", "none.txt"], "none.txt cannot be read: No such file"),
        (["--ask-file", "empty.txt"], "empty.txt holds no questions"),
        (["--ask-file", "latin.txt"], "latin.txt is not UTF-8"),
        (["--ask-file", "-", "-i", "-"], "stdin (-) can be used only once"),
        (["--ask", "One?", "gone.png"], "gone.png"),
    ],
)
def test_what_cannot_be_asked_is_one_line(ask, tmp_path, arguments, message):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    code, out, err = ask(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_said_before_ctrl_c_stays(ask, monkeypatch, as_json):
    stream, begun = Engine.streamed, []

    def interrupted(self, *arguments, **keys):
        begun.append(arguments)
        for piece in stream(self, *arguments, **keys):
            yield piece
            if len(begun) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "streamed", interrupted)
    flags = ["--json"] if as_json else []
    code, out, _ = ask("a.png", *ASKS, *flags, *GREEDY)
    assert code == 130
    if as_json:
        first, second = json.loads(out)
        assert first["finish_reason"] == "length"
        assert (second["question"], second["finish_reason"]) == (QUESTIONS[1], "interrupted")
        assert second["text"]
    else:
        assert out.count("==> ") == 2


def test_a_plan_needs_no_question(ask):
    code, out, _ = ask("a.png", "--plan", *ASKS)
    assert (code, out.count("a.png: ")) == (0, 1)
