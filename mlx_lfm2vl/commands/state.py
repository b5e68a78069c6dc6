"""What the program remembers between runs: the lines typed in a chat, and a secret.

They are in `~/.local/state/mlx_lfm2vl`, or under `XDG_STATE_HOME`, and only their user reads them.
"""

import contextlib
import os
import secrets
from pathlib import Path

from ..errors import InputError
from ..whole_folder import new_file

MAX_LINES, MAX_BYTES = 1000, 2**20
SECRET_BYTES = 32


def state_folder() -> Path:
    """Return the folder, which may not exist yet.

    Raises:
        InputError: there is no home folder.
    """
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return Path(home).expanduser() / "mlx_lfm2vl"
    except RuntimeError:
        raise InputError("there is no home folder; set XDG_STATE_HOME") from None


class History:
    """The lines typed in earlier chats, and those of this one, which are added as they are typed.

    A history that cannot be read or written is no reason to end a chat.
    """

    def __init__(self, *, kept: bool = True) -> None:
        """
        Args:
            kept: False neither reads nor writes a file.
        """
        self._kept = kept

    def lines(self) -> list[str]:
        """Return the last lines, oldest first."""
        if not self._kept:
            return []
        try:
            with self._path().open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_BYTES))
                text = file.read(MAX_BYTES).decode(errors="replace")
        except (OSError, InputError):
            return []
        lines = text.splitlines()[-MAX_LINES:]
        if len(text) > MAX_BYTES // 2:  # a file that only grows would grow forever
            with contextlib.suppress(InputError, OSError), new_file(self._path()) as path:
                _write(path, "".join(f"{line}\n" for line in lines[-MAX_LINES // 2 :]))
        return lines

    def add(self, line: str) -> None:
        """Append a line."""
        if not self._kept or not line.strip():
            return
        with contextlib.suppress(OSError, InputError):
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(path, " ".join(line.splitlines()) + "\n")

    def _path(self) -> Path:
        return state_folder() / "chat_history"


def user_secret() -> bytes:
    """Return random bytes that only this user of this machine has; the first call makes them.

    Without a place to keep them, they are new each time.
    """
    fresh = secrets.token_bytes(SECRET_BYTES)
    try:
        path = state_folder() / "secret"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            own = path.with_name(f"secret.{fresh[:8].hex()}")
            _write(own, fresh.hex())
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(own, path)
            own.unlink()
        kept = bytes.fromhex(path.read_text())
    except (OSError, ValueError, InputError):
        return fresh
    return kept if len(kept) == SECRET_BYTES else fresh


def _write(path: Path, text: str) -> None:
    """Append a text to a file that only its user may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with open(descriptor, "a", encoding="utf-8", errors="replace") as file:
        file.write(text)
