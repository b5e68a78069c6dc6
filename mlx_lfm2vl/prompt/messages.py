"""Messages as people write them, and the images in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError
from ..images.source import ImageSource
from .template import Message

# Keys that hold the source of an image, in transformers' and OpenAI's messages.
IMAGE_KEYS = ("image", "url", "path", "image_url")


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


def split_images(messages: Sequence[Message]) -> tuple[list[Message], list[ImageSource]]:
    """Separate messages from their images.

    Returns:
        The messages, in which each image is only `{"type": "image"}`, and the images in order.

    Raises:
        InputError: there are no messages, or one is not a message.
    """
    if not messages:
        raise InputError("there are no messages")
    plain: list[Message] = []
    sources: list[ImageSource] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f"a message is {message!r:.80}, expected a dict with a role")
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            items = []
            for item in content:
                source = image_of(item)
                if source is None:
                    items.append({"type": "text", "text": item} if isinstance(item, str) else item)
                else:
                    sources.append(source)
                    items.append({"type": "image"})
            message = {**message, "content": items}
        plain.append(message)
    return plain, sources


def image_of(item: Any) -> ImageSource | None:
    """Return the source of an image item of a message; None for any other item.

    Raises:
        InputError: an image item has no source, or one of a wrong type.
    """
    if not isinstance(item, dict) or item.get("type") not in ("image", "image_url"):
        return None
    source = next((item[key] for key in IMAGE_KEYS if item.get(key) is not None), None)
    if isinstance(source, dict):
        source = source.get("url")
    if not isinstance(source, (str, Path, bytes, Image.Image)):
        raise InputError(f"an image item holds {source!r:.60}, expected a path, URL or PIL image")
    return source
