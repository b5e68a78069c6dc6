"""A resident process frees the images of its calls."""

import contextlib
import gc
import json
import logging
import threading
import time
from base64 import b64encode

import pytest
from pictures import make_picture
from residents import DEMO, own_folder, socket_of

from mlx_lfm2vl import Engine
from mlx_lfm2vl.errors import InputError, Lfm2VLError
from mlx_lfm2vl.generation.prefix_store import PrefixStore
from mlx_lfm2vl.images.read import NamedBytes
from mlx_lfm2vl.images.ready import ReadyImage
from mlx_lfm2vl.serving.resident.client import RemoteEngine
from mlx_lfm2vl.serving.resident.http import Call
from mlx_lfm2vl.serving.resident.model import stamp
from mlx_lfm2vl.serving.resident.server import ResidentServer, _Handler


@pytest.fixture
def listening(tiny):
    """A server in this process, at a socket where `RemoteEngine` finds it."""
    with own_folder() as folder:
        server = ResidentServer(socket_of(folder), DEMO)
        server.model._engine = Engine(*tiny, store=PrefixStore())
        server.model._stamp = stamp(DEMO)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        server.core.stop(0)
        server.server_close()
        thread.join()
        package = logging.getLogger("mlx_lfm2vl")
        package.removeHandler(server.notes)
        package.propagate = True


def images_in_memory() -> int:
    """How many images are held, encoded or decoded."""
    return sum(type(each) in (NamedBytes, ReadyImage) for each in gc.get_objects())


def test_a_call_frees_its_images_when_it_ends_in_an_error_too(listening, tmp_path):
    make_picture(40, 60, 1).save(tmp_path / "drawn.png")
    whole = (tmp_path / "drawn.png").read_bytes()
    remote = RemoteEngine(DEMO)
    uri = f"data:image/png;base64,{b64encode(whole).decode()}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "Hi"}]
    body = {"messages": [{"role": "user", "content": content}], "max_completion_tokens": 10**5}
    gc.collect()
    gc.disable()
    try:
        remote.generate("Hi", image=whole, max_tokens=2)
        for image, changes in ((whole[:900], {}), (whole, {"max_tokens": 10**5})):
            with contextlib.suppress(InputError):
                remote.generate("Hi", image=image, **changes)
        with contextlib.suppress(Lfm2VLError):
            list(
                Call(str(listening.server_address)).events(
                    "/v1/chat/completions", [json.dumps(body).encode()]
                )
            )
        until = time.monotonic() + 5
        while images_in_memory() and time.monotonic() < until:
            time.sleep(0.01)  # its thread ends after the client has its answer
        assert images_in_memory() == 0
    finally:
        gc.enable()


def test_the_body_of_a_call_is_freed_before_its_answer(listening, tmp_path, monkeypatch):
    class Body(bytes):
        pass

    read = _Handler._body
    monkeypatch.setattr(_Handler, "_body", lambda self: Body(read(self)))
    make_picture(40, 60, 1).save(tmp_path / "drawn.png")
    pieces = RemoteEngine(DEMO).stream("Hi", image=tmp_path / "drawn.png", max_tokens=500)
    next(pieces)
    held = [type(each) for each in gc.get_objects()]
    pieces.close()
    assert (held.count(Body), held.count(NamedBytes)) == (0, 1)  # the client's own
    assert listening.idle_seconds == 0
