"""A prompt and images, however they were typed, piped or matched."""

import io
import sys
from pathlib import Path

import pytest
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands.generate_options import build_parser
from mlx_lfm2vl.commands.question import complete_question
from mlx_lfm2vl.commands.source_options import chosen_inputs
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits


class Pipe(io.TextIOWrapper):
    """A stdin that is a pipe, or a terminal."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch) -> Path:
    """The current folder, with two pictures, a folder of two more, and a terminal as stdin."""
    (tmp_path / "pics").mkdir()
    for name in ("a.png", "b c.jpg", "pics/1.PNG", "pics/2.jpg", "no_ending"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "pics" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Pipe(terminal=True))
    return tmp_path


def asked(*arguments: str) -> tuple[list[str], str]:
    options = build_parser().parse_args(list(arguments))
    complete_question(options)
    names = [image.name for image in chosen_inputs(options, ImageLimits())]
    return names, options.prompt


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.png", "What is this?"],
        ["What is this?", "a.png"],
        ["-i", "a.png", "What is this?"],
        ["-i", "a.png", "-V", "What is this?"],
        ["What is this?", "-i", "a.png"],
        ["-ia.png", "-p", "What is this?"],
        ["a.png", "--prompt=What is this?"],
        ["a.png", "-m", "450m", "What is this?"],
        ["a.png", "--special-tokens", "<|leaf|>", "What is this?"],
    ],
    ids=" ".join,
)
def test_prompt_and_image_are_told_apart_in_any_order(arguments):
    assert asked(*arguments) == (["a.png"], "What is this?")


def test_a_file_is_an_image_whatever_it_is_called():
    assert asked("b c.jpg", "no_ending", "Compare.") == (["b c.jpg", "no_ending"], "Compare.")


@pytest.mark.parametrize("word", ["gone.png", "gone/photo", "https://a.b/c", "data:x", "-"])
def test_what_can_only_be_an_image_never_becomes_the_prompt(word):
    name = "data URI" if word == "data:x" else word
    assert asked(word, "What is this?") == ([name], "What is this?")
    assert asked("-i", "a.png", word, "-p", "Hi") == (["a.png", name], "Hi")


@pytest.mark.parametrize("last", ["gone", "gone.png", "pics/gone"])
def test_a_misspelt_file_after_image_never_becomes_the_prompt(last):
    with pytest.raises(InputError, match="the prompt is missing"):
        asked("-i", "a.png", last)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_word_after_image_may_have_been_the_prompt(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Pipe(b"not read", terminal=terminal))
    with pytest.raises(InputError, match="or is it 'Describe'. then write --prompt"):
        asked("-i", "a.png", "Describe")


def test_a_question_mark_makes_no_image_of_a_prompt(desk):
    (desk / "Why1").touch()
    assert asked("a.png", "Why?") == (["a.png"], "Why?")
    assert asked("-p", "Hi", "-i", "Why?") == (["Why1"], "Hi")


def test_a_prompt_without_quotes_is_refused():
    with pytest.raises(InputError, match="two prompts: 'What' and 'is'; put .* in quotes"):
        asked("a.png", "What", "is", "this?")
    with pytest.raises(InputError, match="two prompts: 'What' and 'is'"):
        asked("a.png", "-p", "What", "is", "this?")


def test_a_prompt_comes_from_a_pipe_if_none_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Pipe(b"\xef\xbb\xbfWhat is this?\r\n"))
    assert asked("-i", "a.png") == (["a.png"], "What is this?")
    monkeypatch.setattr(sys, "stdin", Pipe(b"not read"))
    assert asked("-i", "a.png", "Say hi.") == (["a.png"], "Say hi.")
    monkeypatch.setattr(sys, "stdin", Pipe(b"two\nlines\n\n"))
    assert asked("-p", "-") == ([], "two\nlines\n")


def test_a_terminal_is_not_waited_for():
    with pytest.raises(InputError, match="the prompt is missing"):
        asked("-i", "a.png")


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"])
def test_an_empty_prompt_is_refused(prompt, monkeypatch):
    with pytest.raises(InputError, match="the prompt is empty"):
        asked("a.png", prompt)
    with pytest.raises(InputError, match="the prompt is empty"):
        asked("-i", "a.png", "-p", prompt)
    monkeypatch.setattr(sys, "stdin", Pipe(prompt.encode()))
    with pytest.raises(InputError, match="the prompt is empty"):
        asked("-p", "-")
    monkeypatch.setattr(sys, "stdin", Pipe(prompt.encode()))
    with pytest.raises(InputError, match="the prompt is (missing|empty)"):
        asked("-i", "a.png")


def test_a_prompt_from_a_pipe_has_a_limit(monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.commands.question.MAX_PROMPT_BYTES", 3)
    monkeypatch.setattr(sys, "stdin", Pipe(b"four"))
    with pytest.raises(InputError, match="over 3 bytes"):
        asked("-p", "-")


def test_patterns_are_expanded_if_no_file_has_that_name(desk):
    assert asked("-p", "Hi", "-i", "pics/*.[Pj]*") == (["pics/1.PNG", "pics/2.jpg"], "Hi")
    assert asked("pics/*.jpg", "Hi") == (["pics/2.jpg"], "Hi")
    assert asked("-p", "Hi", "-i", "none*.png") == (["none*.png"], "Hi")
    (desk / "IMG[1].png").touch()
    (desk / "IMG1.png").touch()
    assert asked("IMG[1].png", "Hi") == (["IMG[1].png"], "Hi")


def test_a_name_that_begins_with_a_tilde_is_a_file_if_there_is_one(desk, monkeypatch):
    monkeypatch.setenv("HOME", str(desk / "pics"))
    (desk / "~old.png").touch()
    (desk / "~pics").mkdir()
    (desk / "~pics" / "3.png").touch()
    assert asked("~old.png", "./~old.png", "Hi") == (["~old.png", "./~old.png"], "Hi")
    assert asked("--each", "~pics", "Hi") == (["~pics/3.png"], "Hi")
    assert asked("~/2.jpg", "Hi") == (["~/2.jpg"], "Hi")


def test_a_folder_stands_for_its_images_with_each(desk):
    (desk / "pics" / "._2.jpg").touch()  # as macOS leaves them on other disks
    assert asked("--each", "pics", "Hi") == (["pics/1.PNG", "pics/2.jpg"], "Hi")
    with pytest.raises(InputError, match="pics is a folder; --each --image pics asks about each"):
        asked("pics", "Hi")
    Path("my pics").mkdir()
    with pytest.raises(InputError, match="; --each --image 'my pics' asks about each"):
        asked("my pics", "Hi")
    Path("empty").mkdir()
    with pytest.raises(InputError, match="no images in empty"):
        asked("--each", "empty", "Hi")


@pytest.mark.parametrize(
    "arguments",
    [
        ["picture.png", "Describe the picture."],
        ["-m", "demo", "-i", "picture.png", "Describe the picture."],
        ["Describe the picture.", "picture.png"],
        ["generate", "picture.png", "Describe the picture.", "--max-tokens", "40"],
    ],
    ids=" ".join,
)
def test_the_program_answers_without_the_name_of_a_command(arguments, desk, monkeypatch, capsys):
    monkeypatch.setenv("LFM2VL_MODEL", "demo")
    (desk / "picture.png").symlink_to(Path(cli.__file__).parent / "demo" / "example.png")
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.startswith("A small red circle")


def test_several_images_in_one_prompt_are_said(desk, capsys):
    for name in ("x.png", "y.png"):
        make_picture(20, 30, 1).save(desk / name)
    arguments = ["-m", "demo", "Hi", "--max-tokens", "1", "-i"]
    assert cli.main(["generate", *arguments, "x.png", "y.png"]) == 0
    assert "note: 2 images in one prompt; --each" in capsys.readouterr().err
    assert cli.main(["generate", *arguments, "x.png"]) == 0
    assert "in one prompt" not in capsys.readouterr().err
