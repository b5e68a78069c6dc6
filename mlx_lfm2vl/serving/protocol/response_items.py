"""The `input` of a request for a response as turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...prompt.keys import unknown
from .fields import BadField, Fields, kind_of
from .turns import MAX_ID, MAX_TURNS, Turn, checked_calls, joined, read_content

ROLES = ("user", "assistant", "system", "developer")
# Said about an item, and nothing to the model. Reasoning is that of another model.
BESIDE = ("id", "status", "phase")
KINDS = ("message", "function_call", "function_call_output", "reasoning")


def read_turns(fields: Fields) -> list[Turn]:
    """Read `instructions` and `input`.

    Raises:
        BadField: there is no input, or an item of it is wrong.
    """
    instructions = fields.text("instructions")
    turns = [Turn("system", [instructions])] if instructions else []
    given = fields.get("input")
    if isinstance(given, str):
        return joined([*turns, Turn("user", [given])])
    if not isinstance(given, list | None):
        raise fields.bad("input", f"is {kind_of(given)}, expected a text or a list of items")
    items = list(fields.objects("input", most=MAX_TURNS))
    if not items:
        missing = "is missing" if given is None else "is empty"
        raise fields.bad("input", f"{missing}, expected a text or a list of items")
    for item in items:
        _add(turns, item)
    return joined(turns)


def _add(turns: list[Turn], item: Fields) -> None:
    """Add an item. Calls belong to the turn of the assistant that they follow."""
    kind = item.text("type") or "message"
    if kind == "item_reference":
        raise item.bad(
            "type",
            "is item_reference, but no items are kept here; send them again, as programs do with "
            "store false",
        )
    if kind not in KINDS:
        text = str(unknown(f"{item.where('type')} is", kind, KINDS))
        raise BadField(text, item.where("type"))
    item.ignore(*BESIDE)
    if kind == "reasoning":
        return
    if kind == "message":
        turns.append(_message(item))
    elif kind == "function_call_output":
        content = read_content(item, "output")
        item.ignore("name")
        turns.append(Turn("tool", content, answers=item.text("call_id", most=MAX_ID) or ""))
    else:
        call = _call(item)
        if turns and turns[-1].role == "assistant":
            turns[-1] = replace(turns[-1], calls=[*turns[-1].calls, *call])
        else:
            turns.append(Turn("assistant", calls=call))
    item.close()


def _message(item: Fields) -> Turn:
    role = item.word("role", *ROLES)
    if role is None:
        raise item.bad("role", f"is missing, expected {', '.join(ROLES)}")
    if item.get("content") is None:
        raise item.bad("content", "is missing")
    return Turn("system" if role == "developer" else role, read_content(item))


def _call(item: Fields) -> list[dict[str, Any]]:
    call = {
        "id": item.text("call_id", most=MAX_ID) or "",
        "name": item.get("name"),
        "arguments": item.get("arguments"),
    }
    return checked_calls(item, "arguments", [call])
