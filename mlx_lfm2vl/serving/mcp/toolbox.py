"""The tools of MCP at work: they read what is allowed, ask the core, and answer with a type.

Agents start a server in every session, and most ask nothing. What only a call needs is imported
then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ...errors import Cancelled, InputError, Lfm2VLError
from ...generation.result import Piece
from ...images.drawn import Refused
from ..request import Progress, Request
from .images import Allowed
from .tools import TOOLS, Tool

if TYPE_CHECKING:
    from ...checkpoint.image_config import ImageConfig
    from ...generation.result import Result
    from ...images.limits import ImageLimits
    from ...images.source import ImageSource
    from ...options import AnswerOptions
    from ...skills.tasks import Task
    from ..core import Core
    from .calls import Call
    from .messages import Json

STAGES = {
    "queue": "waiting, {total} before this",
    "load": "loading the model",
    "encode": "looking at the image, {done} of {total} tokens",
    "prefill": "reading the prompt, {done} of {total} tokens",
}


class Toolbox:
    """The tools of one server.

    Attributes:
        instructions: what an agent should know of all of them.
        listed: the tools as `tools/list` shows them.
    """

    def __init__(
        self,
        core: Callable[[], Core],
        allowed: Allowed,
        limits: ImageLimits,
        max_tokens: int | None = None,
    ) -> None:
        """
        Args:
            core: returns the core that answers.
            allowed: what may be looked at.
            limits: caps on the images.
            max_tokens: longest answer; None leaves it to the skills.
        """
        self._core, self._allowed, self._limits = core, allowed, limits
        self._max_tokens = max_tokens
        self._tools = {tool.name: tool for tool in TOOLS}
        self.listed = [tool.listed(allowed.described) for tool in TOOLS]
        self.instructions = (
            "These tools look at images and PDFs on this machine with a small vision model that "
            f"runs here; nothing leaves the machine. An image is {allowed.described}. "
            "The answers can be wrong: check what matters."
        )

    def run(self, name: str, arguments: Json, call: Call) -> Json:
        """Run a tool; returns a `CallToolResult`.

        Raises:
            Lfm2VLError: an argument is wrong, an image is not allowed or cannot be read, or the
                model's answer is not in the form that was asked for.
        """
        from ...skills.functions import read_answer

        tool = self._tools[name]
        tool.check(arguments)
        call.report(0.5, "reading the image")
        info = self._core().model().info
        task = tool.make(info.kind, arguments)
        page = arguments.get("page", 1)
        sources = [self._picture(word, page, info.images) for word in _words(tool, arguments)]
        messages = task.messages(sources)
        result = self._answered(Request(messages, self._options(task)), call)
        return _tool_result(tool, read_answer(task, result).to_dict(), result)

    def _options(self, task: Task[Any]) -> AnswerOptions:
        most = self._max_tokens
        return task.options if most is None else task.options.changed({"max_tokens": most})

    def _picture(self, word: str, page: int, config: ImageConfig) -> ImageSource:
        """Open what an agent has named; of a PDF, one page."""
        from ...images.pages import PageOptions, expand_inputs

        given = self._allowed.open(word, self._limits)
        chosen = PageOptions(pages=str(page))
        found = next(expand_inputs([given], chosen, config, self._limits))
        if isinstance(found.source, Refused):
            raise found.source.error
        if found.page is None and page != 1:
            raise InputError(f"{given.name} is no PDF and has no page {page}")
        return found.source

    def _answered(self, request: Request, call: Call) -> Result:
        """Have the core answer a request, and tell the client how far it is.

        Raises:
            Lfm2VLError: the core could not answer, or the call was cancelled.
        """
        events: SimpleQueue[Any] = SimpleQueue()
        ticket = self._core().submit(request, events.put)

        def cancel() -> None:
            ticket.cancel()
            events.put(Cancelled("the call was cancelled"))

        call.on_cancel(cancel)
        read = written = 0
        while True:
            event = events.get()
            if isinstance(event, Lfm2VLError):
                try:
                    raise event
                finally:
                    del event  # or its traceback, which names the images, would hold it for long
            if isinstance(event, Progress):
                read += 1
                text = STAGES[event.stage].format(done=event.done, total=event.total)
                call.report(read, text)
            elif isinstance(event, Piece):
                if event.result is not None:
                    return event.result
                written += len(event.token_ids)
                call.report(read + written, f"answering, {written} tokens so far")


def _words(tool: Tool, arguments: Json) -> list[str]:
    return arguments["images"] if tool.takes_many else [arguments["image"]]


def _tool_result(tool: Tool, values: Json, result: Result) -> Json:
    """Return an answer as data, and as text for clients that show or read only that."""
    if tool.name == "detect":
        height, width = result.images[0].size
        boxes = [{"label": box["label"], "pixels": box["pixels"]} for box in values["boxes"]]
        values = {"boxes": boxes, "width": width, "height": height}
    data = {name: values[name] for name in tool.output}
    texts = [data["text"] if "text" in data else json.dumps(data, ensure_ascii=False)]
    if result.finish_reason == "length":
        texts.append("(The answer was too long and was cut off.)")
    return {
        "content": [{"type": "text", "text": text} for text in texts],
        "structuredContent": {**data, "finish_reason": result.finish_reason},
        "isError": False,
    }
