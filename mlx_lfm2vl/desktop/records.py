"""The records of a folder run: one object for each picture, in a fixed form.

A record holds nothing that depends on time or on the order of the work, so that a run that was
interrupted ends with the same records as one that was not.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Lfm2VLError
from ..images.inputs import Input

SCHEMA = 1
Record = dict[str, Any]
# What every line of a result file begins with; it tells such a file from any other.
START = b'{"schema": 1, "file": '
PLACE = ("file", "page", "seconds", "part")
# Where a record of an equal picture has the place of the one that was asked about.
SAME_AS = {name: "same_as" if name == "file" else f"same_as_{name}" for name in PLACE}


@dataclass(frozen=True)
class Settings:
    """What all records of a file have in common.

    Attributes:
        skill: its name.
        model: as the user named it.
        digest: of everything that may change an answer: see `settings_of`.
    """

    skill: str
    model: str
    digest: str

    def to_dict(self) -> Record:
        """Return the keys that every record has."""
        return {"skill": self.skill, "model": self.model, "settings": self.digest}


def place_of(given: Input) -> Record:
    """Return the keys that say which picture it is.

    `file` is the path as it was found: below a folder given as `photos` it is `photos/cat.jpg`.
    """
    place: Record = {"file": given.name if given.path is None else str(given.path)}
    if given.page is not None:
        place["page"] = given.page
    if given.seconds is not None:
        place["seconds"] = given.seconds
    if given.part is not None:
        part = given.part
        sides = {"width": part.width, "height": part.height}
        place["part"] = {"left": part.left, "top": part.top, **sides}
    return place


def identity(record: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that tell a picture, by its file, page, time and part."""
    place = [record.get(name) for name in PLACE]
    return hashlib.blake2b(json.dumps(place).encode(), digest_size=16).digest()


def answer_record(given: Input, key: str, settings: Settings, answer: Mapping[str, Any]) -> Record:
    """Return the record of an answer.

    Args:
        given: the picture.
        key: of its content and the question.
        settings: of the run.
        answer: what the skill returned, and how it ended.
    """
    return {"schema": SCHEMA, **place_of(given), **answer, **settings.to_dict(), "key": key}


def error_record(given: Input, key: str, settings: Settings, error: Lfm2VLError) -> Record:
    """Return the record of a picture that is not answered.

    Notes of the error are what the model wrote instead of an answer.
    """
    why = {"error": str(error), "exit_code": error.exit_code}
    if written := getattr(error, "__notes__", []):
        why["text"] = written[0]
    return answer_record(given, key, settings, why)


def copied(record: Record, given: Mapping[str, Any]) -> Record:
    """Return the record of a picture that equals another one.

    Args:
        record: of the other one, with its answer.
        given: the place of this one; see `place_of`.
    """
    answer = {name: value for name, value in record.items() if name not in (*PLACE, "schema")}
    same_as = {SAME_AS[name]: record[name] for name in PLACE if name in record}
    return {"schema": SCHEMA, **given, **_without_same_as(answer), **same_as}


def _without_same_as(record: Record) -> Record:
    """Return a record without the place of an equal picture."""
    return {name: value for name, value in record.items() if name not in SAME_AS.values()}


def encoded(record: Record) -> bytes:
    """Return the line of a record, with its end."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return json.dumps(record).encode() + b"\n"


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the bytes of each line of a file."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)


def settled(path: Path, order: Mapping[bytes, int] | None = None) -> Iterator[Record]:
    """Yield the records of a file as they stand: the last one of each picture.

    The first of equal pictures has the answer, and the others name its place, as `copied` does.

    Args:
        path: of the file, whose lines are complete.
        order: number of each picture, by `identity`. With it the records come in this order, after
            those of other pictures. None keeps the order of the file.
    """
    last = {identity(json.loads(line)): offset for offset, line in lines_of(path)}
    offsets: Iterable[int] = sorted(last.values())
    if order is not None:
        numbers = {offset: order.get(name, -1) for name, offset in last.items()}
        offsets = sorted(offsets, key=numbers.__getitem__)
    first: dict[str, int] = {}
    with path.open("rb") as file:
        for offset in offsets:
            record = _read(file, offset)
            if "error" not in record:
                original = _read(file, first.setdefault(record["key"], offset))
                place = {name: record[name] for name in PLACE if name in record}
                record = _without_same_as(record)
                if identity(original) != identity(record):
                    record = copied(original, place)
            yield record


def _read(file: Any, offset: int) -> Record:
    file.seek(offset)
    return json.loads(file.readline())
