"""The server's description is valid, whole and true: schemathesis asks by it."""

import asyncio
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from asgi_client import ask
from scripted_core import ScriptedCore

from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import App
from mlx_lfm2vl.serving.http.fronts import SKILLS, all_fronts
from mlx_lfm2vl.serving.protocol.fields import Fields
from mlx_lfm2vl.serving.served import served_model
from mlx_lfm2vl.skills.tasks import TASKS

ALIKE = set(SKILLS) - {"detect", "extract"}  # their schemas are made as those of these two
INFO = replace(served_model("demo").info, kind="3b")  # which was taught all skills
MODEL = replace(served_model("demo"), look=lambda: INFO)
TERMS = Terms(lambda _: MODEL, max_tokens=20)


class Core(ScriptedCore):
    models = {"demo": MODEL}


@pytest.fixture(scope="module")
def app() -> App:
    return App(Core(), TERMS, Access(), all_fronts())


def described(app: App) -> dict[str, Any]:
    return asyncio.run(ask(app, "/openapi.json")).json


def bodies(app: App) -> dict[str, dict[str, Any]]:
    """The schema of every body, by path."""
    return {
        path: operation["requestBody"]["content"]["application/json"]["schema"]
        for path, operations in described(app)["paths"].items()
        for operation in operations.values()
        if "requestBody" in operation
    }


def test_the_skills_are_those_of_the_package():
    assert sorted(SKILLS) == sorted(TASKS)


def test_every_route_is_described_and_no_other(app):
    routes = {route.path for route in app.routes}
    assert {path.replace("{model}", "{model:path}") for path in described(app)["paths"]} == routes


def test_a_document_has_headers_of_its_own_in_the_place_of_those_of_all_answers(app):
    reply = asyncio.run(ask(app, "/"))
    assert (reply.status, reply.headers["cache-control"]) == (200, "no-cache")
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_bodies_have_valid_schemas_and_examples_that_are_read(app):
    fronts = all_fronts()
    for path, schema in bodies(app).items():
        if path.rpartition("/")[2] not in ALIKE:
            jsonschema.Draft202012Validator.check_schema(schema)
        (example,) = schema["examples"]
        jsonschema.Draft202012Validator(schema).validate(example)
        assert (fronts.exchanges | fronts.computed)[path](example, TERMS)


def test_the_fields_described_are_those_that_are_read(app, monkeypatch):
    read: dict[str, set[str]] = {}
    monkeypatch.setattr(
        Fields, "close", lambda fields: read.update({fields.path: {*fields._known}})
    )
    described = bodies(app)
    fronts = all_fronts()
    for path, front in (fronts.exchanges | fronts.computed).items():
        front(described[path]["examples"][0], TERMS)
        assert read[""] == set(described[path]["properties"]), path


@pytest.mark.parametrize("stream", ["data: {}\n\n", {"event": "a", "data": "{}"}])
def test_a_stream_may_be_read_as_one_text_or_as_events(app, stream):
    for path in ("/v1/chat/completions", "/v1/responses"):
        content = described(app)["paths"][path]["post"]["responses"]["200"]["content"]
        jsonschema.validate(stream, content["text/event-stream"]["schema"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_every_form_of_a_choice_among_tools_is_described(app, path):
    schema = bodies(app)[path]["properties"]["tool_choice"]
    function = {"type": "function", "name": "f"}
    allowed = {"mode": "auto", "tools": [function]}
    if "chat" in path:
        function = {"type": "function", "function": {"name": "f"}}
        allowed = {"allowed_tools": {"mode": "auto", "tools": [function]}}
    for choice in ("none", function, {"type": "allowed_tools", **allowed}):
        jsonschema.validate(choice, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "allowed_tools"}, schema)
