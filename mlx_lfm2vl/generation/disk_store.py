"""The disk cache: a folder of files that survive the process, up to a number of bytes.

- A file is written under another name and renamed, so that it appears whole. It is not synced: what
  a power failure leaves half-written has a wrong checksum.
- No locks. A file's name says what is in it, so that two processes write the same. Each writes a
  file of its own, and the later one stays. Whoever has a file open reads it to its end, even if
  another process removes it.
- The file unused for longest goes first. Its time of modification is that of its last use.
- Whatever fails costs one note and never an answer.
- Files hold what was in images, so only their owner can read them. Files of others are not read.
"""

import contextlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..disk_space import FULL, SPARE_BYTES, free_bytes, write_failure
from .cache_file import MAX_HEADER_BYTES, Arrays, decode, encode, read_about, write_new

logger = logging.getLogger(__name__)

DISK_BYTES = 2 * 10**9
STALE_SECONDS = 3600.0  # after which an unfinished file is that of a process that died
NAME = re.compile(r"(keys|image)-[0-9a-f]{40}\.safetensors")
PARTIAL = re.compile(rf"\.{NAME.pattern}\.\d+\.[0-9a-f]{{8}}\.partial")
TAG, TAG_TEXT = "CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n"  # for backups


@dataclass(frozen=True)
class Entry:
    """A file of the cache, finished or not.

    Attributes:
        path: where it is.
        nbytes: its size.
        used: when it was last used, in nanoseconds since 1970.
    """

    path: Path
    nbytes: int
    used: int

    @property
    def is_finished(self) -> bool:
        """Whether it is complete under its own name."""
        return bool(NAME.fullmatch(self.path.name))


class DiskStore:
    """Named files in one folder.

    Attributes:
        folder: it need not exist; it is made for the first file.
        nbytes: size that all files together may have.
    """

    def __init__(self, folder: Path | str, nbytes: int = DISK_BYTES) -> None:
        self.folder, self.nbytes = Path(folder).expanduser(), nbytes
        self._bad: set[str] = set()  # names of files that cannot be used
        self._can_write = True

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name, as far as can be told without reading."""
        return name not in self._bad and os.path.isfile(self.folder / name)

    def read(self, name: str) -> Arrays | None:
        """Return the arrays of a file, or None if there is no such file, or none that is whole."""
        if name in self._bad:
            return None
        try:
            arrays, about = decode(self._bytes(name))
            if about.get("name") != name:  # a file that was renamed
                raise ValueError("it is another file")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self.refuse(name, str(error))
            return None
        return arrays

    def refuse(self, name: str, why: str) -> None:
        """Use a file no more, so that it will be replaced; the first time, say so."""
        if not self._bad:
            logger.warning("%s is not used, and will be replaced: %s", self.folder / name, why)
        self._bad.add(name)

    def write(self, name: str, arrays: Mapping[str, mx.array], about: Mapping[str, str]) -> bool:
        """Write a file, if there is room for it; return whether it is there now."""
        if not self._can_write:
            return False
        parts = encode(arrays, {"name": name, **about})
        size = sum(map(len, parts))
        if size > self.nbytes:
            return False
        partial = self.folder / f".{name}.{os.getpid()}.{secrets.token_hex(4)}.partial"
        try:
            self._make_folder()
            self._make_room(size)
            if free_bytes(self.folder) < size + SPARE_BYTES:
                raise OSError(FULL[0], os.strerror(FULL[0]))
            try:
                write_new(partial, parts)
                partial.replace(self.folder / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.unlink()
                raise
        except OSError as error:
            self._can_write = False
            why = write_failure(error, self.folder)
            logger.warning("the cache %s cannot be written: %s", self.folder, why)
            return False
        self._bad.discard(name)
        return True

    def touch(self, names: Sequence[str]) -> None:
        """Note that files were used; the first ones will be kept longest."""
        now = time.time_ns()
        for number, name in enumerate(reversed(names)):
            later = now + 1000 * number
            with contextlib.suppress(OSError):  # gone, or not ours to change
                os.utime(self.folder / name, ns=(later, later))

    def entries(self) -> list[Entry]:
        """Return all files of the cache, the one unused for longest first, and no other file."""
        return sorted(_entries(self.folder), key=lambda entry: entry.used)

    def about(self, entry: Entry) -> dict[str, str]:
        """Return what a file says of itself; nothing if it is damaged or not finished."""
        try:
            return read_about(self._bytes(entry.path.name, MAX_HEADER_BYTES))
        except (OSError, ValueError):
            return {}

    def clear(self) -> tuple[int, int]:
        """Delete all files of the cache; return how many there were, and their bytes.

        Raises:
            OSError: a file cannot be deleted.
        """
        found = self.entries()
        for entry in found:
            entry.path.unlink(missing_ok=True)
        return len(found), sum(entry.nbytes for entry in found)

    def _bytes(self, name: str, most: int = -1) -> bytes:
        """Return the bytes of a file, up to a number.

        Raises:
            OSError: it cannot be opened or read.
            ValueError: it is a link, a pipe, too large, or another user's.
        """
        # A pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(self.folder / name, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise ValueError("it is not a file of this user")
            if found.st_size > max(self.nbytes, DISK_BYTES):
                raise ValueError("it is too large")
            return file.read(most)

    def _make_folder(self) -> None:
        if self.folder.is_dir():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.folder / TAG).write_text(TAG_TEXT)

    def _make_room(self, size: int) -> None:
        """Delete what was unused for longest, until so many bytes more are within the limit."""
        found = self.entries()
        total = sum(entry.nbytes for entry in found) + size
        stale = time.time_ns() - int(STALE_SECONDS * 1e9)
        for entry in found:
            is_dead = not entry.is_finished and entry.used < stale
            if is_dead or (total > self.nbytes and entry.is_finished):
                entry.path.unlink(missing_ok=True)
                total -= entry.nbytes


def _entries(folder: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            for file in found:
                if not (NAME.fullmatch(file.name) or PARTIAL.fullmatch(file.name)):
                    continue
                with contextlib.suppress(FileNotFoundError):  # another process has removed it
                    info = file.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        yield Entry(Path(file.path), info.st_size, info.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return
