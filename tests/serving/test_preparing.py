"""What the host does of a request: slow work holds up nobody else and ends with its request."""

import threading
from queue import SimpleQueue

import pytest
from core_clients import LONG, SECONDS, Client, until
from pictures import make_picture

from mlx_lfm2vl.errors import Lfm2VLError
from mlx_lfm2vl.images.drawn import Drawn
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.serving import preparing, schedule, ticket
from mlx_lfm2vl.serving.preparing import Unwanted
from mlx_lfm2vl.serving.request import Busy, Overdue
from mlx_lfm2vl.serving.schedule import HOST_THREADS, Schedule


class Slow(Drawn):
    """A page that takes as long as a test wants."""

    def __init__(self):
        self.name, self.begun, self.may_end = "page", threading.Event(), threading.Event()

    def draw(self, _limits):
        self.begun.set()
        assert self.may_end.wait(SECONDS)
        return make_picture(20, 30, 1)


def test_slow_documents_hold_up_no_other_questions(make_core):
    core = make_core()
    documents = [Slow() for _ in range(5)]
    slow = [Client(core, user_message("What?", [page])) for page in documents]
    until(lambda: sum(page.begun.is_set() for page in documents) == HOST_THREADS["pages"])
    assert Client(core, "Hi").token_ids()
    assert Client(core, user_message("What?", [make_picture(20, 30, 1)])).token_ids()
    for page in documents:
        page.may_end.set()
    assert all(client.token_ids() for client in slow)


def test_large_images_hold_up_neither_other_images_nor_pages(make_core, monkeypatch):
    decode, may_end, decoded = Processor._decode, threading.Event(), []

    def slowly(processor, opened, plan, config):
        if plan.size == (40, 60):
            assert may_end.wait(SECONDS)
        decoded.append(plan.size)
        return decode(processor, opened, plan, config)

    monkeypatch.setattr(Processor, "_decode", slowly)
    monkeypatch.setattr(preparing, "LARGE", 500)
    core = make_core(rows=2)
    large, small = (
        user_message("What?", [make_picture(*size, 1)]) for size in ((40, 60), (10, 20))
    )
    clients = [Client(core, large) for _ in range(6)]
    assert len(Client(core, small).token_ids()) == 12
    page = Slow()
    page.may_end.set()
    assert len(Client(core, user_message("What?", [page])).token_ids()) == 12
    assert decoded == [(10, 20), (20, 30)]
    may_end.set()
    assert [len(client.token_ids()) for client in clients] == [12] * 6


def test_a_host_without_threads_refuses_one_request(make_core, monkeypatch):
    def fails(_thread):
        raise RuntimeError("can't start new thread")

    core = make_core()
    assert Client(core, "One").token_ids()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        refused = Client(core, user_message("What?", [make_picture(20, 30, 1)]))
        assert Client(core, "Two").token_ids()
        assert isinstance(refused.last(), Busy)
    assert core.status().meter.errors == {"Busy": 1}


@pytest.mark.parametrize("how", ["cancelled", "too slow"])
def test_no_page_is_drawn_for_nobody(make_core, monkeypatch, how):
    prepare, ends = preparing.prepare, SimpleQueue()

    def recorded(*given):
        try:
            return prepare(*given)
        except Lfm2VLError as error:
            ends.put(error)
            raise

    monkeypatch.setattr(preparing, "prepare", recorded)
    now = [1000.0]
    for module in (schedule, ticket):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    core = make_core(seconds=None if how == "cancelled" else 0.1)
    first, second = Slow(), Slow()
    client = Client(core, user_message("What?", [first, second]))
    assert first.begun.wait(SECONDS)
    if how == "cancelled":
        client.ticket.cancel()
    else:
        now[0] += 1
        assert isinstance(client.last(), Overdue)
    until(lambda: core.status().waiting == 0)
    first.may_end.set()
    assert isinstance(ends.get(timeout=SECONDS), Unwanted)
    assert not second.begun.is_set()


def test_a_client_that_leaves_while_its_pages_are_drawn_is_no_error(make_core, monkeypatch):
    core, first, second = make_core(), Slow(), Slow()
    client = Client(core, user_message("What?", [first, second]))
    assert first.begun.wait(SECONDS)
    monkeypatch.setattr(Schedule, "_give_up", lambda _: None)  # which has looked a moment before
    client.ticket.cancel()
    first.may_end.set()
    until(lambda: core.status().waiting == 0)
    meter = core.status().meter
    assert (meter.cancelled, meter.errors) == (1, {})


def test_a_question_whose_image_is_never_ready_is_ended_too(make_core, monkeypatch):
    ready = threading.Event()
    monkeypatch.setattr(preparing, "prepare_unless_large", lambda *_: ready.wait(SECONDS))
    client = Client(make_core(seconds=0.05), "One")
    assert isinstance(client.last(), Overdue)
    ready.set()


def test_two_images_are_decoded_while_all_rows_are_taken(make_core, turns):
    core, asked = make_core(rows=1), user_message("What?", [make_picture(20, 30, 1)])
    Client(core, "Question 0?", LONG)
    until(lambda: core.status().running == 1)
    tickets = [Client(core, asked).ticket for _ in range(3)]
    turns.allowed.release()
    until(lambda: tickets[1].prepared and tickets[0].prepared.done())
    for _ in range(2):  # when it takes the second turn, it has looked who could begin
        turns.allowed.release()
        until(lambda: turns.allowed._value == 0)
    assert (core.status().running, tickets[2].prepared) == (1, None)


def test_two_large_images_are_decoded_while_all_rows_are_taken(make_core, turns, monkeypatch):
    decode, decoded = Processor._decode, []

    def counted(*given):
        decoded.append(given)
        return decode(*given)

    monkeypatch.setattr(Processor, "_decode", counted)
    monkeypatch.setattr(preparing, "LARGE", 500)
    core, asked = make_core(rows=1), user_message("What?", [make_picture(20, 30, 1)])
    Client(core, "Question 0?", LONG)
    until(lambda: core.status().running == 1)
    waiting = [Client(core, asked).ticket for _ in range(6)]
    for _ in range(12):  # each turn looks who can go on
        turns.allowed.release()
        until(lambda: turns.allowed._value == 0)
        until(lambda: all(each.prepared is None or each.prepared.done() for each in waiting))
    assert {each.weight for each in waiting} == {"large"}
    assert len(decoded) == 2


def test_what_nobody_waits_for_is_not_prepared(make_core, monkeypatch):
    prepare, ready, begun = preparing.prepare_unless_large, threading.Event(), []

    def slowly(engine, request, is_wanted):
        begun.append(request.messages)
        return ready.wait(SECONDS) and prepare(engine, request, is_wanted)

    monkeypatch.setattr(preparing, "prepare_unless_large", slowly)
    core = make_core()
    clients = [Client(core, text) for text in ("One", "Two", "Three")]
    until(lambda: clients[1].ticket.prepared)
    clients[1].ticket.cancel()
    until(lambda: core.status().waiting == 2)
    ready.set()
    assert len(clients[2].token_ids()) == 12
    assert begun == ["One", "Three"]
