"""One call to a resident process: HTTP over its socket, by hand.

The HTTP client of the standard library takes longer to import than a short answer takes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from ...errors import Lfm2VLError
from .place import Peer, peer_of
from .wire import Told, read_error, read_event

SILENT_SECONDS = 30.0  # a process at work says so every second
MAX_LINE = 2**28  # bytes of one event


class Lost(Exception):
    """Nobody listens at the socket, or the process ended before the call did."""


class Other(Exception):
    """The process holds another version of the model or of this package."""


class Left(Lfm2VLError):
    """Nobody waits for the answer any more."""


class Question:
    """The calls about one question, which another thread may break off.

    Attributes:
        hear: is called with each note about it, and with "" when its images were read.
    """

    def __init__(self, hear: Callable[[str], object]) -> None:
        self.hear = hear
        self._lock = threading.Lock()
        self._call: Call | None = None
        self._is_left = False

    def call(self, path: str) -> Call:
        """Begin a call.

        Raises:
            Left: the question was left.
            Lost, Lfm2VLError: see `Call`.
        """
        with self._lock:
            if self._is_left:
                raise Left("nobody waits for the answer")
            self._call = Call(path)
            return self._call

    def leave(self) -> None:
        """Break off the call that is under way, and allow no other."""
        with self._lock:
            self._is_left = True
            if self._call is not None:
                self._call.leave()


class Call:
    """One call on a connection of its own.

    Attributes:
        peer: the process.
    """

    def __init__(self, path: str, seconds: float = SILENT_SECONDS) -> None:
        """
        Args:
            path: of the socket.
            seconds: longest silence of the process.

        Raises:
            Lost: nobody listens there.
            Lfm2VLError: the process takes no calls, or is another user's.
        """
        self._path, self._seconds = path, seconds
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(path)
            self.peer: Peer = peer_of(self._socket)
        except (FileNotFoundError, ConnectionError):
            self._socket.close()
            raise Lost from None
        except OSError as error:  # a process that takes no calls has a full backlog in the end
            self._socket.close()
            raise Lfm2VLError(
                f"the resident process takes no calls: {path}: {error.strerror or error}; end it "
                "with mlx_lfm2vl resident stop"
            ) from None
        if self.peer.uid != os.getuid():
            self._socket.close()
            raise Lfm2VLError(f"{path} belongs to user {self.peer.uid}, expected {os.getuid()}")

    def events(self, target: str, parts: Sequence[bytes]) -> Iterator[Told]:
        """Send a request and yield its events; closing the iterator breaks the call off.

        Args:
            target: path of the route.
            parts: of the body.

        Raises:
            Lost: the process ended.
            Other: see there.
            Lfm2VLError: the process refused the call, fell silent, or told an error.
        """
        try:
            for line in self._reply("POST", target, parts):
                yield _no_error(read_event(line))
        except (ValueError, LookupError, TypeError):  # half a line of a process that was killed
            raise Lost from None
        finally:
            self._socket.close()

    def object(self, method: str, target: str) -> dict[str, Any]:
        """Call a route whose reply is one object; see `events` for errors."""
        try:
            return json.loads(b"".join(self._reply(method, target, [])) or b"null") or {}
        except ValueError:
            raise Lost from None
        finally:
            self._socket.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def leave(self) -> None:
        """Break the call off while another thread waits for its events, which then are `Lost`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _reply(self, method: str, target: str, parts: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the lines of the reply."""
        size = sum(map(len, parts))
        head = f"{method} {target} HTTP/1.0\r\nHost: resident\r\nContent-Length: {size}\r\n\r\n"
        try:
            with suppress(BrokenPipeError):  # a refusal may come before the whole body is sent
                self._socket.sendall(head.encode() + b"".join(parts[:1]))
                for part in parts[1:]:
                    self._socket.sendall(part)
            with self._socket.makefile("rb") as reply:
                status = self._read_head(reply)
                if status != 200:
                    raise self._refusal(status, reply.read(MAX_LINE))
                while line := reply.readline(MAX_LINE):
                    yield line
        except TimeoutError:
            raise Lfm2VLError(
                f"the resident process {self.peer.pid} has said nothing for {self._seconds:.0f} "
                "seconds: end it with mlx_lfm2vl resident stop"
            ) from None
        except OSError:
            raise Lost from None

    @staticmethod
    def _read_head(reply: BinaryIO) -> int:
        """Return the status and leave the body."""
        words = reply.readline(1000).split()
        while reply.readline(1000).strip():
            pass
        if len(words) < 2 or not words[1].isdigit():
            raise Lost
        return int(words[1])

    @staticmethod
    def _refusal(status: int, body: bytes) -> Exception:
        if status == 409:
            return Other()
        try:
            return read_error(json.loads(body)["error"])
        except (ValueError, LookupError, TypeError):
            return Lfm2VLError(f"the resident process replied with status {status}")


def _no_error(event: Told) -> Told:
    """Return an event; raise it if it is an error.

    No frame of the traceback names the error, or the images that they name too would stay in memory
    until the garbage collector finds the circle.
    """
    if isinstance(event, Lfm2VLError):
        try:
            raise event
        finally:
            del event
    return event
