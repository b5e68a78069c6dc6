"""The texts of an answer that other programs show: title, description, keywords."""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Fields of typed answers and of schemas, the best first.
TITLES = ("title",)
DESCRIPTIONS = ("caption", "description", "alt_text", "text", "markdown", "summary")
KEYWORDS = ("keywords", "tags")


@dataclass(frozen=True)
class Texts:
    """What is written about a picture.

    Attributes:
        title: a few words; empty if there are none.
        description: a caption, alt text, or the text in the picture; empty if there is none.
        keywords: without doubles.
    """

    title: str = ""
    description: str = ""
    keywords: tuple[str, ...] = ()


def texts_of(record: Mapping[str, Any]) -> Texts:
    """Choose the texts of a record of any skill, by the names of its fields.

    Args:
        record: a typed answer; the fields of an extraction are in its `values`. The title is
            `title`. The description is the first of `DESCRIPTIONS` that has a text. The keywords
            are `keywords` or `tags`, or else the label of a classification, or else those of what
            was detected.
    """
    values = record.get("values")
    fields = {**record, **values} if isinstance(values, dict) else record
    keywords = tuple(distinct(_keywords(fields)))
    return Texts(_first(fields, TITLES), _first(fields, DESCRIPTIONS), keywords)


def plain_text(record: Mapping[str, Any]) -> str:
    """Return a record's answer as the text of a file, with a line feed at its end; or nothing."""
    texts, values = texts_of(record), record.get("values")
    if isinstance(values, dict):
        return json.dumps(values, ensure_ascii=False, indent=2) + "\n"
    text = texts.description or texts.title or ", ".join(texts.keywords)
    return f"{text}\n" if text else ""


def distinct(words: Iterable[str], known: Sequence[str] = ()) -> list[str]:
    """Return the words that are not empty, known or repeated, whatever their case."""
    seen, kept = {word_key(word) for word in known}, []
    for word in words:
        word = " ".join(word.split())
        key = word_key(word)
        if key and key not in seen:
            seen.add(key)
            kept.append(word)
    return kept


def word_key(word: str) -> str:
    """Return what two spellings of one keyword have in common."""
    return unicodedata.normalize("NFC", " ".join(word.split())).casefold()


def _first(record: Mapping[str, Any], names: Sequence[str]) -> str:
    texts = (record.get(name) for name in names)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


def _keywords(fields: Mapping[str, Any]) -> list[str]:
    for name in KEYWORDS:
        words = fields.get(name)
        if isinstance(words, str):
            return words.split(",")
        if isinstance(words, Sequence):
            return [word for word in words if isinstance(word, str)]
    if isinstance(fields.get("choice"), str):
        return [fields["choice"]]
    boxes = fields.get("boxes")
    labels = [box.get("label") for box in boxes or [] if isinstance(box, dict)]
    return [label for label in labels if isinstance(label, str)]
