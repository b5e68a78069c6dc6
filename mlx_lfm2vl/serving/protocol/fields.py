"""Reading the fields of a request: every one is read by name, and what is left over is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import InputError
from ...prompt.keys import is_empty

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
        self._beside: set[str] = set()  # names of them that say nothing, or are refused

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

    def number(self, name: str) -> float | None:
        """Return a number."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise self._wrong(value, "a number", name)
        try:
            return None if value is None else float(value)
        except OverflowError:
            raise self.bad(name, "is out of range") from None

    def items(self, name: str, *, most: int, expected: str = "a list") -> list[Any]:
        """Return a list of at most `most` items; empty if the field is not there.

        Args:
            name: of the field.
            most: items.
            expected: what the field may hold, for the error.
        """
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self._wrong(value, expected, name)
        if len(value) > most:
            raise self.bad(name, f"has {len(value)} items, expected at most {most}")
        return list(value)

    def texts(self, name: str, *, most: int, longest: int) -> list[str]:
        """Return a list of texts; one text alone is a list of it."""
        if isinstance(value := self.get(name), str):
            values = [value]
        else:
            values = self.items(name, most=most, expected="a text or a list of texts")
        for item in values:
            if not isinstance(item, str):
                raise self.bad(name, f"holds {kind_of(item)}, expected texts")
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
        self._beside.update(names)

    def refuse(self, name: str, reason: str, *neutral: object) -> None:
        """Refuse a field unless it is empty or has a value that leaves the answer as it is."""
        value = self.get(name)
        self._beside.add(name)
        if not is_empty(value) and value is not False and value not in neutral:
            raise self.bad(name, reason)

    def refuse_each(self, refusals: Refusals) -> None:
        """Refuse several fields."""
        for name, (reason, neutral) in refusals.items():
            self.refuse(name, reason, *neutral)

    def close(self) -> None:
        """Refuse the fields that nobody has asked for.

        Raises:
            BadField: there is one that says something; the message tells the nearest known name, or
                where the list of names is.
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
        names = [name for name in self._known if name not in self._beside]
        if len(names) <= MAX_LISTED:
            return f"expected {', '.join(names)}"
        return "remove it; docs/protocol.md lists the fields"

    def _wrong(self, value: object, expected: str, name: str = "") -> BadField:
        where = self.where(name) if name else self.path
        return BadField(f"{where or 'the body'} is {kind_of(value)}, expected {expected}", where)


def kind_of(value: object) -> str:
    """Return what a value of JSON is, in words."""
    if value is None:
        return "null"
    return next((text for kind, text in KINDS if isinstance(value, kind)), "an object")
