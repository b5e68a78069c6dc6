"""Starting a resident process, once however many want it, and ending one."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from ...errors import Lfm2VLError
from .http import Call, Lost
from .place import LOCK, LOG, PACKAGE, SOCKET, Wanted

START_SECONDS = 60.0  # until it listens, which it does before it loads the model
REPLY_SECONDS = 5.0  # that a process has to reply that it will end
STOP_SECONDS = 35.0  # until it is killed; it gives running answers 30 of them
LOOK_SECONDS = 0.02
WITHOUT_A_WORD = "it left no word, as when it is killed or memory is full"
PARENT = os.path.dirname(PACKAGE)
# No folder but that of this package is added to where Python looks for modules.
PROGRAM = (
    f"import sys; sys.path.append({PARENT!r}); "
    "from mlx_lfm2vl.serving.resident.process import main; main()"
)


def start(path: str, wanted: Wanted, prepare: Callable[[], object]) -> None:
    """Start a process that listens at a socket, unless one does already.

    Args:
        path: of the socket, in a folder of `private_folder`.
        wanted: the model.
        prepare: called first; it makes sure that the files of the model are there.

    Raises:
        Lfm2VLError: it cannot be started, or does not listen in time.
    """
    prepare()
    base = path.removesuffix(SOCKET)
    try:
        with _locked(base + LOCK):
            if listens(path):
                return
            with suppress(FileNotFoundError):
                os.unlink(path)
            _launch(path, wanted, base + LOG)
    except OSError as error:
        what = error.filename or os.path.dirname(path)
        raise Lfm2VLError(
            f"a resident process cannot be started: {what}: {error.strerror}; run without "
            "--resident"
        ) from None


def listens(path: str) -> bool:
    """Whether a process takes calls at a socket."""
    try:
        Call(path).close()
    except Lost:
        return False
    return True


def stop(path: str) -> int:
    """End the process at a socket; it finishes its answers. One that does not reply is killed.

    Returns:
        Its pid; 0 if there was none. A socket without a process is removed.
    """
    try:
        call = Call(path, REPLY_SECONDS)
    except Lost:
        with suppress(OSError):
            os.unlink(path)
        return 0
    pid = call.peer.pid
    with suppress(Lost, Lfm2VLError):
        call.object("POST", "/v1/lfm2vl/stop")
        _wait(lambda: not _runs(pid), STOP_SECONDS)
    if _runs(pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _wait(lambda: not _runs(pid), 5.0)
        with suppress(OSError):
            os.unlink(path)
    return pid


def retire(path: str) -> None:
    """Make room for another process at a socket; the one there finishes its answers meanwhile."""
    with suppress(Lost):
        inode = _inode(path)
        Call(path, REPLY_SECONDS).object("POST", "/v1/lfm2vl/stop")
        _wait(lambda: _inode(path) != inode, 5.0)


def last_line(path: str) -> str:
    """Return the last line of the log that belongs to a socket, or why there is none."""
    try:
        with open(path.removesuffix(SOCKET) + LOG, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), WITHOUT_A_WORD)


def _launch(path: str, wanted: Wanted, log: str) -> None:
    """Start the process and wait until it listens."""
    read, write = os.pipe()
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
        output = os.open(log, flags, 0o600)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, path, json.dumps(asdict(wanted)), str(write)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                pass_fds=[write],
                start_new_session=True,
            )
        finally:
            os.close(output)
            os.close(write)
        readable, _, _ = select.select([read], [], [], START_SECONDS)
        if readable and os.read(read, 100):
            process.returncode = 0  # it goes on, and `Popen` need not warn of it
            return
        process.kill()
        process.wait()
        raise Lfm2VLError(f"the resident process has ended as it started: {last_line(path)}")
    finally:
        os.close(read)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a lock that one process at a time can have.

    Raises:
        Lfm2VLError: another one holds it for longer than a start takes.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _wait(lambda: _try_lock(descriptor), START_SECONDS + 10):
            raise Lfm2VLError("another program is still starting the resident process: try again")
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _inode(path: str) -> int:
    """The number of a file; 0 if it is not there."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _runs(pid: int) -> bool:
    with suppress(ChildProcessError):  # one that was started here would stay on as a zombie
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait(is_done: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so; return whether it is."""
    until = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_SECONDS)
    return True
