"""What travels to a resident process arrives as it was."""

import io
import json
from dataclasses import replace

import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.constraints.constraint import choice
from mlx_lfm2vl.errors import CheckpointError, InputError, Lfm2VLError
from mlx_lfm2vl.generation.result import Piece, Result, Timings
from mlx_lfm2vl.generation.scores import Likelihood, Scores
from mlx_lfm2vl.images.drawn import Kept, Refused
from mlx_lfm2vl.images.geometry import ImagePlan
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.options import AnswerOptions, AtMost, ImageOptions, Sampling
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.request import Progress, Request, UnknownModel
from mlx_lfm2vl.serving.resident.wire import (
    Alive,
    Note,
    read_event,
    read_request,
    write_event,
    write_request,
)

PLAN = ImagePlan((40, 60), (1, 1), (64, 96), None, 16, 2)
RESULT = Result(
    text="a \u2028 b",
    token_ids=[1, 2],
    finish_reason="stop",
    prompt_tokens=9,
    image_tokens=6,
    images=[PLAN, replace(PLAN, grid=(2, 3), thumbnail=(32, 32))],
    sampling=Sampling(0.5, 0.9),
    seed=2**63 - 1,
    timings=Timings(0.1, 1 / 3, 2e-9),
    peak_memory_bytes=2**40,
    logprobs=[-0.1, float("-inf")],
    tool_calls=[{"name": "f", "arguments": {"x": [1, None]}}],
    rounds={0: 3, 4: 1},
)


@pytest.mark.parametrize(
    "event",
    [
        Progress("prefill", 3, 9),
        Piece("é\ud800", [5], None, [-2.5]),
        Piece("", [], RESULT),
        Scores([Likelihood([1], [-1.5, -0.25])], 9, 6, 3, [PLAN]),
        Note("photo.jpg: odd"),
        Alive(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_arrives_as_it_was(event):
    line = write_event(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_event(line) == event


def test_an_error_arrives_as_its_class_with_its_exit_code():
    for sent in (InputError("bad"), CheckpointError("broken"), Lfm2VLError("full")):
        arrived = read_event(write_event(sent))
        assert (type(arrived), str(arrived)) == (type(sent), str(sent))
        assert arrived.exit_code == sent.exit_code
    arrived = read_event(write_event(UnknownModel("there is none")))  # of no class of `errors`
    assert (type(arrived), arrived.exit_code) == (Lfm2VLError, 2)
    arrived = read_event(write_event(RuntimeError("no memory")))
    assert (str(arrived), arrived.exit_code) == ("RuntimeError: no memory", 1)


def test_a_request_arrives_with_its_options_and_the_bytes_of_its_images(tmp_path):
    file = tmp_path / "photo.png"
    make_picture(20, 30, 1).save(file)
    options = AnswerOptions(
        max_tokens=7,
        stop=["a", "b"],
        sampling=Sampling(temperature=0.3),
        top_k=5,
        seed=3,
        image_options=ImageOptions(max_tiles=4, background="red"),
        tools=[{"name": "f"}],
        answer_start="{",
        constraint=choice(["yes", "no"]),
        lookup=4,
        kv_bits=8,
        logprobs=True,
    )
    limits = ImageLimits(max_pixels=123_456)
    sources = [file, str(file), file.read_bytes(), io.BytesIO(file.read_bytes())]
    messages = user_message("What?", sources, "Be brief.")
    sent = Request(messages, options, answers=["x"])
    arrived = read_request(b"".join(write_request(sent, limits)))
    assert (arrived.options, arrived.answers, arrived.limits) == (options, ["x"], limits)
    assert arrived.messages[0] == messages[0]
    *images, text = arrived.messages[1]["content"]
    assert text == {"type": "text", "text": "What?"}
    assert [part["image"] for part in images] == [file.read_bytes()] * 4
    assert images[0]["image"].name == repr(str(file))


def test_hooks_stay_with_the_client_and_defaults_are_not_sent():
    options = AnswerOptions(on_prefill=print, max_tokens=3)
    head = json.loads(write_request(Request("Hi", options), ImageLimits())[0])
    assert head["options"] == {"max_tokens": 3}


@pytest.mark.parametrize("length", [512, AtMost(512), AtMost(40)])
def test_whether_the_length_of_an_answer_was_chosen_arrives(length):
    sent = Request("Hi", AnswerOptions(max_tokens=length))
    arrived = read_request(b"".join(write_request(sent, ImageLimits())))
    assert arrived.options.max_tokens == length
    assert type(arrived.options.max_tokens) is type(length)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_a_picture_that_is_drawn_keeps_its_pixels(mode):
    image = make_picture(9, 7, 1).convert(mode)
    body = write_request(Request(user_message("", [Kept("page 2", image)])), ImageLimits())
    request = read_request(b"".join(body))
    arrived = request.messages[0]["content"][0]["image"]
    assert arrived.name == "page 2"
    shown = Image.open(io.BytesIO(arrived)).convert("RGB")
    assert shown.tobytes() == image.convert("RGB").tobytes()


def test_an_image_that_cannot_be_read_is_refused_before_anything_is_sent(tmp_path):
    for source, why in (
        (tmp_path / "none.png", "does not exist"),
        (Refused("x", InputError("no such page")), "no such page"),
        ("http://localhost/x.png", "is a URL"),
    ):
        with pytest.raises(InputError, match=why):
            write_request(Request(user_message("", [source])), ImageLimits())


def test_a_body_of_another_length_is_refused():
    body = b"".join(write_request(Request(user_message("", [b"abc"])), ImageLimits()))
    with pytest.raises(ValueError, match="4 bytes of images, expected 3"):
        read_request(body + b"x")
