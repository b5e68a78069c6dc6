"""A client of MCP for tests: it speaks to a server in this process, line by line."""

import itertools
import json
import os
import threading
from typing import Any

from mlx_lfm2vl.serving.mcp.server import Server, Toolbox


class McpClient:
    """Both ends of a server's pipes.

    Attributes:
        gone: how often the server has noticed that nobody reads.
    """

    def __init__(self, toolbox: Toolbox) -> None:
        (theirs, mine), (answers, out) = os.pipe(), os.pipe()
        self._to, self._from = os.fdopen(mine, "wb", buffering=0), os.fdopen(answers, "rb")
        self._streams = os.fdopen(theirs, "rb"), os.fdopen(out, "wb")
        self._numbers = itertools.count(1)
        self.gone = 0
        server = Server(toolbox, self._streams[1], self._note)
        self._thread = threading.Thread(target=server.serve, args=[self._streams[0]])
        self._thread.start()

    def _note(self) -> None:
        self.gone += 1

    def write(self, line: bytes) -> None:
        """Send a line as it is."""
        self._to.write(line + b"\n")

    def read(self) -> Any:
        """Return the next message of the server."""
        return json.loads(self._from.readline())

    def send(self, method: str, params: Any = None, **rest: Any) -> int:
        """Send a request; returns its id."""
        number = next(self._numbers)
        given = {} if params is None else {"params": params}
        message = {"jsonrpc": "2.0", "id": number, "method": method, **given, **rest}
        self.write(json.dumps(message).encode())
        return number

    def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        self.write(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode())

    def ask(self, method: str, params: Any = None) -> Any:
        """Send a request; return the result, or the error."""
        number = self.send(method, params)
        answer = self.read()
        assert answer["id"] == number
        return answer.get("result") or answer.get("error", {})

    def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool; return its result."""
        return self.ask("tools/call", {"name": tool, "arguments": arguments})

    def stop_reading(self) -> None:
        """Close the pipe that the server writes to."""
        self._from.close()

    def end(self) -> None:
        """Close what the server reads, and wait for it."""
        self._to.close()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._from.close()
        for stream in self._streams:
            try:
                stream.close()
            except BrokenPipeError:
                assert self.gone
