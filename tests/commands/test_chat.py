"""The `chat` command: lines from a pipe and from a terminal; answers alone on stdout."""

import contextlib
import io
import json
import os
import pty
import readline
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture

from mlx_lfm2vl import cli
from mlx_lfm2vl.commands.chat_lines import HELP
from mlx_lfm2vl.images.gather import gather

ROOT = str(Path(cli.__file__).parents[1])
TINY = str(golden("new_names").folder)
GREEDY = ["--temperature", "0", "--repetition-penalty", "1", "--max-tokens", "6"]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    make_picture(40, 60, 1).save(tmp_path / "a b.png")
    make_picture(40, 60, 2).save(tmp_path / "c.png")
    return tmp_path / "state"


@pytest.fixture
def chat(monkeypatch, capsys):
    """Gives lines to a chat; returns its exit code, its answers and what else it said."""

    def chat(*lines: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        given = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = cli.main(["chat", "-m", TINY, *GREEDY, *options])
        return (code, *capsys.readouterr())

    return chat


def alone(capsys, *arguments: str) -> str:
    assert cli.main(["generate", "-m", TINY, *GREEDY, *arguments]) == 0
    return capsys.readouterr().out


def test_answers_are_those_of_generate_and_all_that_is_on_stdout(chat, capsys):
    expected = alone(capsys, "-i", "a b.png", "-p", "Which color?")
    code, out, err = chat(
        "/image a b.png", "What is it?", "/undo", "/image a\\ b.png", "Which color?"
    )
    assert code == 0
    assert out.endswith(expected)
    assert "a b.png: 60 x 40 pixels" in err
    assert "taken back: 'What is it?' and 1 image" in err


@pytest.mark.parametrize(
    "line", ["/image 'a b.png' c.png", '/image "a b.png" c.png', "/image *.png"]
)
def test_several_images_come_with_the_next_question(chat, capsys, line):
    expected = alone(capsys, "-i", "a b.png", "c.png", "-p", "Compare.")
    assert chat(line, "Compare.")[:2] == (0, expected)
    assert chat("Compare.", options=("a b.png", "c.png"))[:2] == (0, expected)


def test_all_files_that_were_copied_are_pasted(chat, capsys, monkeypatch):
    expected = alone(capsys, "-i", "a b.png", "c.png", "-p", "Compare.")
    files = list(gather(["a b.png", "c.png"]))
    monkeypatch.setattr("mlx_lfm2vl.images.clipboard.copied", lambda _: files)
    code, out, err = chat("/paste", "Compare.")
    assert (code, out) == (0, expected)
    assert "c.png: 60 x 40 pixels" in err


def test_a_dropped_file_is_an_image_and_what_follows_the_question(chat, capsys, tmp_path):
    expected = alone(capsys, "-i", "a b.png", "-p", "What is it?")
    for dropped in (f"{tmp_path}/a\\ b.png ", f"'{tmp_path}/a b.png' "):
        assert chat(f"{dropped}What is it?")[:2] == (0, expected)
        assert chat(dropped, "What is it?")[:2] == (0, expected)


def test_lines_go_on_after_a_backslash_and_may_begin_with_a_slash(chat, capsys):
    assert chat("//etc is\\", "what?")[1] == alone(capsys, "-p", "/etc is\nwhat?")


def test_edit_and_retry_answer_again(chat, capsys):
    code, out, err = chat("What is it?", "/edit Which color?", "/retry", "/tokens")
    again = alone(capsys, "-p", "Which color?")
    assert (code, out.endswith(again * 2)) == (0, True)
    assert "note: at --temperature 0 every seed gives the same answer" in err
    assert " tokens (0 of 0 images), " in err


def test_the_system_message_is_set_shown_and_removed(chat, capsys):
    _, out, err = chat('/system Be "kind".', "Hi", "/system", '/system ""', "/edit Hi")
    assert out == alone(capsys, "--system", 'Be "kind".', "-p", "Hi") + alone(capsys, "-p", "Hi")
    assert err.count('system message: Be "kind".') == 2
    assert "system message: none" in err


def test_a_saved_chat_goes_on(chat):
    code, out, err = chat("/image c.png", "What is it?", "/save 'my chat'", "Why?", "/save")
    assert (code, err.count("saved in my chat")) == (0, 2)
    code, more, err = chat("/undo", "Why?", "/tokens", "/save", options=("--load", "my chat"))
    assert (code, "note: it was saved" in err) == (0, False)
    assert out.endswith(more)
    values = json.loads(Path("my chat/session.json").read_text())
    assert [turn["question"] for turn in values["turns"]] == ["What is it?", "Why?"]
    code, _, err = chat("/load my chat", "/save", "/save state")
    assert code == 1
    assert "my chat: 2 questions, 1 image" in err
    assert "error: state exists already; choose another name" in err


WRONG = [
    ("/imgae x", "there is no command '/imgae'; did you mean /image?"),
    ("/xyz", "there is no command '/xyz'; /help shows them"),
    ("/image", "/image needs a path"),
    ("/image c.png none.png", "'none.png' does not exist"),
    ("/image .", ". is a folder"),
    ("/image session.json", "'session.json' does not exist"),
    ("/paste", "the clipboard can be read only on macOS"),
    ("/undo", "nothing was asked yet"),
    ("/retry", "nothing was asked yet"),
    ("/edit Why?", "nothing was asked yet"),
    ("/save", "/save needs the name of a folder"),
    ("/load", "/load needs the name of a folder"),
    ("/load .", ". has no session.json: it is no saved chat"),
    ("/load " + "x" * 5000, "File name too long"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_line_that_cannot_be_done_says_why_and_the_chat_goes_on(
    chat, capsys, monkeypatch, line, message
):
    monkeypatch.setattr(sys, "platform", "linux")
    code, out, err = chat(line, "Hi")
    assert (code, out) == (1, alone(capsys, "-p", "Hi"))
    (error,) = [each for each in err.splitlines() if each.startswith("error: ")]
    assert message in error


def test_a_line_that_is_not_utf_8_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi \xff\n")))
    assert cli.main(["chat", "-m", TINY]) == 1
    assert "error: a line is not UTF-8" in capsys.readouterr().err


def test_a_standard_input_that_fails_or_is_closed_ends_the_chat(monkeypatch, capsys):
    class Gone(io.BytesIO):
        def readline(self, _size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Gone()))
    assert cli.main(["chat", "-m", TINY]) == 1
    assert capsys.readouterr().err == "error: Input/output error\n"
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["chat", "-m", TINY]) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_every_command_is_helped_and_quit_ends(chat):
    code, out, err = chat("/help", "/quit", "Hi")
    assert (code, out) == (0, "")
    assert all(f"  {name} " in err for name in HELP)


def test_bad_images_and_folders_are_found_before_a_model_is_loaded(chat):
    code, _, err = chat(options=("none.png",))
    assert (code, "loading" in err) == (2, False)
    assert "'none.png' does not exist" in err
    assert chat(options=("--load", "none"))[0] == 2
    assert chat(options=("--max-tokens", "0"))[0] == 2


def test_a_reader_that_goes_away_ends_the_chat():
    code = f'"{sys.executable}" -m mlx_lfm2vl.chat -m "{TINY}" --max-tokens 5'
    run = subprocess.run(
        [
            "bash",
            "-c",
            f"(echo Hi; echo Hi; echo Hi) | {code} | true; exit ${{PIPESTATUS[1]}}",
        ],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (1, "")


class Terminal:
    """A chat that a person types into."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "mlx_lfm2vl.chat", "-m", TINY, *options]
        # `pty.fork` warns in a process that has threads.
        start = (
            "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._fd, other = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, *command],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**os.environ, "PYTHONPATH": ROOT, "TERM": "dumb"},
        )
        os.close(other)
        self._unread = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def shows(self, text: str) -> None:
        """Wait for a text that comes next or later."""
        self._wait(lambda: text in self._unread, text)
        self._unread = self._unread.partition(text)[2]

    def interrupts(self) -> None:
        """Press Ctrl-C until there is a new prompt: a key may be lost as in `ends`."""
        for _ in range(30):
            self.type("\x03")
            with contextlib.suppress(AssertionError):
                self._wait(lambda: "\r\n> " in self._unread, "prompt", seconds=2)
                break
        self.shows("\r\n> ")

    def answers(self) -> None:
        """Wait for some half characters, which only an answer of the tiny model has."""
        self._wait(lambda: self._unread.count("\ufffd") > 9, "answer")

    def _wait(self, is_there: Callable[[], bool], text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not is_there():
            assert time.monotonic() < end, f"no {text!r} in {self._unread!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self._unread += os.read(self._fd, 4096).decode(errors="replace")

    def ends(self) -> int:
        """Press Ctrl-D until the chat ends: a key is lost while the terminal changes its mode."""
        for _ in range(60):
            self.type("\x04")
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(1)
        raise AssertionError("the chat does not end")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)


@pytest.mark.skipif("libedit" in str(readline.__doc__), reason="this Python's readline is libedit")
def test_a_person_types_completes_stops_edits_and_saves(state):
    options = ("--max-tokens", "1500", "--temperature", "0", "--repetition-penalty", "1")
    with contextlib.closing(Terminal(*options)) as terminal:
        stop_and_save(terminal)
    (turn,) = json.loads(Path("kept/session.json").read_text())["turns"]
    assert (turn["question"], turn["ended"]) == ("Why?", "interrupted")
    assert len(turn["images"]) == 1
    assert 10 < len(turn["answer"]) < 20_000
    history = state / "mlx_lfm2vl" / "chat_history"
    assert history.read_text().splitlines()[-3:] == ["Why?", "/edit", "/save kept"]
    assert history.stat().st_mode & 0o077 == 0


def stop_and_save(terminal: Terminal) -> None:
    terminal.shows("/help; Ctrl-D ends\r\n> ")
    terminal.type("/im\ta\t\r")  # completes the command, and a name with a space
    terminal.shows("/image a\\ b.png")
    terminal.shows(" 60 tokens")
    terminal.shows("> ")
    terminal.type("Why?\r")
    terminal.shows("Why?\r\n")
    terminal.answers()
    terminal.interrupts()  # stops the answer, not the program
    terminal.type("half a line")
    terminal.shows("half a line")
    terminal.interrupts()  # clears the line
    terminal.type("/edit\r")
    terminal.shows("edit> Why?")
    terminal.interrupts()
    terminal.type("/save kept\r")
    terminal.shows("saved in kept")
    terminal.shows("\r\n> ")
    assert terminal.ends() == 0
