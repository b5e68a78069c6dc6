"""A jinja2 sandbox in which a template's work, and so its time and memory, has a limit.

A meter counts. One unit is a small step, one item of a list, or 16 characters. The environment
charges what can repeat work or make values: rounds of loops, calls, filters, operators, slices,
literals and output. Whatever multiplies is charged before it happens, and functions that multiply
in other ways are left out. Values are weighed with all they hold, so no step on a value that was
paid for takes more than was paid, up to a constant.

A process of its own with limits would not hold more: macOS does not enforce a limit of memory, and
every prompt would wait for it to start.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateAssertionError, TemplateRuntimeError, nodes, pass_context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

BASE_UNITS = 1_000_000  # some 1 s; a template of the family takes under 1,000 a message
UNITS_PER_INPUT = 64  # work on every unit of the messages
CHARACTERS = 16  # in a unit
CALL = 10  # units of a call
LOOKUP = 2  # and of looking up a key or an attribute
MAX_BITS = 4096  # of an integer
MAX_WIDTH = 1000  # of a padded string
MAX_INDENT = 8

LEFT_OUT = "batch center filesizeformat pprint slice striptags truncate urlize wordwrap xmlattr"
INSTANT = {"abs", "attr", "count", "d", "default", "first", "last", "length", "safe"}
SPREADING = {"dictsort", "groupby", "items", "join", "list", "map", "max", "min", "reject", "sort"}
SPREADING |= {"rejectattr", "reverse", "select", "selectattr", "sum", "unique"}
COMPARING = {"in", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", ">"}
COMPARING |= {"greaterthan", "ge", ">="}
VIEWS = (type({}.keys()), type({}.values()), type({}.items()))


class TooMuchWork(TemplateRuntimeError):
    """The meter has run out, or a step was asked for that has no bound."""


class Meter:
    """What a rendering may still spend."""

    def __init__(self, units: int) -> None:
        self.left = units

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise TooMuchWork("it takes too much work")


METER: ContextVar[Meter] = ContextVar("METER")


def spend(units: int) -> None:
    METER.get().spend(units)


def weight(value: Any) -> int:
    """Return the units of a value with all it holds; at most a little over what is left."""
    total, stack, most = 0, [value], METER.get().left
    while stack and total <= most:
        item = stack.pop()
        total += 1
        if isinstance(item, (str, bytes)):
            total += len(item) // CHARACTERS
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset, *VIEWS)):
            stack += item
        elif isinstance(item, range):
            total += len(item)
        elif isinstance(item, int):
            total += item.bit_length() // 128
        elif isinstance(item, Namespace):
            stack.append(object.__getattribute__(item, "_Namespace__attrs"))
    return total


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with every step that can multiply charged to the meter of the rendering."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, **options: Any) -> None:
        # Constants are not worked out when a template is compiled: no meter runs there.
        super().__init__(optimized=False, finalize=_output, **options)
        for name in LEFT_OUT.split():
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters["tojson"] = tojson
        self.filters = {name: _metered(name, f) for name, f in self.filters.items()}
        self.filters |= {"%loop": _loop, "%made": _made, "%step": _step, "%concat": _concat}
        for name in COMPARING:
            self.tests[name] = _metered(name, self.tests[name])

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _concat(pieces)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Metering(self).visit(super()._parse(source, name, filename))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        spend(CALL + weight(args) + weight(kwargs))
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, (int, float, bytes)):
            raise TooMuchWork("methods of numbers and bytes are not available")
        if isinstance(owner, str):
            args = _check_method(owner, __obj.__name__, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        spend(weight(result))
        return result

    def getitem(self, obj: Any, argument: Any) -> Any:
        spend(LOOKUP)  # filters look up long paths, item by item
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        spend(LOOKUP)
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        spend(1)
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and not numbers:
            pairs = ((left, right), (right, left))
            spend(sum(weight(value) * max(n, 0) for value, n in pairs if isinstance(n, int)))
        elif numbers and operator in ("*", "**"):
            bits = left.bit_length()
            if (bits * right if operator == "**" else bits + right.bit_length()) > MAX_BITS:
                raise TooMuchWork("a number is too large")
        elif operator == "%" and isinstance(left, str):
            _check_percent(left, right)
        elif operator == "+" and not numbers:
            spend(weight(left) + weight(right))
        return super().call_binop(context, operator, left, right)


class _Metering(NodeTransformer):
    """Puts the meter into a parsed template, in filters whose names no template can write."""

    def __init__(self, environment: LimitedEnvironment) -> None:
        self.environment = environment

    def _filtered(self, node: nodes.Expr, name: str, *values: Any) -> nodes.Filter:
        constants = [nodes.Const(value, lineno=node.lineno) for value in values]
        made = nodes.Filter(node, name, constants, [], None, None, lineno=node.lineno)
        return made.set_environment(self.environment)  # pyright: ignore[reportReturnType]

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateAssertionError("recursive loops are not supported", node.lineno)
        size = _size(node)
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "%loop", size)  # pyright: ignore
        return node

    def _visit_function(self, node: Any) -> nodes.Node:
        step = self._filtered(nodes.Const(None, lineno=node.lineno), "%step", _size(node))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = visit_Block = _visit_function

    def _visit_literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        stored = getattr(node, "ctx", "load") != "load"
        return node if stored else self._filtered(node, "%made")

    visit_List = visit_Tuple = visit_Dict = _visit_literal

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        pieces = nodes.List(node.nodes, lineno=node.lineno)
        return self._filtered(self._filtered(pieces, "%made"), "%concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        for holder in (node, *node.ops):
            if not isinstance(holder.expr, nodes.Const):
                holder.expr = self._filtered(holder.expr, "%made")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._filtered(node, "%made") if isinstance(node.arg, nodes.Slice) else node


def _size(node: nodes.Node) -> int:
    return 1 + sum(1 for _ in node.find_all(nodes.Node))


@pass_context
def _output(_context: Any, value: Any) -> Any:
    spend(weight(value))
    return value


def _made(value: Any) -> Any:
    spend(weight(value))
    return value


def _step(_: None, units: int) -> None:
    spend(units)


def _loop(values: Iterable[Any], units: int) -> Iterator[Any]:
    for value in values:
        spend(units)
        yield value


def _concat(pieces: Iterable[Any]) -> str:
    parts = []
    for piece in pieces:
        spend(weight(piece))
        parts.append(str(piece))
    return "".join(parts)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a filter or test charge its values, before and after its work."""
    check = CHECKS.get(name)

    @functools.wraps(function)  # with it, jinja2 sees which first argument is expected
    def metered(*args: Any, **kwargs: Any) -> Any:
        spend(CALL)
        if name not in INSTANT:
            spend(weight(args) + weight(kwargs))
        if name in SPREADING:
            spend(sum(len(value) for value in args if isinstance(value, str)))
        if check:
            args = check(*args, **kwargs)
        result = function(*args, **kwargs)
        if name not in INSTANT:
            spend(weight(result))
        return result

    return metered


def _check_replace(context: Any, text: Any, old: Any, new: Any, *rest: Any) -> tuple[Any, ...]:
    spend(str(text).count(str(old)) * weight(str(new)))
    return (context, text, old, new, *rest)


def _check_join(context: Any, values: Any, separator: Any = "", *rest: Any, **_: Any) -> Any:
    values = list(values)
    spend(len(values) * weight(separator))
    return (context, values, separator, *rest)


def _check_indent(text: str, width: Any = 4, *rest: Any, **_: Any) -> tuple[Any, ...]:
    if (width if isinstance(width, int) else len(width)) > MAX_WIDTH:
        raise TooMuchWork("the width is too large")
    spend(text.count("\n") * MAX_WIDTH // CHARACTERS)
    return (text, width, *rest)


def _check_format(text: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    _check_percent(str(text), (args, kwargs))
    return (text, *args)


def _check_round(value: Any, precision: int = 0, *rest: Any, **_: Any) -> tuple[Any, ...]:
    if abs(precision) > 100:
        raise TooMuchWork("the precision is too large")
    return (value, precision, *rest)


def _check_sum(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    if len(args) > 3 or "start" in kwargs:  # sums of lists copy and copy
        raise TooMuchWork("sum takes no start")
    return args


CHECKS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "replace": _check_replace,
    "join": _check_join,
    "indent": _check_indent,
    "format": _check_format,
    "round": _check_round,
    "sum": _check_sum,
}


def _check_percent(text: str, values: Any) -> None:
    if re.search(r"%[^a-zA-Z%]*(\*|\d{4})", text):
        raise TooMuchWork("a width is too large")
    spend(text.count("%") * (MAX_WIDTH // CHARACTERS + weight(values)))


def _check_method(text: str, name: str, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, ...]:
    """Charge a method of a string for what it can make; return its arguments, read."""
    spend(weight(text))
    values = (*args, *kwargs.values())
    if name in ("translate", "encode"):
        raise TooMuchWork(f"the method {name} is not available")
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        if any(isinstance(value, int) and value > MAX_WIDTH for value in values):
            raise TooMuchWork("the width is too large")
        spend((1 + text.count("\t")) * MAX_WIDTH // CHARACTERS)
    if name in ("format", "format_map"):
        if re.search(r"\{[^{}]*(\{|\d{4})", text.replace("{{", "")):
            raise TooMuchWork("a width is too large")
        spend(text.count("{") * (MAX_WIDTH // CHARACTERS + weight(values)))
    if name == "join" and args:
        args = (list(args[0]), *args[1:])
        spend(len(args[0]) * weight(text) + weight(args))
    if name == "replace" and len(args) >= 2:
        spend(text.count(args[0]) * weight(args[1]))
    if name in ("split", "rsplit", "splitlines"):
        separator = args[0] if args and isinstance(args[0], str) and args[0] else None
        spend(text.count(separator) if separator else len(text))
    return args


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The reference's filter, which neither sorts keys nor escapes HTML."""
    options: dict[str, Any] = {"ensure_ascii": ensure_ascii, "sort_keys": sort_keys}
    options |= {"indent": indent, "separators": separators}
    if indent is None and separators is None:
        return json.dumps(value, **options)
    width = indent if isinstance(indent, int) else len(indent or "")
    if max(width, *map(len, separators or ("", ""))) > MAX_INDENT:
        raise TooMuchWork("the indentation is too wide")
    return _concat(json.JSONEncoder(**options).iterencode(value))
