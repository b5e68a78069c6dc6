"""What the model wrote, read as plain text: without wrapping, cut short, as a list of words."""

import json
import re
from typing import Any, cast

from ..errors import AnswerError

FENCED = re.compile(r"\A```[\w+-]*[ \t]*\n(.*?)\n?(?:```)?\Z", re.DOTALL)
SENTENCE_END = re.compile(r"[.!?…。！？]['\"”’»)\]]*(?=\s|\Z)")
BULLET = re.compile(r"^\s*(?:[-*•–]|\d{1,3}[.)])\s+")
LABEL = re.compile(
    r"^\s*(?:here are [^:\n]*|(?:the )?(?:keywords|tags)[^:,\n]{0,20}):", re.IGNORECASE
)
BRACE = re.compile(r"\A[^{]*\{|^\{", re.MULTILINE)
MAX_KEYWORD = 60  # characters; a longer one is a sentence
SHOWN = 80  # characters of an answer in a message


def unfenced(text: str) -> str:
    """Return a text without blank ends, and without a code fence around all of it."""
    text = text.strip()
    fenced = FENCED.match(text)
    return fenced[1].strip() if fenced and "\n```" not in fenced[1] else text


def shortened(text: str, letters: int) -> str:
    """Cut a text to at most `letters` characters, on one line.

    It ends after the last sentence that fits, unless that loses more than half of the space. Then
    it ends after the last word, with "…". A word that is too long itself is cut.
    """
    text = " ".join(text.split())
    if len(text) <= letters:
        return text
    ends = [found.end() for found in SENTENCE_END.finditer(text[: letters + 1])]
    ends = [end for end in ends if letters // 2 <= end <= letters]
    if ends:
        return text[: ends[-1]]
    words, space, _ = text[:letters].rpartition(" ")
    kept = words if space else text[: letters - 1]
    return kept.rstrip(" ,;:.-–—") + "…"


def read_keywords(text: str, count: int) -> tuple[str, ...]:
    """Read a list of keywords: with commas, line by line, numbered, or as JSON.

    Keywords are in lower case, but a word with a capital after its first letter keeps its case:
    USB, iPhone. Where everything is in capitals, everything becomes lower case. Of keywords that
    differ only in case the first one stays.

    Args:
        text: the answer. A JSON list may hold objects with a `label`.
        count: how many to keep.
    """
    text = unfenced(text)
    items = _json_items(text)
    if items is None:
        lines = LABEL.sub("", text).splitlines()
        items = [item for line in lines for item in re.split(r"[,;、，]", BULLET.sub("", line))]
    items = [" ".join(item.strip(" \t\"'`*_#.“”").split()) for item in items]
    items = [item for item in items if item and len(item) <= MAX_KEYWORD]
    shouted = all(item.upper() == item for item in items)
    kept: dict[str, str] = {}
    for item in items:
        kept.setdefault(item.casefold(), item.lower() if shouted else _lower(item))
    return tuple(kept.values())[:count]


def _lower(keyword: str) -> str:
    words = keyword.split(" ")
    return " ".join(word if word[1:] != word[1:].lower() else word.lower() for word in words)


def _json_items(text: str) -> list[str] | None:
    """Return the strings of a JSON list, or the labels of its objects; None if it is no list."""
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list):
        return None
    labels = [
        cast(dict[str, Any], value).get("label") if isinstance(value, dict) else value
        for value in cast(list[Any], values)
    ]
    return [label for label in labels if isinstance(label, str)]


def read_object(text: str) -> dict[str, Any]:
    """Read the JSON object of an answer, which may stand in a code fence or in other text.

    It is at the first brace, or at a brace that begins a line: one further in may be a part of an
    object that is broken.

    Raises:
        AnswerError: there is none, or it is cut off.
    """
    decoder = json.JSONDecoder(strict=False)
    for found in BRACE.finditer(text):
        try:
            value: Any = decoder.raw_decode(text, found.end() - 1)[0]
        except (ValueError, RecursionError):
            continue
        return cast(dict[str, Any], value)
    shown = " ".join(text.split())
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    raise AnswerError(f"the answer is {shown!r}, expected a JSON object")
