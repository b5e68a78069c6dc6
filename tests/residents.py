"""Stand-ins for resident processes, and folders of their own for real ones."""

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_lfm2vl.serving.resident.http import Call, Lost
from mlx_lfm2vl.serving.resident.place import SOCKET, Wanted, private_folder, sockets
from mlx_lfm2vl.serving.resident.start import stop

OK = b"HTTP/1.0 200 OK\r\n\r\n"
DEMO = Wanted("demo")


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for sockets with a short path; its processes end with it."""
    home = Path(tempfile.mkdtemp(dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(home))
        patch.setenv("LD_PRELOAD", "libopenblas.so.0")  # ignored where it is not
        folder = Path(private_folder())
        try:
            yield folder
        finally:
            for path in sockets():
                with contextlib.suppress(Lost):
                    call = Call(path)
                    call.close()
                    if call.peer.pid != os.getpid():  # else it is a fake one
                        stop(path)
            shutil.rmtree(home)


def socket_of(folder: Path, wanted: Wanted = DEMO) -> str:
    """The path at which the process of a model listens."""
    return str(folder / (wanted.name + SOCKET))


class FakeProcess:
    """Listens at a socket and treats each call as the next of its scripts says.

    Attributes:
        requests: what was sent, up to the end of the first part that came.
    """

    def __init__(self, path: str, *scripts: Callable[[socket.socket], object]) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, args=(scripts,), daemon=True)
        self._thread.start()

    def _serve(self, scripts: tuple[Callable[[socket.socket], object], ...]) -> None:
        for script in scripts:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                self.requests.append(connection.recv(10_000))
                script(connection)
        self._listener.close()

    def end(self) -> None:
        """Wait until all scripts were played, and remove the socket."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        Path(self._path).unlink(missing_ok=True)


def says(*data: bytes) -> Callable[[socket.socket], object]:
    """A script: send this and hang up."""
    return lambda connection: connection.sendall(b"".join(data))
