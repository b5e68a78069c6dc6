"""What all commands do alike: exit codes, and errors in one line."""

import argparse
import logging
import os
import sys
import time

import pytest

from mlx_lfm2vl.commands import common
from mlx_lfm2vl.commands.common import progress_line, run_command, stage
from mlx_lfm2vl.commands.start import leave
from mlx_lfm2vl.errors import CheckpointError, InputError, NetworkError


def outcome(error: BaseException) -> int:
    def command(_: argparse.Namespace) -> int:
        raise error

    return run_command(argparse.ArgumentParser(), command, [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("wrong use"), 2),
        (CheckpointError("broken"), 1),
        (NetworkError("unreachable"), 1),
        (OSError(28, "No space left on device"), 1),
        (RuntimeError("out of memory"), 1),
        (MemoryError("out of memory"), 1),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(error, code, capsys):
    assert outcome(error) == code
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert error.args[-1] in err
    assert "Errno" not in err
    assert err.count("\n") == 1


def test_ctrl_c_exits_with_the_code_of_the_signal_and_says_nothing(capsys):
    assert outcome(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(AssertionError):
        outcome(AssertionError("a bug"))


def test_debugging_shows_where_an_error_came_from(monkeypatch, capsys):
    monkeypatch.setenv("MLX_LFM2VL_DEBUG", "1")
    outcome(InputError("wrong use"))
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("MLX_LFM2VL_DEBUG", "0")
    outcome(InputError("wrong use"))
    assert "Traceback" not in capsys.readouterr().err


def test_wrong_options_exit_with_two_and_help_with_zero(capsys):
    parser = argparse.ArgumentParser()
    assert run_command(parser, lambda _: 0, ["--nonsense"]) == 2
    assert run_command(parser, lambda _: 0, ["--help"]) == 0
    assert "--nonsense" in capsys.readouterr().err


def test_notes_end_with_the_command(capsys):
    logger = logging.getLogger("mlx_lfm2vl")

    def command(_: argparse.Namespace) -> int:
        logger.warning("during")
        return 0

    before = list(logger.handlers)
    assert run_command(argparse.ArgumentParser(), command, []) == 0
    assert logger.handlers == before
    assert logger.propagate
    assert capsys.readouterr().err == "note: during\n"


def test_progress_is_shown_on_a_terminal_and_wiped_at_the_end(monkeypatch, capsys):
    show = progress_line("reading")
    show(1, 2)
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show(1, 2)
    assert capsys.readouterr().err == "\r\033[Kreading 50%"
    show(2, 2)
    assert capsys.readouterr().err.endswith("\r\033[K")


def test_a_log_gets_a_line_of_progress_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    show = progress_line("learning")
    for now[0], done in ((1.0, 10), (6.0, 50), (7.0, 60), (12.0, 90), (13.0, 100)):
        show(done, 100)
    assert capsys.readouterr().err == "learning 50%\nlearning 90%\n"


def test_a_silent_stage_is_said_only_if_it_lasts(monkeypatch, capsys):
    monkeypatch.setattr(common, "SILENT_SECONDS", 0.05)
    with stage("loading x"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
    with stage("loading x"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "loading x ...\n"


def test_a_stage_is_wiped_from_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with stage("loading x"):
        time.sleep(0.8)
    assert capsys.readouterr().err == "\r\033[Kloading x ...\r\033[K"


def test_a_stage_that_lasts_tells_how_far_it_is_on_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(common, "SILENT_SECONDS", 0.01)
    with stage("reading") as tell:
        time.sleep(0.2)
        tell("reading", 1, 2000)
    assert capsys.readouterr().err == "reading ...\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(common, "MOMENT", 0.1)
    with stage("reading") as tell:
        tell("encoding", 1, 2000)
        assert capsys.readouterr().err == ""
        time.sleep(0.3)
        tell("reading", 1500, 2000)
    start = "\r\033[K"
    lines = ["encoding: 1 of 2,000 tokens", "reading: 1,500 of 2,000 tokens", ""]
    assert capsys.readouterr().err == start + start.join(lines)


@pytest.mark.parametrize("code", [0, 2])
def test_the_exit_code_is_the_one_given_unless_the_output_is_lost(monkeypatch, code):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    leave(code)

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.stdout, "flush", full)
    leave(code)
    assert codes == [code, code or 1]


def test_a_reader_that_has_gone_leaves_output_that_can_be_closed(capfd):
    kept = os.dup(1)
    try:
        assert outcome(BrokenPipeError()) == 1
        os.write(1, b"nobody reads this")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert capfd.readouterr() == ("", "")


def test_a_note_is_printed_once(capsys):
    def command(_options: argparse.Namespace) -> int:
        for name in ("one", "two", "one"):
            logging.getLogger("mlx_lfm2vl.part").warning("about %s", name)
        return 0

    assert run_command(argparse.ArgumentParser(), command, []) == 0
    assert capsys.readouterr().err == "note: about one\nnote: about two\n"


def test_an_error_of_a_command_that_goes_on_is_printed_each_time(capsys):
    def command(_options: argparse.Namespace) -> int:
        for _ in range(2):
            logging.getLogger("mlx_lfm2vl.part").error("the disk is full")
        return 0

    assert run_command(argparse.ArgumentParser(), command, []) == 0
    assert capsys.readouterr().err == "error: the disk is full\nerror: the disk is full\n"
