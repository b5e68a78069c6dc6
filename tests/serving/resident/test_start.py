"""Processes start once, end by themselves, and give way to newer ones."""

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from conftest import golden
from pictures import make_picture
from residents import DEMO, own_folder, socket_of

from mlx_lfm2vl.errors import CheckpointError, Lfm2VLError
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.serving.resident import client as resident_client
from mlx_lfm2vl.serving.resident import start as resident_start
from mlx_lfm2vl.serving.resident.client import RemoteEngine
from mlx_lfm2vl.serving.resident.http import Call
from mlx_lfm2vl.serving.resident.place import LOCK, LOG, Wanted
from mlx_lfm2vl.serving.resident.start import listens, start, stop

OPTIONS = AnswerOptions(max_tokens=6, temperature=0)
LONG = AnswerOptions(max_tokens=200, temperature=0)


@pytest.fixture
def folder():
    with own_folder() as folder:
        yield folder


def pid_at(path: str) -> int:
    call = Call(path)
    call.close()
    return call.peer.pid


def wait_until(is_done) -> None:
    until = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_two_starters_at_once_start_one_process(folder):
    path, ready = socket_of(folder), threading.Barrier(3)
    problems: list[Exception] = []

    def begin() -> None:
        ready.wait()
        try:
            start(path, DEMO, lambda: None)
        except Lfm2VLError as error:
            problems.append(error)

    launched: list[int] = []
    launch = resident_start._launch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident_start, "_launch", lambda *a: (launched.append(1), launch(*a)))
        threads = [threading.Thread(target=begin) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems
    assert len(launched) == 1
    assert listens(path)
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert stop(path)
    assert not os.path.exists(path)
    assert stop(path) == 0


def test_a_socket_that_a_dead_process_left_is_replaced(folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(socket_of(folder))
    remote = RemoteEngine(DEMO)
    assert remote.generate("Hi", OPTIONS).token_ids


def test_a_process_that_was_killed_is_started_again(folder):
    remote = RemoteEngine(DEMO)
    first = pid_at(socket_of(folder))
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not resident_start._runs(first))
    assert remote.generate("Hi", OPTIONS).token_ids
    assert pid_at(socket_of(folder)) != first


def test_a_kill_in_the_middle_of_an_answer_is_an_error(folder):
    remote = RemoteEngine(DEMO)
    pid = pid_at(socket_of(folder))
    pieces = remote.stream("Write much.", LONG)
    next(pieces)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Lfm2VLError, match="in the middle of the answer, which is not whole: it l"):
        list(pieces)


@pytest.mark.slow
def test_a_question_that_waits_as_a_process_stops_is_answered_by_the_next(folder):
    remote = RemoteEngine(DEMO)
    pid = pid_at(socket_of(folder))
    pieces = [remote.stream(f"Write {number}.", LONG) for number in range(12)]
    next(pieces[0])  # more questions than are answered side by side
    threads = [threading.Thread(target=list, args=(each,)) for each in pieces[1:-1]]
    for thread in threads:
        thread.start()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(socket_of(folder)))
    *_, last = pieces[-1]
    assert last.result
    pieces[0].close()
    for thread in threads:
        thread.join()


@pytest.mark.slow
def test_sigterm_lets_a_running_answer_finish(folder):
    pieces = RemoteEngine(DEMO).stream("Write much.", LONG)
    next(pieces)
    pid = pid_at(socket_of(folder))
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(socket_of(folder)))
    *_, last = pieces
    assert last.result
    wait_until(lambda: not resident_start._runs(pid))


@pytest.mark.slow
def test_a_process_ends_after_the_time_it_is_kept_alive(folder):
    remote = RemoteEngine(DEMO, keep_alive=0.1)
    pid = pid_at(socket_of(folder))
    wait_until(lambda: not resident_start._runs(pid))
    assert not os.path.exists(socket_of(folder))
    assert remote.generate("Hi", OPTIONS).token_ids  # by another one


def test_a_process_without_its_folder_ends(folder):
    RemoteEngine(DEMO)
    pid = pid_at(socket_of(folder))
    shutil.rmtree(folder)
    wait_until(lambda: not resident_start._runs(pid))


@pytest.mark.slow
def test_other_files_of_the_model_start_another_process(folder, tmp_path):
    model = shutil.copytree(golden("new_names").folder, tmp_path / "model")
    wanted = Wanted(str(model))
    first = RemoteEngine(wanted).generate("Hi", OPTIONS).text
    pid = pid_at(socket_of(folder, wanted))
    assert RemoteEngine(wanted).generate("Hi", OPTIONS).text == first
    assert pid_at(socket_of(folder, wanted)) == pid
    os.utime(model / "config.json")
    assert RemoteEngine(wanted).generate("Hi", OPTIONS).text == first
    assert pid_at(socket_of(folder, wanted)) != pid
    wait_until(lambda: not resident_start._runs(pid))


@pytest.mark.slow
def test_another_version_of_the_package_starts_another_process(folder, monkeypatch):
    RemoteEngine(DEMO)
    pid = pid_at(socket_of(folder))
    monkeypatch.setattr(resident_client, "BUILD", "0.0.1 elsewhere")
    with pytest.raises(Lfm2VLError, match="has ended as it loaded the model"):
        RemoteEngine(DEMO)  # the process that is started has the version of this package again
    wait_until(lambda: not resident_start._runs(pid))


def test_a_model_that_cannot_be_loaded_is_its_error_and_the_process_ends(folder, tmp_path):
    model = shutil.copytree(golden("new_names").folder, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"damaged")
    wanted = Wanted(str(model))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        RemoteEngine(wanted)
    wait_until(lambda: not os.path.exists(socket_of(folder, wanted)))


def test_what_must_be_there_is_prepared_before_a_process_is_started(folder):
    def refuse() -> None:
        raise CheckpointError("not downloaded")

    with pytest.raises(CheckpointError, match="not downloaded"):
        RemoteEngine(DEMO, prepare=refuse)
    assert not list(folder.iterdir())


def test_a_process_that_cannot_be_started_is_one_line(folder, monkeypatch):
    base = socket_of(folder).removesuffix(".sock")
    os.mkdir(base + LOG)
    with pytest.raises(Lfm2VLError, match=r"cannot be started: .*: Is a directory; run without"):
        RemoteEngine(DEMO)
    os.rmdir(base + LOG)
    monkeypatch.setattr(resident_start, "PROGRAM", "raise SystemExit('no such thing')")
    with pytest.raises(Lfm2VLError, match="has ended as it started: no such thing$"):
        RemoteEngine(DEMO)
    monkeypatch.setattr(resident_start, "START_SECONDS", -10)
    with open(base + LOCK, "w") as file:
        resident_start.fcntl.flock(file, resident_start.fcntl.LOCK_EX)
        with pytest.raises(Lfm2VLError, match="another program is still starting"):
            RemoteEngine(DEMO)


def test_a_process_that_does_not_reply_is_killed(folder):
    RemoteEngine(DEMO)
    pid = pid_at(socket_of(folder))
    os.kill(pid, signal.SIGSTOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident_start, "REPLY_SECONDS", 0.1)
        assert stop(socket_of(folder)) == pid
    assert not resident_start._runs(pid)
    assert not os.path.exists(socket_of(folder))


@pytest.mark.slow
def test_a_kill_at_any_of_twenty_points_leaves_a_whole_answer_or_an_error(folder, tmp_path):
    make_picture(60, 60, 1).save(tmp_path / "drawn.png")
    remote = RemoteEngine(DEMO)
    question = {"messages": "Describe it.", "options": OPTIONS, "image": tmp_path / "drawn.png"}
    expected = remote.generate(**question).text
    begin = time.monotonic()
    remote.generate(**question)
    seconds, broken = time.monotonic() - begin, 0
    for number in range(20):
        pid = pid_at(socket_of(folder))
        timer = threading.Timer(seconds * number / 18, os.kill, (pid, signal.SIGKILL))
        timer.start()
        pieces: list[str] = []
        is_whole = False
        with contextlib.suppress(Lfm2VLError):
            for piece in remote.stream(**question):
                pieces.append(piece.text)
            is_whole = True
        timer.join()
        text = "".join(pieces)
        assert text == expected if is_whole else pieces and expected.startswith(text)
        broken += not is_whole
        assert remote.generate(**question).text == expected
    assert broken < 20
