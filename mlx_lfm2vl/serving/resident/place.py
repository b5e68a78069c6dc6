"""Where a process that stays is found: a private folder with one socket for each model.

Nobody but the user can enter the folder, and each side of a connection asks the system who the
other one is.
"""

from __future__ import annotations

import binascii
import json
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from ... import __version__
from ...errors import Lfm2VLError

MAX_PATH = 103  # bytes of a socket's path on macOS, without the NUL; Linux takes 107
MAX_SHOWN = 20  # letters of a model's name in that of its socket
SOCKET, LOCK, LOG = ".sock", ".lock", ".log"
# macOS has no names for these in `socket`: see unix(4) there.
SOL_LOCAL, LOCAL_PEERCRED, LOCAL_PEERPID = 0, 1, 2
# What both sides must have in common: they exchange the dataclasses of one version.
PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = f"{__version__} {PACKAGE}"


@dataclass(frozen=True)
class Wanted:
    """The model that a process holds, as its user named it; paths are absolute.

    Attributes:
        model: a folder, a repo id or "demo".
        revision: see `load`.
        dtype: see `load`.
        adapters: each with its weight behind a colon, if it has one.
        draft_model: see `load_drafter`.
    """

    model: str
    revision: str | None = None
    dtype: str | None = None
    adapters: tuple[str, ...] = ()
    draft_model: str | None = None

    @property
    def name(self) -> str:
        """Name of its files in the folder: the same for everybody who wants the same.

        Two that have the same checksum by chance take turns: a process gives way to another model.
        """
        text = json.dumps(asdict(self), sort_keys=True)
        shown = re.sub(r"[^\w.-]", "", os.path.basename(self.model), flags=re.ASCII)
        return f"{shown[:MAX_SHOWN]}-{binascii.crc32(text.encode()):08x}"


def absolute_name(name: str) -> str:
    """Return the whole path of a folder, since the process has another current folder."""
    path = name if os.path.isdir(name) else os.path.expanduser(name)
    return os.path.abspath(path) if name != "demo" and os.path.isdir(path) else name


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection.

    Attributes:
        pid: of its process; 0 if the system does not tell.
        uid: of its user.
    """

    pid: int
    uid: int


def private_folder() -> str:
    """Return the folder of the sockets; make it if it is not there.

    Raises:
        Lfm2VLError: it cannot be made, or others could reach into it.
    """
    folder = _short_folder()
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        found = os.lstat(folder)
    except OSError as error:
        raise Lfm2VLError(
            f"the folder of resident processes {folder} cannot be made: {error.strerror}; set "
            "XDG_RUNTIME_DIR to a folder of yours, or run without --resident"
        ) from None
    problem = _problem(found)
    if problem:
        raise Lfm2VLError(
            f"the folder of resident processes {folder} {problem}: remove it, or run without "
            "--resident"
        )
    return folder


def _short_folder() -> str:
    """The folder, or one whose sockets have paths that are short enough."""
    folder = _folder()
    if len(os.fsencode(folder)) + 1 + MAX_SHOWN + 9 + len(SOCKET) > MAX_PATH:
        return f"/tmp/mlx_lfm2vl-{os.getuid()}"  # TMPDIR is long on a Mac
    return folder


def _folder() -> str:
    """The folder below the user's own ones; `XDG_RUNTIME_DIR` lies in memory, so it comes first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):
        return os.path.join(runtime, "mlx_lfm2vl")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Caches/mlx_lfm2vl/resident")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.path.join(os.path.abspath(os.path.expanduser(home)), "mlx_lfm2vl", "resident")


def _problem(found: os.stat_result) -> str:
    """Say why a folder is not private; nothing if it is."""
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.getuid():
        return f"belongs to user {found.st_uid}, expected {os.getuid()}"
    mode = stat.S_IMODE(found.st_mode)
    return "" if not mode & 0o077 else f"has mode {mode:03o}, expected 700"


def sockets() -> Sequence[str]:
    """Return the paths of the sockets, of dead processes too; make no folder.

    Raises:
        Lfm2VLError: others could reach into the folder.
    """
    if not os.path.lexists(_short_folder()):
        return []
    folder = private_folder()
    names = sorted(name for name in os.listdir(folder) if name.endswith(SOCKET))
    return [os.path.join(folder, name) for name in names]


def peer_of(connection: socket.socket) -> Peer:
    """Ask the system who is at the other end of a connection.

    Raises:
        OSError: the connection is closed.
    """
    if sys.platform == "darwin":
        # struct xucred: version, uid, and what is not needed here
        raw = connection.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, 76)
        pid = connection.getsockopt(SOL_LOCAL, LOCAL_PEERPID)
        return Peer(pid, struct.unpack_from("=II", raw)[1])
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("=iii", raw)
    return Peer(pid, uid)
