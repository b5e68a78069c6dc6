"""--each asks about each image by itself, with one model and as a batch."""

import sys
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import cli, loading
from mlx_lfm2vl.commands.open_engine import unescaped

TINY = str(golden("new_names").folder)
NAMES = ["1.png", "2.png", "3.png"]


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Runs `generate` in a folder with three pictures; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(NAMES):
        make_picture(30 + seed, 44, seed).save(name)

    def ask(*arguments: str) -> tuple[int, str, str]:
        short = ["-m", TINY, "--max-tokens", "6", "-p", "Describe."]
        greedy = ["--temperature", "0", "--repetition-penalty", "1"]
        code = cli.main(["generate", *short, *greedy, *arguments])
        return code, *capsys.readouterr()

    return ask


def test_each_answer_is_the_one_given_alone_under_the_name_of_its_file(ask):
    alone = [ask("-i", name)[1] for name in NAMES]
    assert len(set(alone)) > 1
    code, out, err = ask("--each", "-i", *NAMES)
    expected = [f"==> {name} <==\n{text}\n" for name, text in zip(NAMES, alone, strict=True)]
    assert (code, out, err) == (0, "".join(expected), "")


def test_the_model_is_loaded_once(ask, monkeypatch):
    loaded, load = [], loading.load
    monkeypatch.setattr(loading, "load", lambda *a, **k: (loaded.append(a), load(*a, **k))[1])
    assert ask("--each", ".")[0] == 0
    assert len(loaded) == 1


def test_a_bad_image_does_not_stop_the_others(ask):
    Path("2.png").write_bytes(b"damaged")
    code, out, err = ask("--each", "-i", *NAMES, "gone.png")
    assert code == 1
    assert [line for line in out.splitlines() if line.startswith("==>")] == [
        "==> 1.png <==",
        "==> 3.png <==",
    ]
    bad, gone, last = err.splitlines()
    assert bad.startswith("error: '2.png' is ")
    assert gone.startswith("error: 'gone.png' does")
    assert last == "2 of 4 images not answered"


def test_the_name_of_a_file_is_no_command_to_the_terminal(ask):
    code, _, err = ask("--each", "-i", "1.png", "\x1b[31m.png")
    assert code == 1
    assert err.startswith(r"error: '\x1b[31m.png' does")
    assert err.replace("\n", "").isprintable()


def test_more_images_than_a_prompt_may_hold_are_answered(ask):
    code, out, _ = ask("--each", "-i", *NAMES * 11, "--max-tokens", "1")
    assert code == 0
    assert out.count("==> ") == 33


def test_each_without_an_image_is_refused(ask):
    code, _, err = ask("--each")
    assert code == 2
    assert "--each needs at least one --image" in err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"\n", "\n"),
        (r"a\tb\r", "a\tb\r"),
        (r"\\n", r"\n"),
        (r"\d \"", r"\d \""),
        ("\\", "\\"),
        ("END", "END"),
    ],
)
def test_stop_strings_may_hold_line_ends(typed, meant):
    assert unescaped(typed) == meant


def test_a_stop_string_with_an_escape_ends_the_answer(monkeypatch, ask):
    seen = []
    from mlx_lfm2vl.generation.engine import Engine

    original = Engine.stream

    def stream(self, messages, options):
        seen.append(options.stop)
        return original(self, messages, options)

    monkeypatch.setattr(Engine, "stream", stream)
    assert ask("--stop", r"\n\n", "--stop", "END")[0] == 0
    assert seen == [("\n\n", "END")]
    assert sys.stderr is not None
