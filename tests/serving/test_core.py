"""The core: requests of any thread get the engine's answers, and none harms another."""

import asyncio
import threading
import time

import pytest
from core_clients import LONG, OPTIONS, SECONDS, Client, until
from pictures import make_picture

from mlx_lfm2vl import Engine, InputError, load, regex
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving import preparing, schedule, ticket
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.meter import Meter
from mlx_lfm2vl.serving.request import (
    Busy,
    Failed,
    Overdue,
    Progress,
    Request,
    Stopping,
    is_last,
)
from mlx_lfm2vl.serving.schedule import HOST_THREADS
from mlx_lfm2vl.serving.served import served_model
from mlx_lfm2vl.serving.under_way import UnderWay


def test_the_core_answers_as_the_engine_does():
    core = Core([served_model("demo", dtype="float32")])
    messages = user_message("What is this?", [make_picture(40, 40, 1)])
    *_, last = core.stream(Request(messages, OPTIONS))
    alone = Engine(*load("demo", dtype="float32")).generate(messages, OPTIONS)
    assert last.result.text == alone.text
    core.stop()


def test_threads_and_tasks_are_answered_side_by_side(make_core, tiny):
    core, engine = make_core(rows=3), Engine(*tiny)
    clients = [Client(core, f"Question {number}?") for number in range(6)]

    async def asked():
        return [event async for event in core.astream(Request("From a task?", OPTIONS))]

    events = asyncio.run(asked())
    assert events[-1].result.token_ids == engine.generate("From a task?", OPTIONS).token_ids
    for number, client in enumerate(clients):
        expected = engine.generate(f"Question {number}?", OPTIONS)
        assert client.token_ids() == expected.token_ids
    status = core.status()
    assert (status.model, status.running, status.waiting) == ("tiny", 0, 0)
    assert (status.meter.requests, status.meter.answers) == (7, 7)
    assert status.meter.answer_tokens == 7 * OPTIONS.max_tokens
    assert sum(status.meter.first_tokens.counts) == 7
    assert status.meter.peak_bytes > 0


def test_what_cannot_be_answered_is_the_error_of_its_own_request(make_core, tiny):
    core = make_core()
    bad = [
        user_message("Hi", ["/nowhere.png"]),
        user_message("Hi", [b"no image"]),
        [{"role": "user", "content": [{"type": "mystery"}]}],
    ]
    clients = [Client(core, messages) for messages in ("One", *bad, "Two")]
    refused = Client(core, "Hi", AnswerOptions(max_tokens=2, constraint=regex("[a-z]{40}")))
    for client in (*clients[1:-1], refused):
        assert isinstance(client.last(), InputError)
    for client, text in ((clients[0], "One"), (clients[-1], "Two")):
        assert client.token_ids() == Engine(*tiny).generate(text, OPTIONS).token_ids
    assert core.status().meter.errors == {"InputError": 4}


def test_a_client_that_raises_or_goes_harms_nobody(make_core, tiny):
    core, heard = make_core(), []

    def breaks(event):
        heard.append(event)
        raise RuntimeError("the event loop is closed")

    core.submit(Request("One", LONG), breaks)
    gone, stays = Client(core, "Two", LONG), Client(core, "Three")
    gone.ticket.cancel()
    count = len(gone.events)
    assert stays.token_ids() == Engine(*tiny).generate("Three", OPTIONS).token_ids
    until(lambda: core.status().running == 0)
    assert len(heard) == 1
    assert len(gone.events) == count
    assert core.status().meter.cancelled == 2


def test_closing_an_iterator_frees_its_row_at_the_next_token(make_core):
    core = make_core()
    events = core.stream(Request("Tell me", LONG))
    while not isinstance(next(events), Piece):
        pass
    events.close()
    until(lambda: not core._schedule._work.numbers)
    assert (core.status().running, core.status().meter.cancelled) == (0, 1)


def test_the_question_that_loads_the_model_is_not_counted(make_core):
    core, events = make_core(), []
    core.warm_up(events.append)
    until(lambda: events and is_last(events[-1]))
    until(lambda: not core.status().running)
    assert core.status().meter == Meter()
    Client(core, "Hi").last()
    until(lambda: core.status().meter.answers == 1)


def test_a_full_queue_refuses_and_says_when_to_come_again(make_core, turns):
    core = make_core(rows=1, waiting=2)
    clients = [Client(core, "Question 0?")]
    until(lambda: core.status().running == 1)
    clients += [Client(core, f"Question {number}?") for number in (1, 2)]
    with pytest.raises(Busy, match="2 requests are waiting") as caught:
        Client(core, "One more?")
    assert 1 <= caught.value.retry_after <= 600
    turns.allowed.release()
    until(lambda: Progress("queue", 0, 2) in clients[2].events)
    turns.free()
    assert [len(client.token_ids()) for client in clients] == [12, 12, 12]
    assert core.status().meter.refused == 1
    told = [event for event in clients[2].events if getattr(event, "stage", "") == "queue"]
    assert told == [Progress("queue", 0, 2), Progress("queue", 0, 1)]  # each is told once


def test_requests_that_come_at_once_fill_the_rows_before_the_queue(make_core, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(schedule.Schedule, "_admit", lambda _: None)
        core = make_core(rows=2, waiting=1)
        clients = [Client(core, f"Question {number}?") for number in range(3)]
        with pytest.raises(Busy, match="3 requests are waiting"):
            Client(core, "One more?")
    core._schedule.wake()
    assert [len(client.token_ids()) for client in clients] == [12, 12, 12]


def test_an_answer_that_takes_too_long_is_ended(make_core, turns):
    core = make_core(rows=1, seconds=0.05)
    running, waiting = Client(core, "One", LONG), Client(core, "Two")
    time.sleep(0.06)
    turns.free()
    assert isinstance(running.last(), Overdue)
    assert "longer than 0.05 seconds" in str(waiting.last())


def test_the_time_of_an_answer_begins_when_it_is_asked_for(make_core, turns, monkeypatch):
    now, prepare, ready = [1000.0], preparing.prepare_unless_large, threading.Event()
    for module in (schedule, ticket):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    slowly = "prepare_unless_large", lambda *given: ready.wait() and prepare(*given)
    monkeypatch.setattr(preparing, *slowly)
    core = make_core(seconds=10)
    client = Client(core, "One")
    now[0] += 8
    ready.set()
    until(lambda: core.status().running == 1)
    now[0] += 3
    turns.free()
    assert isinstance(client.last(), Overdue)


def test_a_fault_of_our_own_ends_the_requests_but_not_the_core(make_core, monkeypatch):
    core, turn = make_core(), UnderWay.turn
    monkeypatch.setattr(UnderWay, "turn", lambda _: 1 / 0)
    assert "ZeroDivisionError" in str(Client(core, "One").last())
    monkeypatch.setattr(UnderWay, "turn", turn)
    client = Client(core, "Two")
    assert len(client.token_ids()) == 12
    assert Progress("load", 0, 1) in client.events  # what the fault has left is not trusted


def test_nothing_follows_the_last_event():
    heard = []
    asked = ticket.Ticket(Request("Hi"), "tiny", heard.append, lambda: None)
    for event in (Progress("queue", 0, 1), Stopping("first"), Stopping("second")):
        asked.tell(event)
    assert [str(event) for event in heard[1:]] == ["first"]


def test_an_error_on_the_way_is_the_last_event_and_counted(make_core, monkeypatch):
    failed = Failed("no memory")
    monkeypatch.setattr(UnderWay, "turn", lambda work: [(n, failed) for n in work.numbers])
    core = make_core()
    before = core.status()
    assert Client(core, "One").last() is failed
    status = core.status()
    assert before.meter.errors == {}
    assert (status.running, status.meter.errors, status.meter.answers) == (0, {"Failed": 1}, 0)


def test_running_answers_finish_before_the_core_ends(make_core, turns):
    core = make_core(rows=1)
    running = Client(core, "One")
    until(lambda: core.status().running == 1)
    waiting = Client(core, "Two")
    stop = threading.Thread(target=core.stop, args=(SECONDS,))
    stop.start()
    turns.free()
    assert len(running.token_ids()) == 12
    assert isinstance(waiting.last(), Stopping)
    stop.join()
    with pytest.raises(Stopping, match="is stopping"):
        Client(core, "Three")


def test_answers_that_do_not_finish_in_time_are_told_so(make_core, turns):
    core = make_core()
    client = Client(core, "One", LONG)
    until(lambda: core.status().running == 1)
    stop = threading.Thread(target=core.stop, args=(0.0,))
    stop.start()
    until(lambda: core._schedule._ends is not None)
    threading.Timer(0.05, turns.free).start()
    core.stop(SECONDS)  # gives no more time
    assert isinstance(client.last(), Stopping)
    stop.join()


def test_those_whose_step_does_not_end_are_told_so(make_core, turns, monkeypatch):
    monkeypatch.setattr(schedule, "GRACE", 0.0)
    core = make_core(rows=1)
    clients = [Client(core, "One")]
    until(lambda: core.status().running == 1)
    clients.append(Client(core, "Two"))
    core.stop(0.0)
    assert not turns.is_free
    assert [type(client.last()) for client in clients] == [Stopping, Stopping]


def test_no_thread_and_no_model_of_a_core_is_left(make_core):
    others = set(threading.enumerate())  # other tests of this process may share a core
    core = make_core()
    Client(core, "Hi").last()
    begun = set(threading.enumerate()) - others
    core.stop()
    assert core.status().model is None
    names = tuple(f"mlx_lfm2vl {work}" for work in ("core", *HOST_THREADS))
    own = [each for each in begun if each.name.startswith(names)]
    assert own
    until(lambda: not any(each.is_alive() for each in own))
