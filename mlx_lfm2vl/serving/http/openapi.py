"""The server's own description, in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import __version__
from ..exchange import Terms
from .json_schemas import OBJECT, Schema
from .openapi_requests import (
    chat_request,
    plan_request,
    preview_request,
    response_request,
    skill_request,
)

TEXT: Schema = {"type": "string"}
# Some programs take a stream for one text, and some for an object for each event.
EVENTS: Schema = {"description": "server-sent events, whose data is JSON"}
COUNT: Schema = {"type": "integer", "minimum": 0}
REFUSED = {
    400: "the body is wrong, or asks for what is not supported",
    403: "the Host or the Origin may not ask",
    404: "there is no such model or path",
    408: "the body came too slowly",
    413: "the body is too large",
    415: "the body is not application/json",
    500: "the server has failed",
    502: "the answer is not in the form that was asked for",
    503: "the queue is full, or the server is stopping; see Retry-After",
    504: "the answer took too long",
}
OF_GET = (403,)


def description(
    terms: Terms, models: Sequence[str], skills: Sequence[str], *, needs_token: bool
) -> dict[str, Any]:
    """Return the description.

    Args:
        terms: what a request may ask for.
        models: names of those that are served.
        skills: that are served.
        needs_token: whether requests must bring one.
    """
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "mlx_lfm2vl",
            "version": __version__,
            "description": "LFM2-VL vision-language models on this machine",
        },
        "paths": _paths(terms, models, skills, needs_token=needs_token),
        "components": {"schemas": _components()},
    }
    if needs_token:
        bearer = {"type": "http", "scheme": "bearer"}
        described["components"]["securitySchemes"] = {"token": bearer}
        described["security"] = [{"token": []}]
    return described


def _paths(
    terms: Terms, models: Sequence[str], skills: Sequence[str], *, needs_token: bool
) -> dict[str, Any]:
    refused = REFUSED | ({401: "the token is absent or wrong"} if needs_token else {})

    def got(summary: str, schema: Schema, *others: int, kind: str = "application/json") -> Any:
        codes = [code for code in (*OF_GET, *others, 401) if code in refused]
        responses = _responses({kind: schema}, {code: refused[code] for code in codes})
        return {"get": {"summary": summary, "responses": responses}}

    def posted(summary: str, body: Schema, answers: Mapping[str, Schema]) -> Any:
        content = {"application/json": {"schema": body}}
        return {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": content},
                "responses": _responses(answers, refused),
            }
        }

    model = got("One model", _ref("Model"), 404)
    parameter = {"name": "model", "in": "path", "required": True, "schema": TEXT}
    model["get"]["parameters"] = [parameter | {"examples": {"first": {"value": models[0]}}}]
    health = got("Whether the server answers", _ref("Health"))
    health["get"]["security"] = []
    health["get"]["responses"].pop("401", None)
    health["get"]["responses"]["503"] = _response("it is stopping", _ref("Health"))
    page = got("A page for a browser", TEXT, kind="text/html")
    page["get"]["security"] = []
    page["get"]["responses"].pop("401", None)
    stream = {"text/event-stream": EVENTS}
    chat = {"application/json": _ref("ChatCompletion"), **stream}
    response = {"application/json": _ref("Response"), **stream}
    return {
        "/health": health,
        "/": page,
        "/metrics": got("Counts, for Prometheus", TEXT, kind="text/plain"),
        "/openapi.json": got("This description", OBJECT),
        "/v1/models": got("The models that requests may name", _ref("ModelList")),
        "/v1/models/{model}": model,
        "/v1/chat/completions": posted("Answer a conversation", chat_request(terms, models), chat),
        "/v1/responses": posted(
            "Answer a conversation, in the newer protocol",
            response_request(terms, models),
            response,
        ),
        "/v1/plan": posted(
            "How a model would see images",
            plan_request(models),
            {"application/json": _ref("Plan")},
        ),
        "/v1/preview": posted(
            "Pictures of what a browser may not show",
            preview_request(models),
            {"application/json": _ref("Preview")},
        ),
        **{
            f"/v1/skills/{name}": posted(
                f"Ask the skill {name}",
                skill_request(name, terms, models),
                {"application/json": _ref("SkillAnswers")},
            )
            for name in skills
        },
    }


def _responses(answers: Mapping[str, Schema], refused: Mapping[int, str]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind, schema in answers.items()}
    return {
        "200": {"description": "the answer", "content": content},
        **{str(code): _response(text, _ref("Error")) for code, text in sorted(refused.items())},
    }


def _response(text: str, schema: Schema) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _components() -> dict[str, Schema]:
    usage = _object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
    usage["properties"]["prompt_tokens_details"] = _object(cached_tokens=COUNT, image_tokens=COUNT)
    head = {"id": TEXT, "created": COUNT, "model": TEXT}
    error = _object(message=TEXT, type=TEXT, param=_or_null(TEXT), code=_or_null(TEXT))
    function = _object(name=TEXT, arguments=TEXT)
    call = _object(id=TEXT, type={"const": "function"}, function=function)
    message = _object(role={"const": "assistant"}, content=_or_null(TEXT))
    message["properties"]["tool_calls"] = {"type": "array", "items": call}
    choice = _object(
        index=COUNT,
        message=message,
        logprobs=_or_null(OBJECT),
        finish_reason={"enum": ["stop", "length", "tool_calls"]},
    )
    model = _object(id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT)
    return {
        "Error": _object(error=error),
        "Health": _object(status={"enum": ["ok", "loading", "stopping"]}),
        "Model": model,
        "ModelList": _object(object={"const": "list"}, data=_list(_ref("Model"))),
        "ChatCompletion": _object(
            **head,
            object={"const": "chat.completion"},
            choices=_list(choice),
            usage=usage,
        ),
        "Response": _object(
            id=TEXT,
            object={"const": "response"},
            created_at=COUNT,
            model=TEXT,
            status={"enum": ["completed", "incomplete", "failed"]},
            output=_list(OBJECT),
            usage=OBJECT,
        ),
        "SkillAnswers": _object(
            **head,
            object={"const": "skill.answers"},
            skill=TEXT,
            answers=_list(OBJECT),
            usage=usage,
        ),
        "Plan": _object(model=OBJECT, images=_list(OBJECT), tokens=COUNT, max_images=COUNT),
        "Preview": _object(images=_list(OBJECT), count=COUNT),
    }


def _object(**properties: Schema) -> Schema:
    """Return the schema of an object that has all of some fields, and maybe others."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
