"""Puts the images of a row where its messages mark their places."""

import re
from collections.abc import Iterator, Sequence

from ..errors import InputError
from ..images.source import ImageSource
from .parts import Part
from .template import Message

MARK = "<image>"  # in the text of rows, as TRL, LLaMA-Factory and LLaVA write it
# Marks for other models: Qwen, Phi, Llama, InternVL, InternLM, Gemma, Mistral and others. Files
# for Windows programs and web pages hold none of them.
OTHER_MARKS = re.compile(
    r"<\|(?:image|img|image_pad|vision_start|image_start|image_\d+|reserved_image)\|>"
    r"|<image_(?:placeholder|soft_token|\d+)>|<image ?\d+>|<start_of_image>|<ImageHere>"
    r"|<IMG_CONTEXT>|<img>[^<]*</img>|\[IMG\]"
)


def place_images(messages: Sequence[Message], images: Sequence[ImageSource]) -> list[Message]:
    """Give every place for an image its image, in order.

    A place is an image part without an image, or an `<image>` mark in the user's text. Messages
    without places get the images before the user's first text.

    Args:
        messages: as `read_messages` returns them.
        images: the images that stand beside the messages.

    Raises:
        InputError: there are not as many images as places, or it is unclear where they belong.
    """
    parts = [part for message in messages for part in _image_parts(message)]
    places = [part for part in parts if "image" not in part]
    marks = sum(_marks(message) for message in messages)
    if images and len(places) < len(parts):
        raise InputError("there are images both in the messages and beside them")
    if marks and parts:
        raise InputError(f"there are both image parts and {MARK} marks in the text")
    if (marks or places) and marks + len(places) != len(images):
        what = f"{MARK} marks in the text" if marks else "image parts without an image"
        count = marks + len(places)
        raise InputError(f"{what}: {count}, images: {len(images)}; expected as many of both")
    if any(part.get("index", number) != number for number, part in enumerate(places)):
        raise InputError("the indices of the image parts do not count from 0 on")
    pictures: list[Part] = [{"type": "image", "image": image} for image in images]
    if marks or places:
        remaining = iter(pictures)
        return [_filled(message, remaining) for message in messages]
    return _before_first_text(messages, pictures) if pictures else list(messages)


def refuse_other_marks(messages: Sequence[Message]) -> None:
    """Refuse marks of other models in the user's text: they would be letters beside the image.

    Raises:
        InputError: there is one.
    """
    for message in messages:
        texts = [part["text"] for part in _parts(message) if part["type"] == "text"]
        found = OTHER_MARKS.search("\n".join(texts)) if message["role"] == "user" else None
        if found:
            raise InputError(
                f"the text has {found[0]!r:.60}, which marks an image for another model; write "
                f"{MARK} there"
            )


def _parts(message: Message) -> list[Part]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _image_parts(message: Message) -> list[Part]:
    return [part for part in _parts(message) if part["type"] == "image"]


def _marks(message: Message) -> int:
    """Count the marks in the user's text. Elsewhere the same letters are text."""
    texts = [part["text"] for part in _parts(message) if part["type"] == "text"]
    return sum(text.count(MARK) for text in texts) if message["role"] == "user" else 0


def _filled(message: Message, images: Iterator[Part]) -> Message:
    """Replace the places of a message by the next images."""
    if not _marks(message) and not _image_parts(message):
        return message
    content: list[Part] = []
    for part in _parts(message):
        if part["type"] == "image":
            content.append(next(images))
            continue
        first, *rest = part["text"].split(MARK) if message["role"] == "user" else [part["text"]]
        content.append({"type": "text", "text": first})
        for text in rest:
            content += [next(images), {"type": "text", "text": text}]
    return {**message, "content": [part for part in content if part.get("text") != ""]}


def _before_first_text(messages: Sequence[Message], images: list[Part]) -> list[Message]:
    for number, message in enumerate(messages):
        if message["role"] == "user":
            first = {**message, "content": [*images, *_parts(message)]}
            return [*messages[:number], first, *messages[number + 1 :]]
    raise InputError("there are images, and no message of the user that could hold them")
