"""Prompts of `llm` as questions to an engine: messages with images in their turn, and options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm import Attachment, Prompt
from llm.parts import AttachmentPart, Part, TextPart, ToolCallPart, ToolResultPart

from ...constraints.constraint import json_schema
from ...errors import InputError, NetworkError
from ...images.inputs import Input
from ...images.pages import PageOptions, expand_inputs
from ...images.read import NamedBytes
from ...options import AnswerOptions, ImageOptions

if TYPE_CHECKING:
    from ...checkpoint.image_config import ImageConfig
    from ...images.limits import ImageLimits
    from ...images.source import ImageSource
    from ...prompt.messages import Message

IMAGE_NAMES = {field.name for field in fields(ImageOptions)}
ANSWER_NAMES = {field.name for field in fields(AnswerOptions)}


def read_options(prompt: Prompt) -> AnswerOptions:
    """Return the options of an answer.

    Raises:
        InputError: one is out of range, or a schema cannot be followed.
    """
    given = {name: value for name, value in prompt.options if value is not None}
    if "draft_tokens" in given and "draft_model" not in given:
        raise InputError("draft_tokens needs draft_model: add it, or remove draft_tokens")
    images = {name: value for name, value in given.items() if name in IMAGE_NAMES}
    answer = {name: value for name, value in given.items() if name in ANSWER_NAMES}
    return AnswerOptions(
        **answer,
        image_options=ImageOptions(**images),
        constraint=json_schema(prompt.schema) if prompt.schema else None,
        tools=[_tool(tool) for tool in prompt.tools] or None,
    )


def _tool(tool: Any) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parameters": tool.input_schema}


def read_messages(prompt: Prompt, config: ImageConfig, limits: ImageLimits) -> list[Message]:
    """Return a prompt with all messages before it.

    The images of a message come before its text, as for `generate`. A PDF stands for its pages.

    Args:
        prompt: of llm.
        config: image settings, which say at which size a page loses nothing.
        limits: on the images, their number too.

    Raises:
        InputError: an attachment cannot be read, or there are too many images.
        NetworkError: an attachment's address cannot be fetched.
    """
    messages: list[Message] = []
    images = 0
    for message in prompt.messages:
        if message.role == "tool":
            results = [part for part in message.parts if isinstance(part, ToolResultPart)]
            read = [_tool_message(part, config, limits) for part in results]
        else:
            read = [_message(message.role, message.parts, config, limits)]
        for each in read:
            messages.append(each)
            images += sum(part["type"] == "image" for part in each["content"])
            limits.check_count(images)
    if not messages:
        raise InputError("the prompt is empty")
    return messages


def _message(role: str, parts: Sequence[Part], config: ImageConfig, limits: ImageLimits) -> Message:
    attachments = [part.attachment for part in parts if isinstance(part, AttachmentPart)]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    message: Message = {"role": role, "content": _content(attachments, texts, config, limits)}
    calls = [
        {"name": part.name, "arguments": part.arguments}
        for part in parts
        if isinstance(part, ToolCallPart)
    ]
    return {**message, "tool_calls": calls} if calls else message


def _tool_message(part: ToolResultPart, config: ImageConfig, limits: ImageLimits) -> Message:
    content = _content(part.attachments, [part.output], config, limits)
    return {"role": "tool", "name": part.name, "content": content}


def _content(
    attachments: Sequence[Attachment | None],
    texts: Sequence[str],
    config: ImageConfig,
    limits: ImageLimits,
) -> list[dict[str, Any]]:
    images = [
        {"type": "image", "image": source}
        for attachment in attachments
        if attachment is not None
        for source in _sources(attachment, config, limits)
    ]
    return [*images, *({"type": "text", "text": text} for text in texts)]


def _sources(
    attachment: Attachment, config: ImageConfig, limits: ImageLimits
) -> Iterator[ImageSource]:
    """The image of an attachment, or the pages of a PDF."""
    given = Input(attachment.path or attachment.url or "an attachment", _source(attachment))
    for picture in expand_inputs([given], PageOptions(), config, limits):
        yield picture.source


def _source(attachment: Attachment) -> ImageSource:
    if attachment.path and not attachment.content:
        return Path(attachment.path)  # our reader knows limits
    try:
        data = NamedBytes(attachment.content_bytes() or b"")
    except Exception as error:  # noqa: BLE001  of whichever library llm fetches with
        raise NetworkError(f"{attachment.url} cannot be fetched: {error}") from None
    data.name = attachment.url or "an attachment"
    return data
