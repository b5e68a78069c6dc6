"""Calls of tools: one after the other in a thread of their own, with progress and cancellation."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from ...errors import Lfm2VLError, printable
from .messages import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Id,
    Json,
    ProtocolError,
    notification,
)

logger = logging.getLogger(__name__)

MAX_WAITING = 16  # calls, the one that runs among them
REPORT_SECONDS = 0.25  # between two reports of progress
END_SECONDS = 10.0  # that a call has to notice that it was cancelled

Tool = Callable[["Call"], Json]
Done = Callable[[Json | ProtocolError | None], object]


class Call:
    """A call of a tool, as the tool sees it.

    Attributes:
        is_cancelled: whether the client waits no more.
    """

    def __init__(self, send: Callable[[Json], object], token: str | int | None) -> None:
        """
        Args:
            send: sends a message to the client.
            token: with which the client asked for progress; None if it did not.
        """
        self._send, self._token = send, token
        self._lock = threading.Lock()
        self._act: Callable[[], object] | None = None
        self._reported, self._next = 0.0, 0.0
        self.is_cancelled = False

    def cancel(self) -> None:
        """Say that the client waits no more. Any thread may."""
        with self._lock:
            self.is_cancelled, act = True, self._act
        if act:
            act()

    def on_cancel(self, act: Callable[[], object]) -> None:
        """Have something done when the call is cancelled; at once if it is already."""
        with self._lock:
            self._act, now = act, self.is_cancelled
        if now:
            act()

    def report(self, progress: float, text: str) -> None:
        """Tell the client how far the call is, if it wants to know.

        Reports that follow each other too closely are left out.

        Args:
            progress: a number that grows; the report is left out if it does not.
            text: what is being done.
        """
        now = time.monotonic()
        if self._token is None or progress <= self._reported or now < self._next:
            return
        self._reported, self._next = progress, now + REPORT_SECONDS
        params = {"progressToken": self._token, "progress": progress, "message": text}
        self._send(notification("notifications/progress", params))


class Calls:
    """Runs the calls of one client in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Id, Call] = {}
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="mcp tools", daemon=True)
        self._worker.start()

    def add(self, number: Id, call: Call, tool: Tool, done: Done) -> None:
        """Run a tool when its turn comes.

        Args:
            number: id of the request.
            call: for the tool.
            tool: returns the result of the call.
            done: gets that result, an error, or None if the call was cancelled.

        Raises:
            ProtocolError: the id is in use.
        """
        with self._lock:
            if number in self._calls:
                text = f"a call with the id {number!r:.80} is under way"
                raise ProtocolError(INVALID_REQUEST, text)
            is_full = len(self._calls) >= MAX_WAITING
            if not is_full:
                self._calls[number] = call
        if is_full:
            done(refusal(f"{MAX_WAITING} calls are waiting, the limit; try again later"))
            return

        def run() -> None:
            outcome = None if call.is_cancelled else _outcome(tool, call)
            with self._lock:
                del self._calls[number]
            done(None if call.is_cancelled else outcome)

        self._waiting.put(run)

    def cancel(self, number: Id) -> None:
        """Cancel a call; one that has ended already is not there."""
        with self._lock:
            call = self._calls.get(number)
        if call:
            call.cancel()

    def end(self) -> None:
        """Cancel what is under way, and wait for it."""
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        self._waiting.put(None)
        self._worker.join(END_SECONDS)

    def _work(self) -> None:
        while (run := self._waiting.get()) is not None:
            run()


def _outcome(tool: Tool, call: Call) -> Json | ProtocolError:
    try:
        return tool(call)
    except Lfm2VLError as error:
        return refusal(str(error))
    except (OSError, RuntimeError, MemoryError) as error:  # of the system, or of MLX
        return refusal(printable(f"{type(error).__name__}: {error}"))
    except Exception:  # a fault of this program; the client must not wait for ever
        logger.exception("a tool failed")
        return ProtocolError(INTERNAL_ERROR, "the tool failed; its server's log says why")


def refusal(text: str) -> Json:
    """Return the result of a tool that could not do what was asked: the agent may try again."""
    return {"content": [{"type": "text", "text": text}], "isError": True}
