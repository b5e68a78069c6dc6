"""Reading a checkpoint's JSON files: limited in size, with typed access to their keys."""

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MAX_INTEGER = 2**31 - 1
MAX_JSON_BYTES = 64 * 2**20  # the largest real file, tokenizer.json, has 18 MB


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is too large, expected at most {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: not a checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
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


class Section:
    """One JSON object with typed access to its keys.

    Every method raises `CheckpointError` if the key is missing or its value is not as expected. The
    message names the key.
    """

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{name} is missing or not a JSON object")
        self.values, self.name = values, name

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer from 1 to `MAX_INTEGER`."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {value!r}, expected int")
        if not 1 <= value <= MAX_INTEGER:
            raise CheckpointError(f"{self.name}: {key} is {value:.6g}, expected 1 to {MAX_INTEGER}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number above 0."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {value!r}, expected float")
        if not 0 < value < float("inf"):
            raise CheckpointError(f"{self.name}: {key} is {value}, expected a positive number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return a boolean."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {value!r}, expected bool")
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
            raise CheckpointError(f"{self.name}: {key} {value!r} is not supported, only {expected}")
