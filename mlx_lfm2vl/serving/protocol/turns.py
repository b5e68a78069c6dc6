"""The turns of a conversation, whichever protocol they come by, and the parts of their content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...checkpoint.image_config import ImageConfig
from ...errors import InputError
from ...prompt.keys import unknown
from ...prompt.template import Message
from ...prompt.tool_calls import read_calls
from ..exchange import Terms
from .fields import BadField, Fields
from .pictures import Picture, load_pictures, read_file, read_picture

MAX_TURNS = 4096
MAX_PARTS = 4096  # of one turn
MAX_ID = 1000  # characters of a call's id
TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image_url", "input_image")
FILE_TYPES = ("file", "input_file")
NO_SOUND, NO_VIDEO = "the model does not hear", "videos are not read here; send images of them"
OTHER_TYPES = {
    "input_audio": NO_SOUND,
    "audio_url": NO_SOUND,
    "input_video": NO_VIDEO,
    "video_url": NO_VIDEO,
    "video": NO_VIDEO,
}
# Said about a part, and nothing to the model.
PART_BESIDE = ("id", "annotations", "logprobs", "prompt_cache_breakpoint", "cache_control")


@dataclass(frozen=True)
class Turn:
    """One message, whose images are not read yet.

    Attributes:
        role: as chat templates name it.
        content: texts and images in their order.
        calls: as `read_calls` returns them, each with its id if it has one.
        answers: id of the call whose result this is; empty if it names none.
        thoughts: what chat templates write of reasoning, by its key.
    """

    role: str
    content: Sequence[str | Picture] = ()
    calls: Sequence[dict[str, Any]] = ()
    answers: str = ""
    thoughts: dict[str, str] = field(default_factory=dict[str, str])


def read_content(holder: Fields, name: str = "content") -> list[str | Picture]:
    """Read the content of a message: a text, or a list of parts.

    Args:
        holder: the message.
        name: of the field.

    Raises:
        BadField: a part is unknown or wrong.
    """
    value = holder.get(name)
    if value is None or isinstance(value, str):
        text = holder.text(name)
        return [text] if text else []
    parts: list[str | Picture] = []
    items = holder.items(name, most=MAX_PARTS, expected="a text or a list of parts")
    for number, item in enumerate(items):
        if isinstance(item, str):
            parts.append(item)
        else:
            parts.append(_read_part(Fields(item, f"{holder.where(name)}[{number}]")))
    return parts


def _read_part(part: Fields) -> str | Picture:
    kind = part.text("type")
    part.ignore(*PART_BESIDE)
    if kind in TEXT_TYPES or kind == "refusal":
        found: str | Picture = _required_text(part, "refusal" if kind == "refusal" else "text")
    elif kind in IMAGE_TYPES:
        found = read_picture(part)
    elif kind in FILE_TYPES:
        inner = part.inner("file") if kind == "file" else part
        if inner is None:
            raise part.bad("file", "is missing")
        found = read_file(inner)
        inner.close()
    elif kind in OTHER_TYPES:
        raise part.bad("type", f"is {kind}, but {OTHER_TYPES[kind]}")
    else:
        known = (*TEXT_TYPES, *IMAGE_TYPES, *FILE_TYPES)
        if kind is None:
            raise part.bad("type", f"is missing, expected {', '.join(known)}")
        raise BadField(str(unknown(f"{part.where('type')} is", kind, known)), part.where("type"))
    part.close()
    return found


def _required_text(part: Fields, name: str) -> str:
    text = part.text(name)
    if text is None:
        raise part.bad(name, "is missing")
    return text


def checked_calls(holder: Fields, name: str, calls: list[Any]) -> list[dict[str, Any]]:
    """Read tool calls that were sent back.

    Raises:
        BadField: one cannot be read.
    """
    try:
        return read_calls(calls, "the message")
    except InputError as error:
        raise BadField(str(error), holder.where(name)) from None


def joined(turns: Sequence[Turn]) -> list[Turn]:
    """Put turns into the order that chat templates expect.

    System messages at the beginning become one. The results of several calls follow in the order
    of the calls, because templates do not write which call a result belongs to.
    """
    found: list[Turn] = []
    for turn in turns:
        if turn.role == "system" and not turn.content:
            continue
        if turn.role == "system" and len(found) == 1 and found[0].role == "system":
            found[0] = replace(turn, content=[*found[0].content, "\n\n", *turn.content])
        else:
            found.append(turn)
    order: dict[str, int] = {}  # of the calls that the next results answer
    begin = 0
    for place, turn in enumerate([*found, Turn("end")]):
        if turn.role == "tool":
            continue
        found[begin:place] = sorted(
            found[begin:place], key=lambda result: order.get(result.answers, len(order))
        )
        order = {str(call.get("id")): number for number, call in enumerate(turn.calls)}
        begin = place + 1
    return found


def pictures_of(turns: Iterable[Turn]) -> list[Picture]:
    """Return the images of a conversation in their order."""
    return [part for turn in turns for part in turn.content if isinstance(part, Picture)]


def to_messages(turns: Sequence[Turn], terms: Terms, config: ImageConfig) -> list[Message]:
    """Make messages of turns; the bytes of their images are read now.

    Args:
        turns: of a conversation.
        terms: what may be asked for.
        config: image settings in use, for the pages of PDFs.

    Raises:
        BadField: an image cannot be read, or there are too many.
        Unfetched: see `load_pictures`.
    """
    loaded = iter(load_pictures(pictures_of(turns), terms, config))
    messages: list[Message] = []
    for turn in turns:
        parts: list[dict[str, Any]] = []
        for part in turn.content:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
            else:
                parts += [{"type": "image", "image": image} for image in next(loaded)]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        message: Message = {"role": turn.role, **turn.thoughts}
        message["content"] = parts if len(texts) < len(parts) else "".join(texts)
        if turn.calls:
            message["tool_calls"] = list(turn.calls)
        messages.append(message)
    return messages
