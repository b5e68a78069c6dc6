"""Files of training data: which ones a path names, and the rows in them."""

import importlib
import io
import json
from pathlib import Path
from typing import Any

from ..checkpoint.foreign import LONGEST, other_kind
from ..errors import InputError
from ..images.endings import is_image_name
from .keys import unknown

METADATA = "metadata.jsonl"  # the rows of an image folder
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
# Files beside data that hold none, with any ending. Others, such as captions, are refused.
BESIDE_FILES = ("readme", "license", "licence", "thumbs", "desktop")


def find_data(path: Path) -> list[Path]:
    """Return the data files that a path names.

    Args:
        path: a data file; or a folder, which stands for its `metadata.jsonl` or, without one, all
            data files in it.

    Returns:
        The files, sorted; none if the folder has only images.

    Raises:
        InputError: a file is of a kind that is not read.
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
    return [file for file in data if file.name == METADATA] or data


def read_entries(path: Path) -> list[tuple[str, Any]]:
    """Read the rows of a file: JSON Lines, a JSON array, or Parquet.

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
    try:
        text = data.decode("utf-8-sig")  # some editors begin with a byte-order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    text = io.StringIO(text, newline=None).read()  # line ends of any kind
    whole = _parsed(text)
    if isinstance(whole, list):
        return [(f"row {number}", row) for number, row in enumerate(whole, 1)]
    if isinstance(whole, dict):
        return [(f"line {text[: text.index('{')].count(chr(10)) + 1}", whole)]
    if isinstance(whole, InputError) and text.lstrip().startswith("["):
        raise InputError(f"{path} is {whole}")
    lines = enumerate(text.split("\n"), 1)  # strings may hold other line ends
    return [(f"line {number}", _parsed(line)) for number, line in lines if line.strip()]


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
