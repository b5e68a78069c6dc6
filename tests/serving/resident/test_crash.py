"""A process that ends, falls silent or is another one: an error or a second try, never a hang."""

import json
import os
import socket
import threading

import pytest
from residents import DEMO, OK, FakeProcess, own_folder, says, socket_of

from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.errors import CheckpointError, Lfm2VLError
from mlx_lfm2vl.generation.result import Piece, Result, Timings
from mlx_lfm2vl.options import Sampling
from mlx_lfm2vl.serving.request import Progress, Request
from mlx_lfm2vl.serving.resident import http as resident_http
from mlx_lfm2vl.serving.resident import start as resident_start
from mlx_lfm2vl.serving.resident.client import RemoteEngine
from mlx_lfm2vl.serving.resident.wire import Note, Opened, error_values, write_event

RESULT = Result("ab", [1], "stop", 3, 0, [], Sampling(), 0, Timings(0, 0, 0), 0)
OPENED = OK + write_event(Opened("demo", Sampling(), ImageConfig(16, 2)))
BEGUN = OK + write_event(Piece("a", [1]))
WHOLE = BEGUN + write_event(Piece("b", [], RESULT))


@pytest.fixture
def path():
    with own_folder() as folder:
        yield socket_of(folder)


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    """No real process is started."""

    def refuse(*_: object) -> None:
        raise Lfm2VLError("nothing is started")

    monkeypatch.setattr(resident_start, "start", refuse)


def text_of(remote) -> str:
    return "".join(piece.text for piece in remote.stream("Hi"))


def test_an_answer_that_is_cut_off_is_an_error_after_what_was_printed(path):
    for cut in (b"", b'{"piece": {"te', write_event(Progress("prefill", 1, 2))):
        fake = FakeProcess(path, says(OPENED), says(BEGUN, cut))
        pieces = RemoteEngine(DEMO).stream("Hi")
        assert next(pieces).text == "a"
        with pytest.raises(Lfm2VLError, match="ended in the middle of the answer"):
            next(pieces)
        fake.end()


def test_what_was_not_begun_is_asked_again(path):
    cuts = [b"", b"HTTP", OK, OK + write_event(Progress("load", 0, 1))]
    for cut in cuts:
        fake = FakeProcess(path, says(OPENED), says(cut), says(OPENED), says(WHOLE))
        assert text_of(RemoteEngine(DEMO)) == "ab"
        fake.end()


def test_the_weights_are_asked_for_again(path):
    told = says(OK, b'{"hex": "ab"}\n')
    for cut in (b"", OK):
        fake = FakeProcess(path, says(OPENED), says(cut), says(OPENED), told)
        assert RemoteEngine(DEMO).content_fingerprint() == b"\xab"
        fake.end()
    fake = FakeProcess(path, *[says(OPENED), says(b"")] * 2)
    with pytest.raises(Lfm2VLError, match="has ended unanswered"):
        RemoteEngine(DEMO).content_fingerprint()
    fake.end()


def test_hooks_are_told_how_far_the_process_is(path):
    told = [write_event(Progress(stage, 1, 2)) for stage in ("load", "encode", "prefill")]
    fake = FakeProcess(path, says(OPENED), says(OK, *told, WHOLE.removeprefix(OK)))
    heard = []
    hooks = {
        "on_encode": lambda *far: heard.append(("encode", *far)),
        "on_prefill": lambda *far: heard.append(("prefill", *far)),
    }
    pieces = RemoteEngine(DEMO).stream("Hi", **hooks)
    assert [piece.text for piece in pieces] == ["a", "b"]
    assert heard == [("encode", 1, 2), ("prefill", 1, 2)]
    fake.end()


def test_a_question_that_waits_is_not_taken_for_one_that_was_read(path):
    events = [
        Progress("queue", 0, 1),
        Progress("load", 0, 1),
        Note("about it"),
        Progress("encode", 1, 2),
    ]
    told = [write_event(event) for event in events]
    fake = FakeProcess(path, says(OPENED), says(OK, *told, WHOLE.removeprefix(OK)))
    heard: list[str] = []
    RemoteEngine(DEMO)._result(Request("Hi"), resident_http.Question(heard.append))
    assert heard[:2] == ["about it", ""]
    fake.end()


def test_a_question_that_was_left_makes_no_call(path):
    question = resident_http.Question(lambda _: None)
    question.leave()
    with pytest.raises(resident_http.Left):
        question.call(path)


def test_an_answer_of_which_nothing_was_shown_is_asked_for_again(path):
    fake = FakeProcess(path, says(OPENED), says(BEGUN), says(OPENED), says(WHOLE))
    assert RemoteEngine(DEMO).generate("Hi").text == "ab"
    fake.end()


def test_a_process_that_ends_each_time_is_given_up(path):
    fake = FakeProcess(path, *[says(OPENED), says(OK)] * 2)
    with pytest.raises(Lfm2VLError, match="has ended"):
        text_of(RemoteEngine(DEMO))
    fake.end()


def test_a_silent_process_is_an_error_that_says_how_to_end_it(path, monkeypatch):
    wait = threading.Event()
    fake = FakeProcess(path, says(OPENED), lambda _: wait.wait(10))
    remote = RemoteEngine(DEMO)
    monkeypatch.setattr(resident_http.Call.__init__, "__defaults__", (0.05,))
    with pytest.raises(Lfm2VLError, match="said nothing .* end it with mlx_lfm2vl resident stop"):
        text_of(remote)
    wait.set()
    fake.end()


def test_a_process_that_takes_no_calls_is_not_replaced(path, monkeypatch):
    monkeypatch.setattr(resident_http.Call.__init__, "__defaults__", (0.05,))
    waiting: list[resident_http.Call] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with pytest.raises(Lfm2VLError, match="takes no calls: .* resident stop"):
            waiting.extend(resident_http.Call(path) for _ in range(10))
    for call in waiting:
        call.close()
    os.unlink(path)


def test_a_process_of_another_version_is_told_to_end(path):
    other = b"HTTP/1.0 409 Conflict\r\n\r\n{}"
    fake = FakeProcess(path, says(other), lambda _: os.unlink(path))
    with pytest.raises(Lfm2VLError, match="nothing is started"):
        RemoteEngine(DEMO)
    fake.end()
    first, second = fake.requests
    assert first.startswith(b"POST /v1/lfm2vl/open ")
    sent = json.loads(first.partition(b"\r\n\r\n")[2])
    assert sent["wanted"]["model"] == "demo"
    assert sent["keep_alive"] == 600
    assert second.startswith(b"POST /v1/lfm2vl/stop ")


def test_why_a_model_cannot_be_loaded_is_told_as_without_a_process(path):
    event = write_event(CheckpointError("the weights are broken"))
    fake = FakeProcess(path, says(OK, event))
    with pytest.raises(CheckpointError, match="^the weights are broken$"):
        RemoteEngine(DEMO)
    fake.end()


def test_a_refusal_is_its_error(path):
    refused = json.dumps({"error": error_values(CheckpointError("not this"))}).encode()
    fake = FakeProcess(path, says(OPENED), says(b"HTTP/1.0 400 Bad\r\n\r\n" + refused))
    with pytest.raises(CheckpointError, match="^not this$"):
        text_of(RemoteEngine(DEMO))
    fake.end()


def test_the_process_of_another_user_is_not_asked(path, monkeypatch):
    fake = FakeProcess(path, says(OPENED))
    with monkeypatch.context() as patch:
        patch.setattr(resident_http, "peer_of", lambda _: resident_http.Peer(1, 4711))
        with pytest.raises(Lfm2VLError, match="belongs to user 4711"):
            RemoteEngine(DEMO)
    fake.end()
    assert fake.requests == [b""]


def test_the_answers_of_a_batch_are_broken_off_when_nobody_waits(path):
    begun, left = threading.Event(), threading.Event()

    def wait(connection) -> None:
        begun.set()
        connection.sendall(BEGUN)
        while connection.recv(4096):  # the rest of the question
            pass
        left.set()

    fake = FakeProcess(path, says(OPENED), says(WHOLE), wait)
    outcomes = RemoteEngine(DEMO).stream_batch(["one", "two"], batch_size=2)
    assert next(outcomes)[1].text == "ab"
    assert begun.wait(60)
    outcomes.close()
    assert left.wait(60)
    fake.end()


def test_damaged_replies_are_errors_of_ours(path):
    replies = [b"nonsense\r\n\r\n", OK + b"[]\n", OK + b'{"piece": {}}\n', OK + b'{"what": 1}\n']
    for reply in replies:
        fake = FakeProcess(path, *[says(OPENED), says(reply)] * 2)
        with pytest.raises(Lfm2VLError):
            text_of(RemoteEngine(DEMO))
        fake.end()
