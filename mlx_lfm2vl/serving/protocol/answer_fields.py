"""The fields of a request that set the options of its answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import InputError
from ...options import KV_BITS, LARGEST_SEED, MAX_LOOKUP, AnswerOptions, AtMost, ImageOptions
from .fields import BadField, Fields

DEFAULT_TOKENS = AtMost(2048)  # of an answer whose request sets no limit
NO_LENGTH = -1  # what programs for LM Studio and llama.cpp send if they set no limit
MAX_STOPS = 16
MAX_STOP = 1000  # characters
MAX_SPECIAL_TOKENS = 64
MAX_COUNT = 2**31 - 1
MAX_COLOR = 40  # characters of a color's name
COUNTS = ("min_image_tokens", "max_image_tokens", "min_tiles", "max_tiles")
FLAGS = ("do_image_splitting", "use_thumbnail", "jpeg_draft")
DETAILS = ("low", "high", "original", "auto")
NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")  # in bounds of `Sampling`
WHOLE = {  # with the largest values
    "top_k": MAX_COUNT,
    "seed": LARGEST_SEED,
    "lookup": MAX_LOOKUP,
    "draft_tokens": MAX_LOOKUP,
    "kv_bits": max(KV_BITS),
}


def read_answer_options(
    fields: Fields, base: AnswerOptions, most_tokens: int | None, *length_names: str
) -> AnswerOptions:
    """Read the options of an answer, without those of its images and its form.

    Args:
        fields: of the request.
        base: options where the request sets none.
        most_tokens: that an answer may have; None has no limit.
        length_names: of the field for the longest answer; they mean the same.

    Raises:
        BadField: a value is out of range or has the wrong type.
    """
    changes: dict[str, Any] = {
        "stop": fields.texts("stop", most=MAX_STOPS, longest=MAX_STOP),
        "special_tokens": fields.texts("special_tokens", most=MAX_SPECIAL_TOKENS, longest=MAX_STOP),
        "max_tokens": _length(fields, base.max_tokens, most_tokens, length_names),
        "answer_start": fields.text("answer_start"),
        **{name: fields.number(name) for name in NUMBERS},
        **{name: fields.integer(name, least=0, most=most) for name, most in WHOLE.items()},
    }
    options = base
    for name, value in changes.items():
        if value is not None and value != []:
            try:
                options = options.changed({name: value})
            except InputError as error:
                raise BadField(str(error), fields.where(name)) from None
    return options


def _length(fields: Fields, default: int, most: int | None, names: tuple[str, ...]) -> int:
    """Return the most tokens of an answer."""
    highest = MAX_COUNT if most is None else most
    given = {
        name: None if fields.get(name) == NO_LENGTH else fields.integer(name, least=1, most=highest)
        for name in names
    }
    values = {name: value for name, value in given.items() if value is not None}
    if len(set(values.values())) > 1:
        both = " and ".join(f"{name} is {value}" for name, value in values.items())
        raise fields.bad(names[0], f"contradicts another field: {both}")
    return next(iter(values.values()), AtMost(min(default, highest)))


def read_background(fields: Fields) -> str | None:
    """Read the color below transparent pixels.

    Raises:
        BadField: it is no text.
    """
    return fields.text("background", most=MAX_COLOR)


def read_image_options(fields: Fields, background: str | None) -> ImageOptions:
    """Read how images are cut into views.

    Args:
        fields: of the request.
        background: see `read_background`.

    Raises:
        BadField: a value has the wrong type.
    """
    values: dict[str, Any] = {
        **{name: fields.integer(name, least=0, most=MAX_COUNT) for name in COUNTS},
        **{name: fields.flag(name) for name in FLAGS},
    }
    return ImageOptions(**values, background=background)


def with_detail(options: ImageOptions, details: list[str | None]) -> ImageOptions:
    """Let the `detail` of the images decide whether they are cut into tiles.

    All images of an answer are cut in the same way. If one of them asks for tiles ("high" or
    "original"), all may get some; only if every one asks for "low" is each one view.

    Args:
        options: of the request. What they say of tiles goes first.
        details: of each image; None stands for "auto".
    """
    if options.do_image_splitting is not None:
        return options
    if any(detail in ("high", "original") for detail in details):
        return replace(options, do_image_splitting=True)
    if details and all(detail == "low" for detail in details):
        return replace(options, do_image_splitting=False)
    return options
