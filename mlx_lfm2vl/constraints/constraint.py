"""What an answer must match: a JSON schema, a regular expression, a list of texts or a grammar.

The functions that make a constraint check it, so that a command can reject a bad one before it
loads anything. This module needs llguidance, which is imported on first use, and not MLX.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal, get_args

from ..errors import InputError
from .bounds import bounded

Kind = Literal["json_schema", "regex", "choice", "grammar"]
MAX_BYTES = 2**17  # of a constraint's text; compiling a larger one can take seconds
MAX_REASON = 300  # characters of the library's message
EXTRA = "constraints need llguidance: pip install llguidance"
# The style in which the models write JSON. `x-guidance` in a schema overrides it.
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Constraint:
    """What an answer must match. `json_schema`, `regex`, `choice` and `grammar` make one.

    What the text says is checked by these, and of one that is made directly when it is first used.

    Attributes:
        kind: what `text` is.
        text: a JSON schema, a regular expression, a JSON list of texts, or a grammar in Lark form.

    Raises:
        InputError: the kind is unknown, or the text is too long.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            expected = ", ".join(get_args(Kind))
            raise InputError(f"kind of constraint is {self.kind!r:.60}, expected {expected}")
        if not isinstance(self.text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"text of the constraint is {self.text!r:.60}, expected a string")
        size = len(self.text.encode(errors="replace"))
        if size > MAX_BYTES:
            raise InputError(f"{self.name} has {size} bytes, expected at most {MAX_BYTES}")

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "the " + {
            "json_schema": "JSON schema",
            "regex": "regular expression",
            "choice": "list of choices",
            "grammar": "grammar",
        }.get(self.kind, "constraint")


def json_schema(schema: Any) -> Constraint:
    """Make a constraint to JSON that is valid under a schema.

    Strings without `maxLength` and integers without limits get one, and an object that lists its
    properties has no others unless it says so; see `bounded`.

    >>> json_schema({"type": "object", "properties": {"name": {"type": "string"}}})

    Args:
        schema: a dictionary, JSON text, a pydantic model or a dataclass.

    Raises:
        InputError: the schema is too long, wrong, or asks for something that cannot be enforced, or
            llguidance is not installed.
    """
    if isinstance(schema, str):
        return _checked(Constraint("json_schema", schema))
    from .python_types import schema_of

    try:
        text = json.dumps(schema_of(schema), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the JSON schema is not JSON: {error}") from None
    return _checked(Constraint("json_schema", text))


def regex(pattern: str) -> Constraint:
    """Make a constraint to text that a regular expression matches as a whole.

    Args:
        pattern: in the syntax of Rust's regex crate, without looking around and back references.

    Raises:
        InputError: see `json_schema`.
    """
    return _checked(Constraint("regex", pattern))


def choice(texts: Sequence[str]) -> Constraint:
    """Make a constraint to one of several texts.

    Args:
        texts: at least one; none is empty.

    Raises:
        InputError: see `json_schema`.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"choices are {texts!r:.80}, expected a list of strings")
    return _checked(Constraint("choice", json.dumps(list(texts), ensure_ascii=False)))


def grammar(lark: str) -> Constraint:
    """Make a constraint to text of a context-free grammar.

    Args:
        lark: in llguidance's form of Lark; its first rule is `start`.

    Raises:
        InputError: see `json_schema`.
    """
    return _checked(Constraint("grammar", lark))


def _checked(constraint: Constraint) -> Constraint:
    compiled(constraint)
    return constraint


@lru_cache(maxsize=32)
def compiled(constraint: Constraint) -> str:
    """Return a constraint as llguidance reads it.

    Raises:
        InputError: see `json_schema`.
    """
    matcher = engine().LLMatcher
    try:
        if constraint.kind == "json_schema":
            found = matcher.grammar_from_json_schema(_schema(constraint), defaults=STYLE)
        elif constraint.kind == "regex":
            found = matcher.grammar_from_regex(constraint.text)
        else:
            is_choice = constraint.kind == "choice"
            lark = _alternatives(constraint) if is_choice else constraint.text
            found = matcher.grammar_from_lark(lark)
        problem = matcher.validate_grammar(found)
    except ValueError as error:
        problem, found = str(error), ""
    if problem and not problem.startswith("WARNING"):
        raise InputError(f"{constraint.name} cannot be used: {_reason(problem)}")
    return found


def engine() -> ModuleType:
    """Import llguidance.

    Raises:
        InputError: it is not installed.
    """
    try:
        import llguidance
    except ImportError:
        raise InputError(EXTRA) from None
    return llguidance


def _schema(constraint: Constraint) -> str:
    try:
        schema = json.loads(constraint.text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the JSON schema is not JSON: {error}") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise InputError(f"the JSON schema is {constraint.text:.60}, expected an object")
    return json.dumps(bounded(schema))


def _alternatives(constraint: Constraint) -> str:
    """Return a grammar of the texts of a `choice`."""
    try:
        texts = json.loads(constraint.text)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise InputError("the list of choices is empty, or not of strings")
    if not all(texts):
        raise InputError("the list of choices holds an empty string; remove it")
    return "start: " + " | ".join(json.dumps(text) for text in dict.fromkeys(texts))


def _reason(problem: str) -> str:
    """Return the library's message in one line, without advice that does not apply here."""
    line = " ".join(problem.partition("\n")[0].split()) or "it is not valid"
    if "regex parse error" in line:
        line = " ".join(problem.split())
    if "'coerce_one_of'" in line:
        return "oneOf, unless its schemas exclude each other; use anyOf"
    return line[:MAX_REASON]
