"""Reading a checkpoint's JSON files: limited in size, with typed access to their keys."""

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .plain_file import read_bytes

MAX_INTEGER = 2**31 - 1
MIN_NUMBER, MAX_NUMBER = 1e-30, 1e30  # float32 holds them and their squares' roots
SHOWN = 60  # characters of a value in a message
MAX_JSON_BYTES = 8 * 2**20  # the largest real file, an index, has 0.1 MB


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Of a key given twice the last value counts, as for transformers. Numbers may still be infinite,
    huge or no numbers at all: `Section` checks those that are used.

    Raises:
        CheckpointError: the file is missing, no plain file, too large, or not a JSON object.
    """
    try:
        data = read_bytes(path, MAX_JSON_BYTES)
        value = json.loads(data)
        if b"\\ud" in data.lower():  # half a character, which no other library takes
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: not a checkpoint") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file gives an empty one.

    Raises:
        CheckpointError: the file is too large or not a JSON object.
    """
    return read_json(path) if path.exists() else {}


def shown(value: Any) -> str:
    """Return a value as a message shows it: on one line and short."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Section:
    """One JSON object with typed access to its keys.

    Every method raises `CheckpointError` if the key is missing or its value is not as expected. The
    message names the key.
    """

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{name} is missing or not a JSON object")
        self.values, self.name = values, name

    def integer(self, key: str, default: int | None = None, *, most: int = MAX_INTEGER) -> int:
        """Return an integer from 1 to `most`."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {shown(value)}, expected int")
        if not 1 <= value <= most:
            raise CheckpointError(f"{self.name}: {key} is {shown(value)}, expected 1 to {most}")
        return value

    def number(self, key: str, default: float | None = None, *, most: float = MAX_NUMBER) -> float:
        """Return a number from `MIN_NUMBER` to `most`."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {shown(value)}, expected float")
        if not MIN_NUMBER <= value <= most:  # a NaN is not
            raise CheckpointError(
                f"{self.name}: {key} is {shown(value)}, expected a positive number "
                f"from {MIN_NUMBER:g} to {most:g}"
            )
        return float(value)

    def within(self, key: str, least: float, most: float) -> None:
        """Check that a number, which may be 0 or negative, is in a range."""
        value = self._value(key, None)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:  # a NaN is not
            raise CheckpointError(
                f"{self.name}: {key} is {shown(value)}, expected {least:g} to {most:g}"
            )

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return a boolean."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {shown(value)}, expected bool")
        return value

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{self.name} has no {key}")
        return value

    def only(self, key: str, *implemented: Any) -> None:
        """Raise `CheckpointError` unless the value is implemented; a missing key passes."""
        value = self.values.get(key)
        if value is not None and value not in implemented:
            expected = " or ".join(repr(choice) for choice in implemented)
            raise CheckpointError(
                f"{self.name}: {key} {shown(value)} is not supported, only {expected}"
            )
