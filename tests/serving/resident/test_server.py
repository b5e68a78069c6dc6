"""The calls of a resident process, without a process."""

import json
import socket
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict
from types import SimpleNamespace

from residents import DEMO

from mlx_lfm2vl.errors import Lfm2VLError
from mlx_lfm2vl.serving.resident.place import BUILD
from mlx_lfm2vl.serving.resident.server import _Handler
from mlx_lfm2vl.serving.resident.wire import Note, read_event


def test_a_client_that_pauses_gets_the_rest_of_its_events(monkeypatch):
    def opened():
        raise Lfm2VLError("the last event")

    monkeypatch.setattr(_Handler, "timeout", 0.05)
    notes = [Note("n" * 1000)] * 2000
    model = SimpleNamespace(
        wanted=DEMO, is_current=lambda: True, loading_notes=notes, opened=opened
    )
    server = SimpleNamespace(model=model, busy=nullcontext, ends=threading.Event())
    body = json.dumps({"wanted": asdict(DEMO), "build": BUILD, "keep_alive": 1}).encode()
    head = b"POST /v1/lfm2vl/open HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    here, there = socket.socketpair()
    with here, here.makefile("rb") as reply:
        here.sendall(head + body)

        def handle():
            with there:
                _Handler(there, None, server)

        thread = threading.Thread(target=handle)
        thread.start()
        time.sleep(0.2)
        *_, last = reply
        thread.join()
    assert str(read_event(last)) == "the last event"
