"""The core: requests of any thread get the engine's answers, and none harms another."""

import asyncio
import gc
import threading
import time
import weakref
from dataclasses import dataclass, field

import pytest
from pictures import make_picture

from mlx_lfm2vl import Engine, InputError, Sampling, load, regex
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.images.drawn import Drawn
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving import preparing, schedule, ticket
from mlx_lfm2vl.serving.core import Core, Limits
from mlx_lfm2vl.serving.meter import Meter
from mlx_lfm2vl.serving.preparing import Unwanted
from mlx_lfm2vl.serving.request import (
    Busy,
    Failed,
    Overdue,
    Progress,
    Request,
    Stopping,
    UnknownModel,
    is_last,
)
from mlx_lfm2vl.serving.schedule import HOST_THREADS
from mlx_lfm2vl.serving.served import Served, served_model
from mlx_lfm2vl.serving.under_way import UnderWay

OPTIONS = AnswerOptions(max_tokens=12, sampling=Sampling())
LONG = AnswerOptions(max_tokens=300, sampling=Sampling(temperature=3), seed=1)
SECONDS = 60  # that nothing here takes


@dataclass
class Turns:
    """Lets a core take its turns only when a test says so."""

    allowed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_free: bool = False

    def free(self):
        self.is_free = True
        self.allowed.release()

    def take(self):
        if not self.is_free:
            assert self.allowed.acquire(timeout=SECONDS)


@pytest.fixture
def turns(monkeypatch):
    """Holds back every turn of every core, until the test allows some or frees all."""
    turns, turn = Turns(), UnderWay.turn
    monkeypatch.setattr(UnderWay, "turn", lambda work: (turns.take(), turn(work))[1])
    yield turns
    turns.free()


@pytest.fixture
def make_core(tiny):
    """Makes cores that serve the tiny model under two names, and stops them."""

    def make(**limits):
        def engine():
            opened.append(Engine(*tiny, store=PrefixStore()))
            return opened[-1]

        models = [Served(name, engine, lambda: None) for name in ("tiny", "other")]
        cores.append(Core(models, Limits(**limits)))
        return cores[-1]

    cores, opened = [], []
    yield make
    for core in cores:
        core.stop(0)


class Client:
    """Someone who waits for the events of a request."""

    def __init__(self, core, messages, options=OPTIONS, model=""):
        self.events, self._over = [], threading.Event()
        self.ticket = core.submit(Request(messages, options, model), self.hear)

    def hear(self, event):
        self.events.append(event)
        if is_last(event):
            self._over.set()

    def last(self):
        assert self._over.wait(SECONDS)
        return self.events[-1]

    def token_ids(self):
        last = self.last()
        assert isinstance(last, Piece), last
        return last.result.token_ids


def until(condition):
    """Wait until something is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def look(core):
    """Let a core look at what there is to do; when it looks again, its first look has ended."""
    for _ in range(2):
        core._schedule.wake()
        until(lambda: not core._schedule._news.is_set())


def test_the_core_answers_as_the_engine_does():
    core = Core([served_model("demo")])
    messages = user_message("What is this?", [make_picture(40, 40, 1)])
    *_, last = core.stream(Request(messages, OPTIONS))
    assert last.result.text == Engine(*load("demo")).generate(messages, OPTIONS).text
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


@pytest.mark.parametrize("how", ["cancelled", "too slow"])
def test_no_page_is_drawn_for_nobody(make_core, how):
    core = make_core(seconds=None if how == "cancelled" else 0.3)
    first, second = Slow(), Slow()
    client = Client(core, user_message("What?", [first, second]))
    assert first.begun.wait(SECONDS)
    prepared = client.ticket.prepared
    if how == "cancelled":
        client.ticket.cancel()
    else:
        assert isinstance(client.last(), Overdue)
    until(lambda: core.status().waiting == 0)
    first.may_end.set()
    assert isinstance(prepared.exception(SECONDS), Unwanted)
    assert not second.begun.is_set()


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


def test_an_answer_that_takes_too_long_is_ended(make_core, turns):
    core = make_core(rows=1, seconds=0.05)
    running, waiting = Client(core, "One", LONG), Client(core, "Two")
    time.sleep(0.06)
    turns.free()
    assert isinstance(running.last(), Overdue)
    assert "longer than 0.05 seconds" in str(waiting.last())


def test_a_question_whose_image_is_never_ready_is_ended_too(make_core, monkeypatch):
    ready = threading.Event()
    monkeypatch.setattr(preparing, "prepare", lambda *_: ready.wait(SECONDS))
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


def test_what_nobody_waits_for_is_not_prepared(make_core, monkeypatch):
    prepare, ready, begun = preparing.prepare, threading.Event(), []

    def slowly(engine, request, is_wanted):
        begun.append(request.messages)
        return ready.wait(SECONDS) and prepare(engine, request, is_wanted)

    monkeypatch.setattr(preparing, "prepare", slowly)
    core = make_core()
    clients = [Client(core, text) for text in ("One", "Two", "Three")]
    until(lambda: clients[1].ticket.prepared)
    clients[1].ticket.cancel()
    until(lambda: core.status().waiting == 2)
    ready.set()
    assert len(clients[2].token_ids()) == 12
    assert begun == ["One", "Three"]


def test_the_time_of_an_answer_begins_when_it_is_asked_for(make_core, turns, monkeypatch):
    now, prepare, ready = [1000.0], preparing.prepare, threading.Event()
    for module in (schedule, ticket):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(preparing, "prepare", lambda *given: ready.wait() and prepare(*given))
    core = make_core(seconds=10)
    client = Client(core, "One")
    now[0] += 8
    ready.set()
    until(lambda: core.status().running == 1)
    now[0] += 3
    turns.free()
    assert isinstance(client.last(), Overdue)


def test_a_model_without_requests_is_unloaded_and_comes_back(tiny, monkeypatch):
    now, engines = [1000.0], []
    monkeypatch.setattr(schedule, "monotonic", lambda: now[0])

    def open_engine():
        engine = Engine(*tiny, store=PrefixStore())
        engines.append(weakref.ref(engine))
        return engine

    core = Core([Served("tiny", open_engine, lambda: None)], Limits(keep_alive=600))
    first = Client(core, "Hi").token_ids()
    now[0] += 599
    look(core)
    assert core.status().model == "tiny"
    now[0] += 601
    core._schedule.wake()
    until(lambda: core.status().model is None)
    gc.collect()
    assert engines[0]() is None
    again = Client(core, "Hi")
    assert again.token_ids() == first
    assert [event for event in again.events if isinstance(event, Progress)][:2] == [
        Progress("load", 0, 1),
        Progress("load", 1, 1),
    ]
    core.stop()


def test_a_model_is_unloaded_though_nobody_comes(make_core):
    core = make_core(keep_alive=0.05)
    Client(core, "Hi").last()
    until(lambda: core.status().model is None)


def test_a_model_stays_while_a_question_waits(make_core, monkeypatch):
    now, prepare, ready = [1000.0], preparing.prepare, threading.Event()
    for module in (schedule, ticket):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    core = make_core(keep_alive=5)
    Client(core, "Hi").last()
    monkeypatch.setattr(preparing, "prepare", lambda *given: ready.wait() and prepare(*given))
    client = Client(core, "Hi")
    now[0] += 6
    look(core)
    assert core.status().model == "tiny"
    ready.set()
    assert len(client.token_ids()) == 12
    meter = core.status().meter
    assert meter.first_tokens.seconds == 6  # waiting counts
    assert meter.until_room(0, 1) == 1  # and here it does not


def test_another_model_waits_for_running_answers_and_is_not_passed(make_core, turns):
    core, ends = make_core(), []

    def client(name, model):
        def deliver(event):
            if is_last(event):
                ends.append((name, core.status().model))

        core.submit(Request("Hi", OPTIONS, model), deliver)

    client("first", "tiny")
    until(lambda: core.status().running == 1)
    for name, model in (("2nd", "tiny"), ("3rd", "other"), ("4th", "tiny"), ("5th", "other")):
        client(name, model)
    turns.free()
    until(lambda: len(ends) == 5)
    assert [*sorted(ends[:2]), *sorted(ends[2:4]), ends[4]] == [
        ("2nd", "tiny"),
        ("first", "tiny"),
        ("3rd", "other"),
        ("5th", "other"),
        ("4th", "tiny"),
    ]


def test_quantized_keys_and_values_have_a_batch_of_their_own(wide):
    model, processor = load(wide)
    core = Core([Served("wide", lambda: Engine(model, processor), lambda: None)])
    packed = OPTIONS.changed({"kv_bits": 8})
    clients = [Client(core, "Hi", options) for options in (OPTIONS, packed, OPTIONS)]
    for client, options in zip(clients, (OPTIONS, packed, OPTIONS), strict=True):
        alone = Engine(model, processor).generate("Hi", options)
        assert client.token_ids() == alone.token_ids
    core.stop()


def test_a_model_that_cannot_be_loaded_is_the_error_of_its_requests_only(tiny):
    def fails():
        raise InputError("config.json is missing")  # which is the fault of no request

    good = Served("good", lambda: Engine(*tiny), lambda: None)
    core = Core([good, Served("bad", fails, lambda: None)])
    clients = [Client(core, "Hi", model=name) for name in ("bad", "good", "bad", "good")]
    assert "config.json is missing" in str(clients[0].last())
    assert clients[1].token_ids() == clients[3].token_ids()
    assert isinstance(clients[2].last(), CheckpointError)
    core.stop()


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
    core = make_core()
    Client(core, "Hi").last()
    core.stop()
    assert core.status().model is None
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("mlx_lfm2vl core", "mlx_lfm2vl host"))]


def test_a_model_that_is_not_served_is_refused_by_name(make_core):
    with pytest.raises(UnknownModel, match="no model 'third' here, expected tiny, other"):
        make_core().submit(Request("Hi", OPTIONS, "third"), print)
