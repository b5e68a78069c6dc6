"""Reading the fields of a request: every one is read by name, and what is left over is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...errors import InputError
from ...prompt.keys import is_empty

MAX_DEPTH = 100  # of lists and objects in a body; schemas of tools have some 20
MAX_TEXT = 8 * 2**20  # characters of one text that is no image
MAX_LISTED = 12  # names in a message
KINDS = ((bool, "a boolean"), (int | float, "a number"), (str, "a text"), (list, "a list"))

# By name of a field: why it is refused, and the values that leave the answer as it is.
Refusals = Mapping[str, tuple[str, tuple[Any, ...]]]


class BadField(InputError):
    """A field of a request is wrong.

    Attributes:
        param: which one, such as "messages[0].content"; empty for the whole body.
    """

    def __init__(self, text: str, param: str) -> None:
        super().__init__(text)
        self.param = param


class Fields:
    """An object of JSON whose fields are read one by one. A field that is null is not there.

    Attributes:
        path: where the object stands in the body; empty for the body itself.
    """

    def __init__(self, values: object, path: str = "") -> None:
        """
        Raises:
            BadField: the value is no object.
        """
        self.path = path
        if not isinstance(values, Mapping):
            raise self._wrong(values, "an object")
        self._values: Mapping[str, Any] = values
        self._known: dict[str, None] = {}  # names in the order of reading

    def where(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def get(self, name: str) -> Any:
        """Return the value of a field, whatever it is."""
        self._known[name] = None
        return self._values.get(name)

    def text(self, name: str, *, most: int = MAX_TEXT) -> str | None:
        """Return a text of at most `most` characters."""
        value = self.get(name)
        if not isinstance(value, str | None):
            raise self._wrong(value, "a text", name)
        if value is not None and len(value) > most:
            raise self.bad(name, f"has {len(value)} characters, expected at most {most}")
        return value

    def word(self, name: str, *words: str) -> str | None:
        """Return one of some words."""
        value = self.text(name)
        if value is not None and value not in words:
            raise self.bad(name, f"is {value!r:.60}, expected {', '.join(words)}")
        return value

    def flag(self, name: str) -> bool | None:
        """Return true or false."""
        value = self.get(name)
        if not isinstance(value, bool | None):
            raise self._wrong(value, "true or false", name)
        return value

    def integer(self, name: str, *, least: int, most: int) -> int | None:
        """Return a whole number."""
        value = self.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise self._wrong(value, "a whole number", name)
        if value is not None and not least <= value <= most:
            shown = f"is {value}" if abs(value) < 10**20 else "is out of range"
            raise self.bad(name, f"{shown}, expected {least} to {most}")
        return value

    def items(self, name: str, *, most: int) -> list[Any]:
        """Return a list of at most `most` items; empty if the field is not there."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self._wrong(value, "a list", name)
        if len(value) > most:
            raise self.bad(name, f"has {len(value)} items, expected at most {most}")
        return list(value)

    def texts(self, name: str, *, most: int, longest: int) -> list[str]:
        """Return a list of texts; one text alone is a list of it."""
        value = self.get(name)
        values = [value] if isinstance(value, str) else self.items(name, most=most)
        for item in values:
            if not isinstance(item, str):
                raise self.bad(name, f"holds {_kind(item)}, expected texts")
            if len(item) > longest:
                raise self.bad(name, f"holds {len(item)} characters, expected at most {longest}")
        return values

    def inner(self, name: str) -> Fields | None:
        """Return an object within this one."""
        value = self.get(name)
        return None if value is None else Fields(value, self.where(name))

    def objects(self, name: str, *, most: int) -> Iterator[Fields]:
        """Yield the objects of a list."""
        for number, item in enumerate(self.items(name, most=most)):
            yield Fields(item, f"{self.where(name)}[{number}]")

    def ignore(self, *names: str) -> None:
        """Pass over fields that leave the answer as it is."""
        self._known |= dict.fromkeys(names)

    def refuse(self, name: str, reason: str, *neutral: object) -> None:
        """Refuse a field unless it is empty or has a value that leaves the answer as it is."""
        value = self.get(name)
        if not is_empty(value) and value is not False and value not in neutral:
            raise self.bad(name, reason)

    def refuse_each(self, refusals: Refusals) -> None:
        """Refuse several fields."""
        for name, (reason, neutral) in refusals.items():
            self.refuse(name, reason, *neutral)

    def close(self) -> None:
        """Refuse the fields that nobody has asked for.

        Raises:
            BadField: there is one that says something; the message tells the nearest known name.
        """
        for name, value in self._values.items():
            if name not in self._known and not is_empty(value):
                what = f"{self.path} has an unknown field" if self.path else "unknown field"
                raise BadField(f"{what} {name!r:.60}; {self._hint(name)}", self.where(name[:60]))

    def bad(self, name: str, reason: str) -> BadField:
        """Return the error of a field.

        Args:
            name: of the field; empty for the object itself.
            reason: goes on from its name, as in "is 3, expected 1 or 2".
        """
        where = self.where(name) if name else self.path
        return BadField(f"{where} {reason}", where)

    def _hint(self, name: str) -> str:
        """Return what may be meant by an unknown name."""
        import difflib  # only a mistake needs it

        near = difflib.get_close_matches(name.lower()[:100], self._known, 1)
        if near:
            return f"did you mean {near[0]!r}?"
        return (
            f"expected {', '.join(self._known)}" if len(self._known) <= MAX_LISTED else "remove it"
        )

    def _wrong(self, value: object, expected: str, name: str = "") -> BadField:
        where = self.where(name) if name else self.path
        return BadField(f"{where or 'the body'} is {_kind(value)}, expected {expected}", where)


def _kind(value: object) -> str:
    """Return what a value of JSON is, in words."""
    if value is None:
        return "null"
    return next((text for kind, text in KINDS if isinstance(value, kind)), "an object")


def open_body(body: object) -> Fields:
    """Return the fields of a request.

    Raises:
        BadField: it is no object, or lists and objects are nested too deeply.
    """
    level = [body]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _items(outer)]
        if not level:
            return Fields(body)
    raise BadField(f"the body is nested more than {MAX_DEPTH} deep", "")


def _items(value: Any) -> Iterable[Any]:
    """Return what a list or an object holds."""
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
