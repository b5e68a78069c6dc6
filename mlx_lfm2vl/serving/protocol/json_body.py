"""The body of a request as one JSON object, within bounds of depth and of the number of values."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ...errors import InputError
from .fields import kind_of

MAX_DEPTH = 100  # of objects and lists in one another; schemas of tools have some 20
MAX_VALUES = 500_000  # a value takes up to 100 times the memory of its text


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """Parse a body.

    Raises:
        InputError: it is not an object of JSON in UTF-8, or it is too deep or has too many values.
    """
    if not body or body.isspace():
        raise InputError("the body is empty, expected a JSON object")
    if sum(body.count(mark) for mark in b",[{") > MAX_VALUES:
        raise InputError(f"the body has more than {MAX_VALUES:,} values, the limit")
    try:
        # Some programs on Windows write a byte order mark.
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InputError("the body is not UTF-8, expected JSON in UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a number of thousands of digits, too
        # Python goes on with advice for its programmer.
        raise InputError(f"the body is not JSON: {str(error).partition('; ')[0]}") from None
    if not isinstance(value, dict):
        raise InputError(f"the body is {kind_of(value)}, expected a JSON object")
    _check_values(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _check_values(value: object) -> None:
    """Refuse depth that would exhaust the stack, and halves of characters."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str) and not each.isascii():
                _check_text(each)
        if not inner:
            return
        level = inner
    raise _too_deep()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("a text has half of a surrogate pair, which is no character") from None


def _too_deep() -> InputError:
    return InputError(f"the body is nested more than {MAX_DEPTH} levels deep, the limit")
