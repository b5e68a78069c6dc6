"""Reads what a model writes to call tools: `[f(x=1, y="a")]` as in Python, or JSON.

Nothing is evaluated. Values are plain data. Python's and JSON's spellings may be mixed, because
chat templates write JSON objects into Python calls.
"""

import math
import re
from collections.abc import Callable
from typing import Any

MAX_CHARACTERS = 2**18
MAX_DEPTH = 32  # of lists and objects

CONSTANTS = {
    "True": True, "true": True, "False": False, "false": False, "None": None, "null": None,
}  # fmt: skip
ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f",
    "\\": "\\", '"': '"', "'": "'", "/": "/", "\n": "",
}  # fmt: skip
WORD = re.compile(
    r"""\s*(?:
    (?P<text>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')
    |(?P<number>[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])
    |(?P<name>[^\W\d][\w.\-]*)
    |(?P<sign>[\[\](){},:=])
    |(?P<end>\Z))""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|.)", re.DOTALL)


def read_call_list(text: str) -> list[Any]:
    """Read calls.

    Args:
        text: a list of calls, or calls without the brackets of a list.

    Returns:
        A pair (name, arguments) for each call written as in Python; any other value as it is.

    Raises:
        ValueError: the text is something else, too long, or nested too deeply.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS} characters")
    return _Reader(text).calls()


class _Reader:
    """Reads a text word by word. `_kind` and `_word` are the word that comes next."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._kind, self._word = "", ""
        self._advance()

    def calls(self) -> list[Any]:
        found = self._items("]", self._call) if self._skip("[") else self._several()
        if self._kind != "end":
            raise self._unexpected()
        return found

    def _several(self) -> list[Any]:
        found = [self._call()]
        while self._skip(","):
            found.append(self._call())
        return found

    def _call(self) -> Any:
        if self._kind != "name":
            return self._value()
        name = self._take()
        self._expect("(")
        return name, self._pairs(")", "=", self._argument_name)

    def _value(self) -> Any:
        kind, word = self._kind, self._take()
        if kind == "text":
            return _unescaped(word[1:-1])
        if kind == "number":
            return as_number(word)
        if kind == "name" and word in CONSTANTS:
            return CONSTANTS[word]
        if word == "[" and kind == "sign":
            return self._items("]", self._value)
        if word == "(" and kind == "sign":
            return self._items(")", self._value)
        if word == "{" and kind == "sign":
            return self._pairs("}", ":", self._key)
        raise ValueError(f"{word[:40]!r} is not a value")

    def _items(self, end: str, read: Callable[[], Any]) -> list[Any]:
        self._go_deeper()
        found: list[Any] = []
        while not self._skip(end):
            found.append(read())
            if not self._skip(","):
                self._expect(end)
                break
        self._depth -= 1
        return found

    def _pairs(self, end: str, between: str, read_key: Callable[[], str]) -> dict[str, Any]:
        def pair() -> tuple[str, Any]:
            key = read_key()
            self._expect(between)
            return key, self._value()

        pairs = self._items(end, pair)
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name is given twice")
        return found

    def _argument_name(self) -> str:
        if self._kind != "name":
            raise ValueError(f"{self._word[:40]!r} is given without the name of an argument")
        return self._take()

    def _key(self) -> str:
        if self._kind != "text":
            raise ValueError(f"{self._word[:40]!r} is not a key")
        return _unescaped(self._take()[1:-1])

    def _go_deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")

    def _advance(self) -> None:
        found = WORD.match(self._text, self._at)
        if found is None:
            rest = self._text[self._at :].strip()
            raise ValueError(f"{rest[:40]!r} cannot be read")
        self._at, self._kind = found.end(), str(found.lastgroup)
        self._word = found[self._kind]

    def _take(self) -> str:
        if self._kind == "end":
            raise self._unexpected()
        word = self._word
        self._advance()
        return word

    def _skip(self, sign: str) -> bool:
        is_next = self._kind == "sign" and self._word == sign
        if is_next:
            self._advance()
        return is_next

    def _expect(self, sign: str) -> None:
        if not self._skip(sign):
            raise self._unexpected()

    def _unexpected(self) -> ValueError:
        if self._kind == "end":
            return ValueError("it ends too early")
        return ValueError(f"{self._word[:40]!r} is not expected there")


def as_number(word: str) -> int | float:
    """Return the value of a number; ValueError if it has none."""
    if re.fullmatch(r"[+-]?[0-9]+", word):
        return int(word)
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]} is too large")
    return value


def _unescaped(text: str) -> str:
    """Replace the escapes of Python and JSON; an unknown one stays as it is, as in Python."""

    def character(found: re.Match[str]) -> str:
        escape = found[1]
        if len(escape) > 1:
            return chr(int(escape[1:], 16))
        return ESCAPES.get(escape, found[0])

    if "\\" not in text:
        return text
    # JSON writes characters beyond U+FFFF as two halves. Half a character is a UnicodeError.
    replaced = ESCAPE.sub(character, text)
    return replaced.encode("utf-16", "surrogatepass").decode("utf-16")
