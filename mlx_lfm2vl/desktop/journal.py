"""The journal of a folder run: a file of records that survives the death of its process.

- A record is one line, written by one call and never changed, so a kill leaves at most half a line
  at the end. The next run cuts it off and asks about that picture again.
- Lines reach the disk itself (fsync) once a second and at the end. A kill loses nothing that was
  written; a loss of power loses a second.
- All records have the same settings. A run with others is refused, never mixed in.
- A lock keeps a second run out. It ends with the process.
- A picture that failed, or whose file has changed since, gets a second record. It replaces the
  first one when the run ends.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..whole_folder import check_file, new_file, writing
from .records import START, Record, Settings, encoded, identity, lines_of, settled

SYNC_SECONDS = 1.0


class Journal:
    """A file of records, open and locked.

    Attributes:
        path: of the file.
        failed: number of records with an error that were added.
    """

    def __init__(self, path: Path, settings: Settings, *, restart: bool = False) -> None:
        """
        Args:
            path: of the file; it is made if it is not there.
            settings: of this run.
            restart: begin again; only a file of records is emptied.

        Raises:
            InputError: the file holds something else or records of other settings, another run is
                writing it, or it cannot be written.
        """
        self.path, self._settings = path, settings
        self._done: set[bytes] = set()  # pictures with an answer: see `_mark`
        self._answers: dict[bytes, int] = {}  # key of content and question -> offset
        self._size, self._synced = 0, time.monotonic()
        with writing(path):
            self._file = _opened(path)
            try:
                self._load(restart)
            except BaseException:
                os.close(self._file)
                raise

    def is_done(self, place: Mapping[str, Any], key: str) -> bool:
        """Whether a picture has an answer already; a thread may ask."""
        return _mark(identity(place), key) in self._done

    def is_answered(self, key: str) -> bool:
        """Whether a picture with this content has an answer; a thread may ask."""
        return bytes.fromhex(key) in self._answers

    def answer(self, key: str) -> Record:
        """Return the record with the answer of this content."""
        offset = self._answers[bytes.fromhex(key)]
        with self.path.open("rb") as file:
            file.seek(offset)
            return json.loads(file.readline())

    @property
    def done(self) -> bytes:
        """The pictures with an answer, for another process: 16 bytes for each."""
        return b"".join(sorted(self._done))

    def also_done(self, done: bytes) -> None:
        """Take over the pictures that another process has answered."""
        self._done.update(done[i : i + 16] for i in range(0, len(done), 16))

    def add(self, record: Record) -> None:
        """Append a record.

        Raises:
            InputError: it cannot be written.
        """
        line = encoded(record)
        with writing(self.path):
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            self._note(record, self._size)
            self._size += len(line)
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self.sync()

    def merge(self, lines: bytes, *, with_errors: bool = False) -> None:
        """Append the records of another journal that this one lacks.

        Args:
            lines: complete lines of a journal of the same settings.
            with_errors: also those with an error, which are asked about again otherwise.
        """
        for line in lines.split(b"\n")[:-1]:
            record = json.loads(line)
            lacks = with_errors if "error" in record else not self.is_done(record, record["key"])
            if lacks:
                self.add(record)

    def finish(self, order: Mapping[bytes, int] | None = None) -> None:
        """Put the records in their final form: one for each picture; then close the file.

        Args:
            order: see `settled`.

        Raises:
            InputError: the file cannot be written.
        """
        with writing(self.path):
            self.sync()
        places = [identity(json.loads(line)) for _, line in lines_of(self.path)]
        if order is not None or len(set(places)) < len(places):
            with new_file(self.path) as partial, partial.open("wb") as file:
                for record in settled(self.path, order):
                    file.write(encoded(record))
        self.close()

    def close(self) -> None:
        """Close the file and release it for other runs."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def sync(self) -> None:
        """Wait until the disk has all records."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def _note(self, record: Record, offset: int) -> None:
        """Remember what a record answers."""
        if "error" in record:
            return
        self._done.add(_mark(identity(record), record["key"]))
        self._answers.setdefault(bytes.fromhex(record["key"]), offset)

    def _load(self, restart: bool) -> None:
        """Read what is there, and cut off half a line at its end."""
        for number, (offset, line) in enumerate(lines_of(self.path), 1):
            if not line.endswith(b"\n"):
                if offset == 0 and line[: len(START)] != START[: len(line)]:
                    raise self._foreign(number)
                os.ftruncate(self._file, offset)
                self.sync()
                break
            record = self._read(line, number)
            if not restart:
                self._check(record)
                self._note(record, offset)
            self._size = offset + len(line)
        if restart:
            os.ftruncate(self._file, 0)
            self._size = 0

    def _read(self, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line) if line.startswith(START) else None
            if isinstance(record, dict) and isinstance(record["settings"], str):
                _check_key(record)
                return record
        except (ValueError, KeyError, TypeError):
            pass
        raise self._foreign(number)

    def _foreign(self, number: int) -> InputError:
        return InputError(
            f"line {number} of {self.path} is no record of a run: the file is left alone; choose "
            "another --out"
        )

    def _check(self, record: Record) -> None:
        """Refuse to mix the answers of two settings."""
        ours = self._settings.to_dict()
        if record["settings"] == ours["settings"]:
            return
        differs = [f"{n} {record.get(n)}" for n in ("skill", "model") if record.get(n) != ours[n]]
        of = " and ".join(differs) or "another prompt or other options"
        raise InputError(
            f"{self.path} holds answers of other settings ({of}); choose another --out, or "
            "--restart to begin again"
        )


def _check_key(record: Record) -> None:
    """Check the key of a record; one of an error may have none.

    Raises:
        ValueError: it is no key.
    """
    if len(bytes.fromhex(record["key"])) != 16 and "error" not in record:
        raise ValueError


def _mark(name: bytes, key: str) -> bytes:
    """Return 16 bytes for a picture of this content at this place."""
    return bytes(a ^ b for a, b in zip(name, bytes.fromhex(key), strict=True))


def _opened(path: Path) -> int:
    """Open a file for appending, and lock it.

    Raises:
        InputError: it is no plain file, or another run has it.
    """
    check_file(path)
    while True:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise InputError(f"{path} is being written by another run") from None
        # The other run may have put a new file in place before it ended.
        if os.path.exists(path) and os.path.samestat(os.fstat(file), os.stat(path)):
            return file
        os.close(file)
