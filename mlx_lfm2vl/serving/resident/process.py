"""The life of a resident process: it listens, loads when it is asked, and ends by itself.

`start` starts it, with the path of its socket, what it shall load as JSON, and the number
of a descriptor through which it says that it listens.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

from .place import Wanted
from .server import ResidentServer

READY = b"ready\n"
FINISH_SECONDS = 30.0  # that running answers get when the process is told to end
LOOK_SECONDS = 0.5  # between two looks whether it is time to end


def main() -> NoReturn:
    """Run the process."""
    path, wanted, ready = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    values = json.loads(wanted)
    server = ResidentServer(path, Wanted(**{**values, "adapters": tuple(values["adapters"])}))
    signal.signal(signal.SIGTERM, lambda *_: server.ends.set())
    with suppress(OSError):  # whoever started it may have left
        os.write(int(ready), READY)
    os.close(int(ready))
    serve(server)
    os._exit(0)  # without interpreter shutdown: threads may still be reading


def serve(server: ResidentServer) -> None:
    """Take calls until the process is told to end, or was idle for long enough."""
    path = str(server.server_address)
    own = os.stat(path).st_ino
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    while not server.ends.wait(LOOK_SECONDS):
        is_due = server.keep_alive is not None and server.idle_seconds >= server.keep_alive
        if is_due or not _is_there(path, own):
            break
    # First the name goes: who comes now starts another process, and is not sent away by this one.
    if _is_there(path, own):
        with suppress(OSError):
            os.unlink(path)
    server.shutdown()
    until = time.monotonic() + FINISH_SECONDS
    server.core.stop(FINISH_SECONDS)
    while server.idle_seconds == 0 and time.monotonic() < until:
        time.sleep(0.02)
    server.server_close()


def _is_there(path: str, inode: int) -> bool:
    """Whether the socket can still be found: the folder may have been deleted."""
    try:
        return os.stat(path).st_ino == inode
    except OSError:
        return False
