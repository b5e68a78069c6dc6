"""Calls of tools: in answers, in messages, and the descriptions of the tools themselves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .keys import is_empty

MAX_FILE_BYTES = 2**20  # of tool descriptions, more than a context holds
ARGUMENTS = ("arguments", "parameters")  # some models write the second
BESIDE = ("id", "type", "index")  # keys of a call that say nothing to the model


def parse_calls(text: str) -> list[dict[str, Any]]:
    """Read what an answer has between the markers of tool calls.

    >>> parse_calls('[f(x=1, y="a")]')
    [{'name': 'f', 'arguments': {'x': 1, 'y': 'a'}}]

    Raises:
        ValueError: it cannot be read.
    """
    from .call_syntax import read_call_list  # few answers call anything

    calls: list[dict[str, Any]] = []
    for item in read_call_list(text):
        name, arguments = item if isinstance(item, tuple) else _name_and_arguments(item)
        calls.append({"name": name, "arguments": arguments})
    if not calls:
        raise ValueError("it calls nothing")
    return calls


def read_calls(value: object, where: str) -> list[dict[str, Any]]:
    """Read the `tool_calls` of a message into the form of chat templates.

    Args:
        value: calls as OpenAI and transformers write them, or as `Result.tool_calls` has them.
        where: what the message is, for the error.

    Returns:
        `{"type": "function", "function": {"name": ..., "arguments": {...}}}` for each, with the
        call's other keys.

    Raises:
        InputError: a call is something else.
    """
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} has tool_calls of type {type(value).__name__}, expected a list")
    calls: list[dict[str, Any]] = []
    for call in value:
        try:
            name, arguments = _name_and_arguments(call)
        except ValueError as error:
            raise InputError(f"{where} has a tool call that cannot be read: {error}") from None
        beside = {key: call[key] for key in BESIDE if key in call}
        function = {"name": name, "arguments": arguments}
        calls.append({"type": "function", **beside, "function": function})
    return calls


def read_tools(path: Path) -> list[dict[str, Any]]:
    """Read a file of tool descriptions: a JSON list of functions, in OpenAI's form or bare.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path} has over {MAX_FILE_BYTES} bytes")
    try:
        tools = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(tools, list) or not tools:
        raise InputError(f"{path} holds no list of tools")
    for number, tool in enumerate(tools, 1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{path}: tool {number} has no name; expected "
                '{"name": ..., "description": ..., "parameters": ...}'
            )
    return tools


def _name_and_arguments(call: object) -> tuple[str, dict[str, Any]]:
    """Return what a call in an object says.

    Raises:
        ValueError: it is not a call.
    """
    if not isinstance(call, Mapping):
        raise ValueError(f"{call!r:.60} is not a call")
    function = call.get("function", call)
    if not isinstance(function, Mapping):
        raise ValueError(f"the function is {function!r:.60}, expected an object")
    _refuse_unknown(function, ("name", *ARGUMENTS))
    if function is not call:
        _refuse_unknown(call, ("function",))
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("it names no function")
    return name, _arguments(function)


def _refuse_unknown(given: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key, value in given.items():
        if key not in (*known, *BESIDE) and not is_empty(value):
            raise ValueError(f"the key {key!r:.60} is unknown")


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    given = [function[key] for key in ARGUMENTS if key in function]
    if len(given) > 1:
        raise ValueError("it has arguments and parameters")
    value = given[0] if given else {}
    if isinstance(value, str):  # as OpenAI has them
        from .call_syntax import as_number

        try:
            value = json.loads(value or "{}", parse_float=as_number, parse_constant=as_number)
        except RecursionError:
            raise ValueError("the arguments are nested too deeply") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"the arguments are {value!r:.60}, expected an object")
    return dict(value)
