"""A started answer: a conversation whose last message is the assistant's goes on from there.

The message is rendered with a mark behind its text, and the prompt ends at the mark. This is what
`continue_final_message` of transformers does.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .keys import is_empty
from .template import Message

MARK = "CONTINUE_FINAL_MESSAGE_TAG "  # the one of transformers, which some templates know


def started_answer(messages: Sequence[Message]) -> str | None:
    """Return the text of a last message of the assistant; None if the last is another's.

    Args:
        messages: as `split_images` returns them.

    Raises:
        InputError: the answer cannot go on, because it ends with an image or calls tools.
    """
    if not messages or messages[-1]["role"] != "assistant":
        return None
    if not is_empty(messages[-1].get("tool_calls")):
        raise InputError(
            "the last message calls tools; add their results as messages of the role 'tool'"
        )
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content
    if not content or content[-1]["type"] != "text":
        raise InputError("the last message is the assistant's and does not end with text")
    return "".join(part["text"] for part in content if part["type"] == "text")


def with_start(messages: Any, start: str) -> Any:
    """Add the start of an answer to a conversation, which may still be anything.

    Raises:
        InputError: its last message is a started answer already.
    """
    if not isinstance(messages, list | tuple) or not messages:
        return messages  # refused later
    last = messages[-1]
    if isinstance(last, dict) and last.get("role") == "assistant":
        raise InputError(
            "answer_start cannot follow a message of the assistant; put it into that message"
        )
    return [*messages, {"role": "assistant", "content": start}]


def marked(messages: Sequence[Message]) -> list[Message]:
    """Put the mark behind the text of the last message."""
    *before, last = messages
    content = last["content"]
    if isinstance(content, str):
        content += MARK
    else:
        content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + MARK}]
    return [*before, {**last, "content": content}]


def until_mark(text: str, messages: Sequence[Message]) -> str:
    """Cut a rendered conversation at its mark.

    Args:
        text: what the template made of `marked(messages)`.
        messages: with the started answer.

    Raises:
        InputError: the template leaves out the started answer or a part of it.
    """
    content = messages[-1]["content"]
    start = content if isinstance(content, str) else content[-1]["text"]
    at = text.rfind(MARK.strip())
    if at < 0 or start.strip() not in text[:at]:
        raise InputError("the chat template does not keep the start of the answer")
    # A template that trims messages has removed spaces from the mark, too.
    return text[:at] if text.startswith(MARK, at) else text[:at].rstrip()
