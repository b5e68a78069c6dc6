"""Parts of a message's content, in the spellings in use, read into one form."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from .keys import known_values, unknown
from .sources import read_base64, read_path_or_base64

Part = dict[str, Any]

# What transformers, OpenAI's two interfaces, Anthropic, LangChain and mlx-vlm call them.
TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image", "image_url", "input_image")
IMAGE_KEYS = ("image", "url", "path", "image_url", "base64", "data", "source")
# They say nothing to the model. The image settings decide the resolution, not `detail`.
PART_BESIDE = ("id", "detail", "cache_control", "media_type", "mime_type", "source_type")


def read_part(item: object) -> Part:
    """Read one part of a message's content.

    Returns:
        `{"type": "text", "text": ...}`, or `{"type": "image", "image": source}`. An image part
        without a source is a place for an image that stands elsewhere: `{"type": "image"}`, with
        the `index` of that image if the part has one.

    Raises:
        InputError: the part is of another type, holds an unknown key, or not what its type says.
    """
    if isinstance(item, str):
        return {"type": "text", "text": item}
    if not isinstance(item, Mapping):
        raise InputError(f"a content part is {item!r:.60}, expected text or an object")
    kind = item.get("type")
    if kind is None:
        kind = _kind_of_untyped(item)
    if not isinstance(kind, str):
        raise InputError(f"a content part has the type {kind!r:.60}, expected text")
    if kind in TEXT_TYPES:
        text = known_values(item, ("type", "text"), PART_BESIDE, f"a part of type {kind!r}")
        if not isinstance(text.get("text"), str):
            raise InputError(f"a part of type {kind!r} holds no text")
        return {"type": "text", "text": text["text"]}
    if kind in IMAGE_TYPES:
        return _image_part(item, f"a part of type {kind!r}")
    raise unknown("a content part has the unknown type", kind, (*TEXT_TYPES, *IMAGE_TYPES))


def may_be_image(item: object) -> bool:
    """Whether a part holds an image, without a look at it."""
    return isinstance(item, Mapping) and any(item.get(key) is not None for key in IMAGE_KEYS)


def _kind_of_untyped(item: Mapping[str, Any]) -> str:
    """Return the type of a part that names none: an image if it has an image's key, else text."""
    known = ("text", *IMAGE_KEYS)
    given = known_values(item, ("type", *known), PART_BESIDE, "a content part")
    if not given:
        raise InputError("a content part is empty")
    return "text" if "text" in given else "image"


def _image_part(item: Mapping[str, Any], where: str) -> Part:
    given = known_values(item, ("type", "index", *IMAGE_KEYS), PART_BESIDE, where)
    sources = [(key, value) for key, value in given.items() if key in IMAGE_KEYS]
    if not sources:
        return {"type": "image", **({"index": given["index"]} if "index" in given else {})}
    if len(sources) > 1 or "index" in given:
        found = " and ".join(key for key in given if key != "type")
        raise InputError(f"{where} holds {found}; expected one image")
    ((key, value),) = sources
    read = read_base64 if key in ("base64", "data") else read_path_or_base64
    return {"type": "image", "image": read(value)}
