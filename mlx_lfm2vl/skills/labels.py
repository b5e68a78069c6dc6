"""The labels of a classification: those that the demo model knows, and labels in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import AnswerError, InputError
from .kinds import Kind

DEMO_WORDS = {  # what the demo model can tell apart
    "shape": {"circle", "square", "triangle", "star", "ring", "cross"},
    "color": {"red", "green", "blue", "yellow", "purple", "orange", "black", "white"},
    "size": {"small", "large"},
}


def demo_variant(kind: Kind, labels: Sequence[str]) -> str:
    """Return which of its questions the demo model is asked: "shape", "color" or "size".

    Other kinds are asked about any labels: "".

    Raises:
        InputError: the demo model does not know the labels.
    """
    if kind != "demo":
        return ""
    asked = {label.lower() for label in labels}
    for attribute, words in DEMO_WORDS.items():
        if asked <= words:
            return attribute
    known = "; ".join(", ".join(sorted(words)) for words in DEMO_WORDS.values())
    raise InputError(f"the demo model can tell apart only labels of one of these lists: {known}")


def label_in(text: str, labels: Sequence[str]) -> str:
    """Return the label that an answer consists of, or the only one that it names.

    A label within a longer one that is named too does not count: "car" in "car park".

    Raises:
        AnswerError: it names none or several.
    """
    plain = " ".join(text.split()).strip(" .\"'`*").casefold()
    for label in labels:
        if label.casefold() == plain:
            return label
    named = [
        label
        for label in labels
        if re.search(rf"(?<!\w){re.escape(label.casefold())}(?!\w)", plain)
    ]
    named = [
        label
        for label in named
        if not any(label != other and label.casefold() in other.casefold() for other in named)
    ]
    if len(named) != 1:
        raise AnswerError(f"the answer is {text.strip()!r:.80}, expected one of {_shown(labels)}")
    return named[0]


def _shown(labels: Sequence[str]) -> str:
    text = ", ".join(labels)
    return text if len(text) <= 200 else f"{text[:200]}..."
