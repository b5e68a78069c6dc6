"""An engine in another process answers as one in this process does."""

import logging
import threading
import time

import httpx
import openai
import pytest
from pictures import make_picture
from residents import DEMO, own_folder, socket_of

from mlx_lfm2vl import Engine, load
from mlx_lfm2vl.constraints.constraint import choice
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.options import AnswerOptions, ImageOptions
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.serving.resident.client import RemoteEngine
from mlx_lfm2vl.serving.resident.http import Call
from mlx_lfm2vl.serving.resident.place import private_folder

SMALL = ImageOptions(min_image_tokens=4, max_image_tokens=16)
OPTIONS = AnswerOptions(max_tokens=6, temperature=0, seed=1, logprobs=True, image_options=SMALL)


@pytest.fixture(scope="module")
def folder():
    with own_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def remote(folder):
    assert str(folder) == private_folder()
    return RemoteEngine(DEMO, ImageLimits(max_pixels=10**6))


@pytest.fixture(scope="module")
def local():
    return Engine(*load("demo", limits=ImageLimits(max_pixels=10**6)))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "drawn.png"
    make_picture(40, 60, 1).save(path)
    return path


def known(result):
    """What two runs of the same question share."""
    values = result.to_dict()
    for name in ("timings", "peak_memory_bytes", "cached_tokens", "logprobs"):
        del values[name]
    return values


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 1.0, "seed": 7},
        {"constraint": choice(["red", "blue"])},
        {"stop": "e", "answer_start": "Th"},
        {"image_options": ImageOptions(max_image_tokens=64)},
        {"lookup": 4},
        {"tools": [{"name": "f", "parameters": {}}]},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_pieces_and_result_are_those_of_an_engine_in_this_process(remote, local, picture, changes):
    messages = user_message("What is this?", [picture], None)

    def answer(engine):
        try:
            pieces = list(engine.stream(messages, OPTIONS.changed(changes)))
        except InputError as error:
            return str(error)
        ids = [token for piece in pieces for token in piece.token_ids]
        return "".join(piece.text for piece in pieces), ids, known(pieces[-1].result)

    assert answer(remote) == answer(local)


def test_logprobs_are_those_of_an_engine_in_this_process(remote, local, picture):
    here, there = (e.generate("What?", OPTIONS, image=str(picture)) for e in (local, remote))
    # Parts of the prompt that were read before are not read again, which rounds otherwise.
    assert there.logprobs == pytest.approx(here.logprobs, abs=1e-4)


def test_the_first_pieces_come_before_the_answer_is_whole(remote, picture):
    pieces = remote.stream("Write much.", image=picture, max_tokens=400, temperature=0)
    assert next(pieces).result is None
    pieces.close()


def test_scores_are_those_of_an_engine_in_this_process(remote, local, picture):
    asked = ("Which color?", ["red", "a blue circle"])
    here, there = (
        engine.score(*asked, image=str(picture), temperature=0) for engine in (local, remote)
    )
    assert there.images == here.images
    for one, other in zip(there.answers, here.answers, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_batch_gives_each_answer_or_error_under_its_number(remote, local, picture):
    images = [picture, picture.with_name("none.png"), b"no image", str(picture)]

    def conversations():
        for image in images:
            yield user_message("What is this?", [image])
            yield None

    outcomes = dict(remote.stream_batch(conversations(), OPTIONS, batch_size=2))
    expected = known(local.generate(user_message("What is this?", [picture]), OPTIONS))
    assert known(outcomes[0]) == known(outcomes[3]) == expected
    for number in (1, 2):
        with pytest.raises(InputError) as caught:
            local.generate(user_message("What is this?", [images[number]]), OPTIONS)
        assert str(outcomes[number]) == str(caught.value)
    with pytest.raises(InputError, match="batch_size is 0"):
        remote.stream_batch([], batch_size=0)


def test_images_that_were_seen_are_asked_about_by_question(remote, local, picture):
    seen = remote.see(picture, OPTIONS)
    picture.unlink()  # it was read
    *_, last = seen.stream("Which color is it?", on_prefill=None)
    expected = local.generate("Which color is it?", OPTIONS, image=make_picture(40, 60, 1))
    assert last.result.text == expected.text


def test_what_is_asked_again_is_not_read_again(remote, picture):
    question = {"messages": "What is in this picture?", "options": OPTIONS, "image": picture}
    remote.generate(**question)
    again = remote.generate(**question)
    assert again.cached_tokens > again.image_tokens


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine, image: engine.generate(user_message("What?"), image=image),
        lambda engine, image: engine.score("What?", [], image=image),
        lambda engine, _: engine.see([]),
    ],
    ids=["image beside messages", "no answers", "no images"],
)
def test_what_an_engine_refuses_is_refused_in_the_same_words(remote, local, picture, ask):
    with pytest.raises(InputError) as expected:
        ask(local, picture)
    with pytest.raises(InputError) as found:
        ask(remote, picture)
    assert str(found.value) == str(expected.value)


def test_functions_of_this_process_are_refused_rather_than_forgotten(remote):
    with pytest.raises(InputError, match="logits_processors are functions of this process"):
        remote.generate("What?", logits_processors=[lambda _ids, logits: logits])


def test_notes_of_the_process_are_logged_here(remote, tmp_path, caplog):
    make_picture(300, 9, 2).save(
        tmp_path / "thin.gif", save_all=True, append_images=[make_picture(30, 9, 3)]
    )
    with caplog.at_level(logging.WARNING, "mlx_lfm2vl"):
        logging.getLogger("mlx_lfm2vl").addHandler(caplog.handler)
        remote.generate("What?", OPTIONS, image=tmp_path / "thin.gif")
        logging.getLogger("mlx_lfm2vl").removeHandler(caplog.handler)
    told = {record.getMessage() for record in caplog.records}
    assert f"'{tmp_path}/thin.gif' has several frames or pages: using the first" in told


def test_limits_are_those_of_the_client(remote, tmp_path):
    path = tmp_path / "large.png"
    make_picture(1100, 1000, 1).save(path)
    with pytest.raises(InputError, match=r"1000 x 1100 pixels .* the limit is 1"):
        remote.generate("What?", OPTIONS, image=path)
    small = OPTIONS.changed({"image_options": ImageOptions(do_image_splitting=False)})
    wide = RemoteEngine(DEMO)
    assert wide.generate("What?", small, image=path).images[0].size == (1100, 1000)


def test_what_commands_read_of_an_engine_is_the_same(remote, local):
    assert remote.model.name == local.model.name
    assert remote.model.config.sampling == local.model.config.sampling
    assert remote.processor.image_config == local.processor.image_config
    assert remote.content_fingerprint() == local.content_fingerprint()


def test_who_leaves_ends_the_answer_in_the_process(remote, folder, picture):
    pieces = remote.stream("Write.", image=picture, max_tokens=1500, temperature=2.0, top_p=1.0)
    next(pieces)
    assert Call(socket_of(folder)).object("GET", "/health")["calls"] == 1
    pieces.close()
    until = time.monotonic() + 60
    while Call(socket_of(folder)).object("GET", "/health")["calls"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_several_threads_ask_at_once(remote, local, picture):
    questions = ["What is this?", "Which color?", "How many?", "Any text?"]
    answers: dict[str, str] = {}

    def ask(question: str) -> None:
        answers[question] = remote.generate(question, OPTIONS, image=picture).text

    threads = [threading.Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {q: local.generate(q, OPTIONS, image=picture).text for q in questions}
    assert answers == expected


@pytest.mark.parametrize("target", ["/v1/lfm2vl/answer", "/v1/lfm2vl/open", "/v1/nothing"])
def test_a_call_that_is_no_request_is_refused_in_one_line(remote, folder, target):
    del remote
    for body in (b"", b"{}", b'{"messages": 3}\n', b"\xff\xfe"):
        with pytest.raises(Exception, match=r"\w+: .|there is no /v1/nothing") as caught:
            list(Call(socket_of(folder)).events(target, [body]))
        assert "\n" not in str(caught.value)


def test_openai_clients_are_answered_over_the_socket(remote, local, folder):
    del remote
    transport = httpx.HTTPTransport(uds=socket_of(folder))
    with openai.OpenAI(
        base_url="http://resident/v1", api_key="none", http_client=httpx.Client(transport=transport)
    ) as client:
        (model,) = client.models.list()
        asked = {
            "model": model.id,
            "messages": [{"role": "user", "content": "What is this?"}],
            "max_completion_tokens": 6,
            "temperature": 0,
        }
        whole = client.chat.completions.create(**asked).choices[0].message.content
        chunks = client.chat.completions.create(**asked, stream=True)
        pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(**{**asked, "temperature": -1})
        with pytest.raises(openai.NotFoundError, match="no model 'other'"):
            client.chat.completions.create(**{**asked, "model": "other"})
    assert whole == "".join(pieces) == local.generate("What is this?", OPTIONS).text
