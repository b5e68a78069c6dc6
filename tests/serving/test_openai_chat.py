"""The chat protocol: what a request means, and how its answer is written."""

import pytest
from exchanges import body_of, frames_of

from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.openai_chat import read_chat
from mlx_lfm2vl.serving.served import served_model


@pytest.fixture(scope="module")
def core():
    core = Core([served_model("demo")])
    yield core
    core.stop()


def test_a_stream_and_one_object_hold_the_same_answer(core):
    body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 9}
    terms = Terms(core.model)
    whole = body_of(read_chat(body, terms), core)
    frames = frames_of(read_chat({**body, "stream": True}, terms), core)
    deltas = [frame.data["choices"][0]["delta"] for frame in frames[:-1]]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"] != ""
    assert frames[-1].data == "[DONE]"
