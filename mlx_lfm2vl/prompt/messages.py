"""Messages as people and other tools write them, read into one form, and the images in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..images.read import EXPECTED
from .keys import is_empty, known_values
from .parts import Part, may_be_image, read_part
from .sources import as_images, read_path_or_base64
from .tool_calls import read_calls

if TYPE_CHECKING:
    from ..images.source import ImageSource

Message = dict[str, Any]

# What chat templates read of a message besides its role and content.
TEMPLATE_KEYS = ("tool_calls", "thinking", "reasoning", "reasoning_content")
# They say nothing to the model, unless the template names them.
MESSAGE_BESIDE = ("id", "name", "tool_call_id", "status")


def user_message(
    prompt: str, images: Sequence[ImageSource] = (), system: str | None = None
) -> list[Message]:
    """Make the messages of one question about some images.

    Args:
        prompt: the question.
        images: the images, which come before the question.
        system: text of a system message; None makes none.
    """
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": prompt})
    messages = [{"role": "user", "content": content}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def as_messages(messages: Sequence[Message] | str) -> Sequence[Message]:
    """Return a conversation; text becomes one message of the user."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def with_image(
    messages: Sequence[Message] | str, image: ImageSource | Sequence[ImageSource] | None
) -> Sequence[Message] | str:
    """Return a conversation, or a question with the images that go with it.

    Raises:
        InputError: there are images beside a conversation, which has its own.
    """
    if image is None:
        return messages
    if not isinstance(messages, str):
        raise InputError("image goes with a question as text; put it in the messages instead")
    return user_message(messages, as_images(image))


def read_messages(messages: object) -> list[Message]:
    """Read messages into one form.

    Returns:
        Messages with a role, and a content that is text or a list of parts as `read_part` returns
        them. Keys that chat templates may use are kept. A system message without content is left
        out.

    Raises:
        InputError: there are no messages, one is not a message, or one holds something unknown.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        kind = type(messages).__name__
        raise InputError(f"messages is of type {kind}, expected a list of messages")
    if not messages:
        raise InputError("there are no messages")
    read = [_read_message(message) for message in messages]
    return [message for message in read if message is not None]


def _read_message(message: object) -> Message | None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InputError(f"a message is {message!r:.80}, expected a dict with a role")
    known = ("role", "content", "images", "type", "weight", *TEMPLATE_KEYS)
    where = f"a message of role {message['role']!r:.40}"
    kept = known_values(message, (*known, *MESSAGE_BESIDE), (), where)
    for key, only in (("type", "message"), ("weight", 1)):
        value = kept.pop(key, only)
        if not isinstance(value, str | int | float) or value != only:
            raise InputError(f"{where} has the {key} {value!r:.40}, expected {only!r}")
    images = _images_beside(kept.pop("images", ()), where)
    calls = kept.pop("tool_calls", None)
    if not is_empty(calls):
        kept["tool_calls"] = read_calls(calls, where)
    content = kept.get("content")
    if content is None and not images and is_empty(kept.get("tool_calls")):
        if message["role"] != "system":
            raise InputError(f"{where} has no content")
        return None
    content = "" if content is None else _read_content(content, message["role"], where)
    if images:
        text = [{"type": "text", "text": content}] if isinstance(content, str) else content
        content = [*images, *text]
    return {**kept, "content": content}


def _read_content(content: object, role: str, where: str) -> str | list[Part]:
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        if role != "tool":
            return [read_part(content)]
        try:
            return json.dumps(content, ensure_ascii=False)  # as templates write a tool's result
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{where} has content that is not plain data: {error}") from None
    if isinstance(content, list | tuple):
        return [read_part(item) for item in content]
    kind = type(content).__name__
    raise InputError(f"{where} has content of type {kind}, expected text or a list")


def _images_beside(images: object, where: str) -> list[Part]:
    """Return parts for Ollama's `images` of a message, which come before its text."""
    if not isinstance(images, list | tuple):
        raise InputError(f"{where} has images of type {type(images).__name__}, expected a list")
    return [{"type": "image", "image": read_path_or_base64(image)} for image in images]


def count_images(messages: object) -> int:
    """Count the images in messages before any of them is read."""
    count = 0
    for message in messages if isinstance(messages, list | tuple) else ():
        if isinstance(message, Mapping):
            content, beside = message.get("content"), message.get("images")
            role = message.get("role")
            if isinstance(role, str) and role == "tool":
                continue  # its content may be any object
            parts = content if isinstance(content, list | tuple) else [content]
            count += sum(may_be_image(part) for part in parts)
            count += len(beside) if isinstance(beside, list | tuple) else 0
    return count


def split_images(messages: object) -> tuple[list[Message], list[ImageSource]]:
    """Separate messages from their images.

    Returns:
        The messages, in which each image is only `{"type": "image"}`, and the images in order.

    Raises:
        InputError: see `read_messages`; or an image part has no image.
    """
    plain: list[Message] = []
    sources: list[ImageSource] = []
    for message in read_messages(messages):
        content = message["content"]
        if not isinstance(content, str):
            images = [part for part in content if part["type"] == "image"]
            if not all("image" in part for part in images):
                raise InputError(f"an image part holds no image, {EXPECTED}")
            sources += [part["image"] for part in images]
            content = [{"type": "image"} if part["type"] == "image" else part for part in content]
        plain.append({**message, "content": content})
    return plain, sources
