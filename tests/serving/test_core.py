"""The core: requests of any thread are answered as the engine answers them."""

import pytest
from pictures import make_picture

from mlx_lfm2vl import Engine, load
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.request import Request, UnknownModel
from mlx_lfm2vl.serving.served import served_model

OPTIONS = AnswerOptions(max_tokens=12, temperature=0)


def test_the_core_answers_as_the_engine_does():
    core = Core([served_model("demo")])
    messages = user_message("What is this?", [make_picture(40, 40, 1)])
    *_, last = core.stream(Request(messages, OPTIONS))
    assert last.result.text == Engine(*load("demo")).generate(messages, OPTIONS).text
    core.stop()


def test_a_model_that_is_not_served_is_refused_by_name():
    core = Core([served_model("demo")])
    with pytest.raises(UnknownModel, match="no model 'other' here, expected demo"):
        core.submit(Request("Hi", OPTIONS, "other"), print)
    core.stop()
