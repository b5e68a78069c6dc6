"""The application: its routes, and what it says to those that miss them."""

import asyncio

import pytest
from asgi_client import ask
from scripted_core import Echo, ScriptedCore, make_app, pieces, result

from mlx_lfm2vl.errors import AnswerError, CheckpointError, InputError
from mlx_lfm2vl.serving.http.errors import HttpError
from mlx_lfm2vl.serving.request import Busy, Failed, Overdue, Stopping, UnknownModel

HELLO = {"prompt": "Hello"}


def reply(path, value=None, core=None, **changes):
    return asyncio.run(
        ask(make_app(core or ScriptedCore(pieces("Hi", "!"))), path, value, **changes)
    )


def test_a_question_is_answered_with_one_object():
    answer = reply("/v1/echo", HELLO, ScriptedCore(pieces("Hi", "é")))
    assert (answer.status, answer.json) == (200, {"texts": ["Hié"]})


def test_every_answer_forbids_guessing_and_keeping_and_names_no_server():
    for path, value in (("/health", None), ("/v1/echo", HELLO), ("/nothing", None)):
        headers = reply(path, value).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert not [name for name in headers if name.startswith("access-control")]


def test_models_are_listed_and_found_by_names_with_slashes():
    app = make_app(ScriptedCore())
    listed = asyncio.run(ask(app, "/v1/models")).json
    assert [model["id"] for model in listed["data"]] == ["demo", "org/other"]
    assert asyncio.run(ask(app, "/v1/models/org/other")).json == listed["data"][1]
    missing = reply("/v1/models/none")
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")
    assert missing.json["error"]["message"].endswith("expected demo, org/other")
    assert reply("/v1/models/").status == 404


def test_a_path_that_is_not_there_and_a_wrong_method_are_error_objects():
    assert (missing := reply("/v2")).status == 404
    assert missing.json["error"] == {
        "message": "there is no path '/v2' here; GET /openapi.json lists the paths",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
    assert reply("/health/").status == 404
    wrong = reply("/v1/echo")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    error = wrong.json["error"]
    assert error["code"] == "method_not_allowed"
    assert error["message"] == "the method of /v1/echo is GET, expected POST"


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/openapi.json"])
def test_head_is_answered_where_get_is(path):
    assert reply(path, method="HEAD").status == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnknownModel("there is none"), 404, "model_not_found"),
        (Busy("the queue is full", 7), 503, "busy"),
        (Stopping("the server is stopping"), 503, "stopping"),
        (Overdue("the answer took too long"), 504, "overdue"),
        (AnswerError("the answer is no JSON"), 502, "unexpected_answer"),
        (Failed("there was no memory"), 500, "failed"),
        (HttpError(413, "the body is too large", "body_too_large"), 413, "body_too_large"),
    ],
)
def test_every_error_has_its_own_status(error, status, code):
    answer = reply("/v1/echo", HELLO, ScriptedCore(refusal=error))
    kind = "invalid_request_error" if status < 500 else "server_error"
    described = answer.json["error"]
    assert (answer.status, described["code"], described["type"]) == (status, code, kind)
    assert answer.headers.get("retry-after") == ("7" if code == "busy" else None)


def test_a_question_that_took_too_long_is_not_asked_again_by_a_library():
    answer = reply("/v1/echo", HELLO, ScriptedCore([Overdue("longer than 5 seconds")]))
    assert (answer.status, answer.headers["x-should-retry"]) == (504, "false")


def test_a_message_about_a_request_repeats_what_the_request_holds():
    text = "regex '/usr/share/[' cannot be used"
    answer = reply("/v1/echo", HELLO, ScriptedCore([InputError(text)]))
    assert (answer.status, answer.json["error"]["message"]) == (400, text)


def test_an_error_of_the_machine_stays_there(caplog):
    error = CheckpointError("/Users/me/secret/model.safetensors is cut off")
    answer = reply("/v1/echo", HELLO, ScriptedCore([error]))
    assert answer.status == 500
    assert "secret" not in answer.body.decode()
    assert "secret/model.safetensors" in caplog.text


def test_a_bug_is_a_status_500_whose_place_the_machine_is_told(monkeypatch, caplog):
    monkeypatch.setattr(Echo, "body", lambda _: 1 / 0)

    async def fails() -> None:
        with pytest.raises(ZeroDivisionError):  # uvicorn closes the connection
            await ask(make_app(ScriptedCore(pieces("Hi"))), "/v1/echo", HELLO)

    asyncio.run(fails())
    assert "ZeroDivisionError in" in caplog.text


def test_what_needs_no_model_is_computed():
    assert reply("/v1/double", {"n": 21}).json == {"n": 42}


def test_health_says_whether_the_server_loads_answers_or_stops():
    core = ScriptedCore()
    app = make_app(core)

    def health() -> tuple[int, str]:
        answer = asyncio.run(ask(app, "/health"))
        return answer.status, answer.json["status"]

    assert health() == (200, "ok")
    core.model = None  # and questions wait
    assert health() == (200, "loading")
    core.waiting = 0
    assert health() == (200, "ok")
    app.is_stopping = True
    assert health() == (503, "stopping")


def test_metrics_tell_what_server_and_core_have_done():
    core = ScriptedCore(pieces("Hi", "!"))
    for seconds in (0.01, 0.3, 100):
        core.meter.first_tokens += seconds
    core.meter.answered(result("Hi"), 1.0)
    core.meter.cancelled, core.meter.refused, core.meter.peak_bytes = 2, 4, 99
    core.meter.errors["InputError"] += 1
    core.model = None
    app = make_app(core)

    async def visit() -> str:
        await ask(app, "/v1/echo", HELLO)
        await ask(app, "/v1/echo", {})
        await ask(app, "/elsewhere?token=1")
        return (await ask(app, "/metrics")).body.decode()

    text = asyncio.run(visit())
    for line in (
        'requests_total{path="/v1/echo",status="200"} 1',
        'requests_total{path="/v1/echo",status="400"} 1',
        'requests_total{path="other",status="404"} 1',
        'tokens_total{kind="prompt"} 7',
        'tokens_total{kind="cached"} 3',
        'tokens_total{kind="generated"} 2',
        'unanswered_total{kind="cancelled"} 2',
        'unanswered_total{kind="refused"} 4',
        'unanswered_total{kind="InputError"} 1',
        'first_token_seconds_bucket{le="0.05"} 1',
        'first_token_seconds_bucket{le="0.5"} 2',
        'first_token_seconds_bucket{le="60"} 2',
        'first_token_seconds_bucket{le="+Inf"} 3',
        "first_token_seconds_sum 100.310000",
        "first_token_seconds_count 3",
        "answers_total 1",
        "peak_memory_bytes 99",
        "model_loaded 0",
        "running 1",
        "waiting 2",
    ):
        assert f"\nmlx_lfm2vl_{line}\n" in text, line


def test_a_log_is_told_of_requests_but_nothing_that_was_asked():
    seen = []
    app = make_app(ScriptedCore(pieces("Hi")), log=seen.append)
    asyncio.run(ask(app, "/v1/echo?secret=1", HELLO))
    assert [(each.method, each.path, each.status) for each in seen] == [("POST", "/v1/echo", 200)]
    assert 0 <= seen[0].seconds < 60
    assert "Hello" not in repr(seen)
    assert "secret" not in repr(seen)
