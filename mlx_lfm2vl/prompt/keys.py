"""Known keys of messages, parts and rows. Others are refused by name, never ignored."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError


def known_values(
    given: Mapping[Any, Any], known: Iterable[str], beside: Iterable[str], where: str
) -> dict[str, Any]:
    """Return the values of the known keys, without those that are None.

    Args:
        given: a message, a content part or a row.
        known: keys that are used.
        beside: keys that may be there and are not used.
        where: what `given` is, for the error.

    Raises:
        InputError: there is another key, and its value is not empty. Tables fill the keys that a
            message does not have with empty values.
    """
    known, beside = tuple(known), tuple(beside)
    values = {}
    for key, value in given.items():
        if key in known:
            if value is not None:
                values[key] = value
        elif key not in beside and not is_empty(value):
            raise unknown(f"{where} has an unknown key", key, known)
    return values


def is_empty(value: object) -> bool:
    """Whether a value says nothing: None, or empty text, list or object."""
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name. It tells the nearest known one, or all."""
    import difflib  # only a mistake needs it

    known = tuple(known)
    near = difflib.get_close_matches(str(name).lower()[:100], known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
    return InputError(f"{what} {name!r:.60}; {hint}")
