"""A core whose answers a test writes, a protocol of one line, and the application over both."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from mlx_lfm2vl.errors import InputError, Lfm2VLError
from mlx_lfm2vl.generation.result import Piece, Result, Timings
from mlx_lfm2vl.options import Sampling
from mlx_lfm2vl.serving.core import Status
from mlx_lfm2vl.serving.exchange import Frame, Terms
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import App, Fronts, Settings
from mlx_lfm2vl.serving.http.errors import error_reply
from mlx_lfm2vl.serving.meter import Meter
from mlx_lfm2vl.serving.request import Request


def result(text: str) -> Result:
    return Result(
        text=text,
        token_ids=[1, 2],
        finish_reason="stop",
        prompt_tokens=7,
        image_tokens=0,
        images=[],
        sampling=Sampling(),
        seed=0,
        timings=Timings(0, 0, 0),
        peak_memory_bytes=0,
        cached_tokens=3,
    )


def pieces(*texts: str) -> list[Piece]:
    """The pieces of an answer, the last one with its result."""
    *first, last = texts
    whole = result("".join(texts))
    return [*(Piece(text, [1]) for text in first), Piece(last, [2], whole)]


@dataclass
class Asked:
    """A request that the core was given."""

    request: Request
    deliver: Any
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class ScriptedCore:
    """Delivers the same events to every request, or those that the test delivers itself."""

    events: list[Any] = field(default_factory=list)
    refusal: Lfm2VLError | None = None
    asked: list[Asked] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)
    model: str | None = "demo"
    waiting: int = 2
    meter: Meter = field(default_factory=Meter)

    models = {"demo": SimpleNamespace(name="demo"), "org/other": SimpleNamespace(name="org/other")}

    def submit(self, request: Request, deliver: Any) -> Asked:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(asked := Asked(request, deliver))
        for event in self.events:
            deliver(event)
        return asked

    def status(self) -> Status:
        return Status(self.model, 1, self.waiting, self.meter)

    def stop(self, seconds: float) -> None:
        self.stopped.append(seconds)


class Echo:
    """A protocol: {"prompt": text, "n": answers, "stream": true}."""

    def __init__(self, body: Any, _terms: Terms) -> None:
        if not isinstance(body.get("prompt"), str):
            raise InputError("prompt is missing")
        self.requests = [Request(body["prompt"])] * body.get("n", 1)
        self.streams = body.get("stream", False)
        self._texts = [""] * len(self.requests)

    def begin(self) -> list[Frame]:
        return [Frame("begin")]

    def add(self, index: int, event: Any) -> list[Frame]:
        if not isinstance(event, Piece):
            return []
        self._texts[index] += event.text
        return [Frame({"text": event.text})] if event.text else []

    def end(self) -> list[Frame]:
        return [Frame("[DONE]", event="end")]

    def fail(self, error: Exception) -> list[Frame]:
        return [Frame(error_reply(error)[2])]

    def body(self) -> dict[str, Any]:
        return {"texts": self._texts}


def make_app(core: Any, *, access: Access | None = None, **settings: Any) -> App:
    """The application, with `Echo` at /v1/echo."""
    fronts = Fronts({"/v1/echo": Echo}, {"/v1/double": lambda body, _: {"n": 2 * body["n"]}})
    find: Any = None
    return App(core, Terms(find), access or Access(), fronts, Settings(**settings))
