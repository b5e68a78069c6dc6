"""Files of training data: which ones a path names, and the rows in them."""

import csv
import importlib
import io
import json
import re
from pathlib import Path
from typing import Any

from ..checkpoint.foreign import LONGEST, other_kind
from ..errors import InputError
from ..images.endings import is_image_name
from .keys import unknown

# The rows of an image folder.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Beginnings of the names of files that hold one part of the data, as mlx-lm and Hugging Face write.
PARTS = {
    "train": r"train(ing)?",
    "validation": r"valid(ation)?|val|dev|eval",
    "test": r"test",
}
# Files beside data that hold none, with any ending. Others, such as captions, are refused.
BESIDE_FILES = ("readme", "license", "licence", "thumbs", "desktop")


def find_data(path: Path) -> list[Path]:
    """Return the data files that a path names.

    Args:
        path: a data file; or a folder, which stands for its `metadata.jsonl`, `.csv` or
            `.parquet` or, without one, for all data files in it.

    Returns:
        The files, sorted; none if the folder has only images.

    Raises:
        InputError: a file is of a kind that is not read, or the files are parts of the data with
            different uses.
    """
    if not path.is_dir():
        if path.suffix and path.suffix.lower() not in DATA_SUFFIXES:
            raise unknown(f"{path} is of the unknown kind", path.suffix, DATA_SUFFIXES)
        return [path]
    files = sorted(entry for entry in path.glob("[!.]*") if entry.is_file())
    for file in files:
        is_known = file.suffix.lower() in DATA_SUFFIXES or is_image_name(file)
        if not is_known and file.stem.lower() not in BESIDE_FILES:
            kinds = (*DATA_SUFFIXES, "images")
            raise unknown(f"{file} is of the unknown kind", file.suffix or file.name, kinds)
    data = [file for file in files if file.suffix.lower() in DATA_SUFFIXES]
    metadata = [file for file in data if file.name in METADATA]
    return metadata or _of_one_part(data, path)


def _of_one_part(files: list[Path], folder: Path) -> list[Path]:
    """Refuse training rows together with those that are kept to check the result."""
    parts: dict[str, str] = {}
    for file in files:
        for part, names in PARTS.items():
            if re.match(rf"({names})(?![a-z])", file.name.lower()):
                parts.setdefault(part, file.name)
    if len(parts) > 1:
        raise InputError(
            f"{folder} has data for different uses, {' and '.join(parts.values())}: name one file "
            "at a time"
        )
    return files


def read_entries(path: Path) -> list[tuple[str, Any]]:
    """Read the rows of a file: JSON Lines, a JSON array, a table with a header, or Parquet.

    Returns:
        The place of each row in the file, and the row. A row that is not JSON is an InputError.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    if data and (kind := other_kind(data[:LONGEST])):
        raise InputError(f"{path} {kind}")
    if path.suffix.lower() == ".parquet":
        return [(f"row {number}", row) for number, row in enumerate(_parquet_rows(path, data), 1)]
    text = _text(path, data)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table_rows(text, path)
    whole = _parsed(text)
    if isinstance(whole, list):
        return [(f"row {number}", row) for number, row in enumerate(whole, 1)]
    if isinstance(whole, dict):
        return [(f"line {text[: text.index('{')].count(chr(10)) + 1}", whole)]
    if isinstance(whole, InputError) and text.lstrip().startswith("["):
        raise InputError(f"{path} is {whole}")
    lines = enumerate(text.split("\n"), 1)  # strings may hold other line ends
    return [(f"line {number}", _parsed(line)) for number, line in lines if line.strip()]


def _text(path: Path, data: bytes) -> str:
    """The text of a file, with \\n at the end of lines. PowerShell writes UTF-16."""
    try:
        text = data.decode("utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}; save it as UTF-8") from None


def _table_rows(text: str, path: Path) -> list[tuple[str, Any]]:
    """The rows of a table whose first line names the columns."""
    header = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    if separator not in header and ";" in header:  # as spreadsheets write it in some countries
        separator = ";"
    rows: list[tuple[str, Any]] = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            is_short = None in row.values()
            if None in row or is_short:
                count = len(reader.fieldnames or ())
                amount = "fewer" if is_short else "more"
                rows.append((place, InputError(f"{amount} values than the {count} columns")))
            else:
                rows.append((place, row))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read after line {reader.line_num}: {error}") from None
    return rows


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number with too many digits
        return InputError(f"not JSON ({error})")


def _parquet_rows(path: Path, data: bytes) -> list[dict[str, Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(
            f"{path} is Parquet, which needs pyarrow: python -m pip install pyarrow"
        ) from None
    try:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, ValueError, TypeError, NotImplementedError) as error:  # pyarrow's are of these
        raise InputError(f"{path} cannot be read: {error}") from None
