"""The public protocols over the socket."""

from types import SimpleNamespace

import pytest

from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.request import Busy
from mlx_lfm2vl.serving.resident.protocol import stream
from mlx_lfm2vl.serving.served import served_model


def test_an_error_before_the_first_event_of_a_stream_keeps_its_own_status():
    def submit(_request, _deliver):
        raise Busy("64 requests are waiting, the limit", 5)

    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    exchange = read_chat(body, Terms(lambda _name: served_model("demo")))
    with pytest.raises(Busy, match="64 requests are waiting"):
        next(stream(exchange, SimpleNamespace(submit=submit), lambda: False))
