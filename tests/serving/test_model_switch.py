"""Which model a core holds, and since when it holds none."""

import gc
import threading
import weakref

import pytest
from core_clients import OPTIONS, Client, look, until

from mlx_lfm2vl import Engine, InputError, load
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.serving import preparing, schedule, ticket
from mlx_lfm2vl.serving.core import Core, Limits
from mlx_lfm2vl.serving.request import (
    Progress,
    Request,
    UnknownModel,
    is_last,
)
from mlx_lfm2vl.serving.served import Served
from mlx_lfm2vl.serving.under_way import UnderWay


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
    now, prepare, ready = [1000.0], preparing.prepare_unless_large, threading.Event()
    for module in (schedule, ticket):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    core = make_core(keep_alive=5)
    Client(core, "Hi").last()
    slowly = "prepare_unless_large", lambda *given: ready.wait() and prepare(*given)
    monkeypatch.setattr(preparing, *slowly)
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
    model, processor = load(wide, dtype="float32")
    core = Core([Served("wide", lambda: Engine(model, processor), lambda: None)])
    packed = OPTIONS.changed({"kv_bits": 8})
    clients = [Client(core, "Hi", options) for options in (OPTIONS, packed, OPTIONS)]
    for client, options in zip(clients, (OPTIONS, packed, OPTIONS), strict=True):
        alone = Engine(model, processor).generate("Hi", options)
        assert client.token_ids() == alone.token_ids
    core.stop()


def test_a_cache_that_a_model_cannot_have_is_the_error_of_its_requests_only(
    make_core, turns, monkeypatch
):
    def made(engine, kv_bits):
        if kv_bits:
            raise InputError("kv_bits does not fit this model")
        return work(engine, kv_bits)

    core, work = make_core(rows=1), UnderWay
    monkeypatch.setattr("mlx_lfm2vl.serving.under_way.UnderWay", made)
    packed = OPTIONS.changed({"kv_bits": 8})
    clients = [Client(core, "Hi")]
    until(lambda: core.status().running == 1)
    clients += [Client(core, "Hi", options) for options in (packed, OPTIONS)]
    turns.free()
    assert "does not fit" in str(clients[1].last())
    assert clients[0].token_ids() == clients[2].token_ids()


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


def test_a_model_that_is_not_served_is_refused_by_name(make_core):
    with pytest.raises(UnknownModel, match="no model 'third' here, expected tiny, other"):
        make_core().submit(Request("Hi", OPTIONS, "third"), print)
