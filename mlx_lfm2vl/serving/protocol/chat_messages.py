"""The messages of a chat request as turns."""

from __future__ import annotations

from .fields import Fields
from .turns import MAX_ID, MAX_TURNS, Turn, checked_calls, joined, read_content

MAX_CALLS = 128  # of one message
EXAMPLE = '[{"role": "user", "content": "Hi"}]'
ROLES = {"developer": "system", "function": "tool"}  # others stay as they are
THOUGHTS = ("thinking", "reasoning", "reasoning_content")  # that some chat templates write
# Said about a message, and nothing to the model. The last three are what other models have thought,
# as some programs keep it.
BESIDE = (
    "id", "name", "annotations", "status", "type", "weight",
    "provider_specific_fields", "reasoning_details", "thinking_blocks",
)  # fmt: skip


def read_turns(fields: Fields) -> list[Turn]:
    """Read `messages`.

    Raises:
        BadField: there are none, or one is wrong.
    """
    turns = [_read_turn(message) for message in fields.objects("messages", most=MAX_TURNS)]
    if not turns:
        missing = "is missing" if fields.get("messages") is None else "is empty"
        raise fields.bad("messages", f"{missing}, expected a list such as {EXAMPLE}")
    return joined(turns)


def _read_turn(message: Fields) -> Turn:
    role = message.word("role", "system", "user", "assistant", "tool", *ROLES)
    if role is None:
        raise message.bad("role", "is missing, expected system, user, assistant or tool")
    message.ignore(*BESIDE)
    message.refuse("audio", "names a sound, and the model does not hear")
    message.refuse("function_call", "is an older form of tool_calls; send those")
    content = read_content(message)
    refusal = message.text("refusal")
    calls = message.items("tool_calls", most=MAX_CALLS)
    thoughts = {name: message.text(name) for name in THOUGHTS}
    turn = Turn(
        ROLES.get(role, role),
        content or ([refusal] if refusal else []),
        checked_calls(message, "tool_calls", calls),
        message.text("tool_call_id", most=MAX_ID) or "",
        {name: text for name, text in thoughts.items() if text},
    )
    if message.get("content") is None and role != "assistant":
        raise message.bad("content", "is missing")
    message.close()
    return turn
