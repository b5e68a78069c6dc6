"""The texts of an answer that other programs show: title, description, keywords."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Fields of typed answers that are a text about the whole picture, the best first.
TITLES = ("title",)
DESCRIPTIONS = ("caption", "description", "alt_text", "text", "markdown", "answer")
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
        record: a typed answer. `title` is the title; the description is the first of
            `DESCRIPTIONS` that has a text; the keywords are `keywords` or `tags`, or the labels of
            a classification and of found objects.
    """
    return Texts(
        _first(record, TITLES), _first(record, DESCRIPTIONS), tuple(distinct(_keywords(record)))
    )


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


def _keywords(record: Mapping[str, Any]) -> list[str]:
    for name in KEYWORDS:
        words = record.get(name)
        if isinstance(words, str):
            return words.split(",")
        if isinstance(words, Sequence):
            return [word for word in words if isinstance(word, str)]
    return []
