"""Requests and events as they travel to a resident process and back: nothing of them is lost.

- A request is a line of JSON, and after it the bytes of its images. Images have names, because
  messages about them do.
- An event is a line of JSON with one key, which says what it is.
- Both sides have the same version of this package, so fields are those of the dataclasses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from ... import errors
from ...checkpoint.image_config import ImageConfig
from ...constraints.constraint import Constraint
from ...errors import Lfm2VLError
from ...generation.result import Piece, Result, Timings
from ...generation.scores import Likelihood, Scores
from ...images.geometry import ImagePlan
from ...images.limits import ImageLimits
from ...images.read import NamedBytes
from ...options import AnswerOptions, AtMost, ImageOptions, Sampling
from ..request import Progress, Request

if TYPE_CHECKING:
    from ...prompt.messages import Message
    from ...prompt.parts import Part

HOOKS = ("logits_processors", "on_encode", "on_prefill")  # they stay on the client's side
ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, Lfm2VLError)
}


@dataclass(frozen=True)
class Note:
    """A line that the process has logged about a request."""

    text: str


@dataclass(frozen=True)
class Alive:
    """The process is at work and has nothing to tell."""


@dataclass(frozen=True)
class Opened:
    """The model is in memory.

    Attributes:
        name: of the checkpoint.
        sampling: that it recommends.
        images: how it cuts images.
    """

    name: str
    sampling: Sampling
    images: ImageConfig


Told: TypeAlias = Progress | Piece | Scores | Opened | Note | Alive | Lfm2VLError


# -- requests --


def write_request(request: Request, limits: ImageLimits) -> list[bytes]:
    """Return the body that asks for an answer, in parts.

    Args:
        request: its images are read here: files, pipes and addresses with the rights of the client.
        limits: on the images; the process applies them when it decodes.

    Raises:
        InputError: an image cannot be read.
        NetworkError: an image URL cannot be fetched.
    """
    from ...prompt.messages import as_messages, count_images, read_messages
    from .images import image_bytes

    limits.check_count(count_images(request.messages))
    pictures: list[NamedBytes] = []

    def numbered(part: Part) -> Part:
        if part["type"] != "image":
            return part
        pictures.append(image_bytes(part["image"], limits))
        return {"type": "image", "image": len(pictures) - 1}

    values = {
        "messages": with_parts(read_messages(as_messages(request.messages)), numbered),
        "options": _changed_options(request.options),
        "answers": list(request.answers),
        "limits": asdict(limits),
        "images": [[picture.name, len(picture)] for picture in pictures],
    }
    return [json.dumps(values).encode() + b"\n", *pictures]


def read_request(body: bytes) -> Request:
    """Read what `write_request` has written; images are `NamedBytes`.

    Raises:
        ValueError, LookupError, TypeError: the body is something else.
        InputError: an option is out of range.
    """
    begin = body.find(b"\n") + 1 or len(body)
    values = json.loads(body[:begin])
    data, begin = memoryview(body)[begin:], 0
    pictures: list[NamedBytes] = []
    for name, size in values["images"]:
        picture = NamedBytes(data[begin : begin + size])
        picture.name, begin = name, begin + size
        pictures.append(picture)
    if begin != len(data):
        raise ValueError(f"there are {len(data)} bytes of images, expected {begin}")

    def picture_of(part: Part) -> Part:
        return {**part, "image": pictures[part["image"]]} if part["type"] == "image" else part

    messages = with_parts(values["messages"], picture_of)
    options = _read_options(values["options"])
    limits = ImageLimits(**values["limits"])
    return Request(messages, options, answers=values["answers"], limits=limits)


def with_parts(messages: Sequence[Message], change: Callable[[Part], Part]) -> list[Message]:
    """Return messages with every part of their content changed; text alone stays."""
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [change(part) for part in message["content"]]}
        for message in messages
    ]


def _changed_options(options: AnswerOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults, without the hooks."""
    default = AnswerOptions()
    pairs = {
        field.name: (getattr(options, field.name), getattr(default, field.name))
        for field in fields(options)
        if field.name not in HOOKS
    }
    values = {
        name: value
        for name, (value, usual) in pairs.items()
        if value != usual or type(value) is not type(usual)  # 512 may be chosen
    }
    for name in ("sampling", "image_options", "constraint"):
        if name in values:
            values[name] = asdict(values[name])
    if "max_tokens" in values and isinstance(options.max_tokens, AtMost):
        values["at_most"] = values.pop("max_tokens")
    return values


def _read_options(values: Mapping[str, Any]) -> AnswerOptions:
    kinds = {"sampling": Sampling, "image_options": ImageOptions, "constraint": Constraint}
    read: dict[str, Any] = {
        name: kinds[name](**value) if name in kinds else value for name, value in values.items()
    }
    if "at_most" in read:
        read["max_tokens"] = AtMost(read.pop("at_most"))
    return AnswerOptions(**read)


# -- events --


def write_event(event: Any) -> bytes:
    """Return an event as a line; an error that is not ours is told as a command would tell it."""
    if isinstance(event, Progress):
        values: dict[str, Any] = {"progress": asdict(event)}
    elif isinstance(event, Piece):
        values = {"piece": asdict(event)}
        if event.result is not None:
            values["piece"]["result"]["rounds"] = list(event.result.rounds.items())
    elif isinstance(event, Scores):
        values = {"scores": asdict(event)}
    elif isinstance(event, Opened):
        values = {"opened": asdict(event)}
    elif isinstance(event, Note):
        values = {"note": event.text}
    elif isinstance(event, Alive):
        values = {"alive": True}
    else:
        values = {"error": error_values(event)}
    return json.dumps(values).encode() + b"\n"


def error_values(error: BaseException) -> dict[str, Any]:
    """Return an error as plain data."""
    if isinstance(error, Lfm2VLError):
        return {"kind": type(error).__name__, "text": str(error), "exit_code": error.exit_code}
    return {"kind": "Lfm2VLError", "text": f"{type(error).__name__}: {error}", "exit_code": 1}


def read_error(values: Mapping[str, Any]) -> Lfm2VLError:
    """Return the error, of its own class if this is one of `errors`."""
    error = ERRORS.get(values["kind"], Lfm2VLError)(values["text"])
    error.exit_code = values["exit_code"]
    return error


def read_event(line: bytes) -> Told:
    """Read what `write_event` has written.

    Raises:
        ValueError, LookupError, TypeError: the line is something else.
    """
    ((kind, value),) = dict(json.loads(line)).items()
    if kind == "alive":
        return Alive()
    if kind == "note":
        return Note(value)
    if kind == "progress":
        return Progress(**value)
    if kind == "error":
        return read_error(value)
    if kind == "scores":
        answers = [Likelihood(**answer) for answer in value["answers"]]
        return Scores(**{**value, "answers": answers, "images": _plans(value["images"])})
    if kind == "opened":
        sampling, images = Sampling(**value["sampling"]), ImageConfig(**_tuples(value["images"]))
        return Opened(value["name"], sampling, images)
    if kind != "piece":
        raise ValueError(f"an event is a {kind!r:.40}")
    result = value["result"]
    return Piece(**{**value, "result": None if result is None else _result(result)})


def _result(values: Mapping[str, Any]) -> Result:
    read = {
        "images": _plans(values["images"]),
        "sampling": Sampling(**values["sampling"]),
        "timings": Timings(**values["timings"]),
        "rounds": dict(values["rounds"]),
    }
    return Result(**{**values, **read})


def _plans(values: Sequence[Mapping[str, Any]]) -> list[ImagePlan]:
    return [ImagePlan(**_tuples(plan)) for plan in values]


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with tuples again, where JSON has lists."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
