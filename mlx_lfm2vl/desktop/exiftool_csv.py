"""A table from which exiftool writes captions and keywords into the photos themselves.

exiftool -csv=captions.csv -sep "; " photos
"""

import csv
import io
import os
from pathlib import Path

from ..errors import InputError
from ..whole_folder import writing
from .texts import Texts

COLUMNS = ("SourceFile", "XMP-dc:Description", "XMP-dc:Subject")
SEPARATOR = "; "  # for exiftool's -sep, between keywords


class ExiftoolCsv:
    """A table of photos and their texts. A row is added at a time, in one line each."""

    def __init__(self, path: Path) -> None:
        """Begin a table, or go on with one.

        A line that was not written to its end is taken away.

        Raises:
            InputError: the file is another one, or cannot be written.
        """
        self._path = path
        header = _line(COLUMNS)
        with writing(path):
            found = path.read_bytes() if path.exists() else b""
            if found and not found.startswith(header):
                raise InputError(f"{path} is no table of --exiftool-csv; choose another name")
            whole = found[: found.rindex(b"\n") + 1] if found else header
            self._lines = set(whole.splitlines(keepends=True))
            if whole != found:
                path.write_bytes(whole)

    def add(self, photo: Path, texts: Texts) -> None:
        """Add a row, unless the same is there.

        Raises:
            InputError: the file cannot be written.
        """
        keywords = SEPARATOR.join(word.replace(";", ",") for word in texts.keywords)
        row = (os.path.abspath(photo), _one_line(texts.description), _one_line(keywords))
        line = _line(row)
        if line not in self._lines:
            with writing(self._path), self._path.open("ab") as file:
                file.write(line)
            self._lines.add(line)


def _line(cells: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="surrogateescape")


def _one_line(text: str) -> str:
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
