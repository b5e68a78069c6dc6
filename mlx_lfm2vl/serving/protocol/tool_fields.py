"""The functions that a request offers the model, and whether it must call one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .fields import Fields, kind_of

MAX_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
WORDS = ("none", "auto", "required")


@dataclass(frozen=True)
class Tools:
    """What may be called.

    Attributes:
        functions: that the model is told of: `name`, `description` and `parameters` of each.
        allowed: the names of those that it may call.
        must_call: whether the answer is a call.
        parallel: whether one answer may have several calls.
        is_strict: whether the arguments must be valid under the parameters.
    """

    functions: Sequence[dict[str, Any]] = ()
    allowed: Sequence[str] = ()
    must_call: bool = False
    parallel: bool = True
    is_strict: bool = False

    @property
    def is_free(self) -> bool:
        """Whether an answer may be anything that the model writes."""
        may_call_all = len(self.allowed) == len(self.functions)
        return may_call_all and not self.must_call and self.parallel and not self.is_strict


@dataclass(frozen=True)
class _Choice:
    """What `tool_choice` says.

    Attributes:
        mode: "none", "auto" or "required".
        names: of the functions that may be called; None allows all.
        is_single: whether one call is demanded.
    """

    mode: str
    names: Sequence[str] | None = None
    is_single: bool = False


def read_tools(fields: Fields, *, nested: bool) -> Tools:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`.

    Args:
        fields: of the request.
        nested: whether a function stands in the `function` of a tool, as in chat requests.

    Raises:
        BadField: one is wrong, or the choice is of a function that is not there.
    """
    functions: list[dict[str, Any]] = []
    strict = False
    for function in _described(fields, nested=nested):
        described, demands = _read_function(function)
        if described["name"] in (other["name"] for other in functions):
            raise function.bad("name", f"is {described['name']!r} twice")
        functions.append(described)
        strict = strict or demands
    parallel = fields.flag("parallel_tool_calls") is not False
    choice = _read_choice(fields, nested=nested)
    names = [function["name"] for function in functions]
    for name in choice.names or ():
        if name not in names:
            expected = f"expected {', '.join(names)}" if names else "but there are no tools"
            raise fields.bad("tool_choice", f"names the function {name!r:.80}, {expected}")
    if choice.mode == "required" and not functions:
        raise fields.bad("tool_choice", "requires a call, but there are no tools")
    if choice.mode == "none" or not functions:
        return Tools()
    allowed = names if choice.names is None else choice.names
    parallel = parallel and not choice.is_single
    return Tools(functions, allowed, choice.mode == "required", parallel, strict)


def _described(fields: Fields, *, nested: bool) -> Iterator[Fields]:
    """Yield the description of each function."""
    for tool in fields.objects("tools", most=MAX_TOOLS):
        kind = tool.text("type")
        if kind is None:
            raise tool.bad("type", "is missing, expected function")
        if kind != "function":
            raise tool.bad("type", f"is {kind!r:.60}, but only functions can be offered here")
        function = tool.inner("function") if nested else tool
        if function is None:
            raise tool.bad("function", "is missing")
        if nested:
            tool.close()
        yield function


def _read_function(function: Fields) -> tuple[dict[str, Any], bool]:
    """Return the description of a function as the models were taught it, and whether it is strict.

    The models read a plain list of `{"name": ..., "description": ..., "parameters": ...}`.
    """
    name = _read_name(function)
    if not NAME.fullmatch(name):
        raise function.bad("name", f"is {name!r:.80}, expected up to 64 letters, digits, _ and -")
    described: dict[str, Any] = {"name": name}
    if description := function.text("description"):
        described["description"] = description
    if function.inner("parameters") is not None:
        described["parameters"] = function.get("parameters")
    strict = function.flag("strict") is True
    function.close()
    return described, strict


def _read_choice(fields: Fields, *, nested: bool) -> _Choice:
    value = fields.get("tool_choice")
    if isinstance(value, str | None):
        return _Choice(fields.word("tool_choice", *WORDS) or "auto")
    if not isinstance(value, Mapping):
        expected = f"{', '.join(WORDS)} or an object"
        raise fields.bad("tool_choice", f"is {kind_of(value)}, expected {expected}")
    choice = Fields(value, fields.where("tool_choice"))
    kind = choice.word("type", "function", "allowed_tools")
    if kind is None:
        raise choice.bad("type", "is missing, expected function or allowed_tools")
    holder = choice.inner(kind) if nested else choice
    if holder is None:
        raise choice.bad(kind, "is missing")
    if kind == "function":
        found = _Choice("required", [_read_name(holder)], is_single=True)
    else:
        mode = holder.word("mode", "auto", "required") or "auto"
        names = dict.fromkeys(map(_read_name, _described(holder, nested=nested)))
        if not names:
            raise holder.bad("tools", "names no function that may be called")
        found = _Choice(mode, list(names))
    holder.close()
    choice.close()
    return found


def _read_name(function: Fields) -> str:
    name = function.text("name")
    if name is None:
        raise function.bad("name", "is missing")
    return name
