"""Which facts of a picture a prompt needs. Reading more than a name takes a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..skills.prompts import FACTS

if TYPE_CHECKING:
    from ..images.inputs import Input
    from ..skills.prompts import Prompt

Facts = Callable[["Input"], Mapping[str, str]]

MAX_LETTERS = 200  # of a name or place


def file_facts(given: Input) -> dict[str, str]:
    """What a prompt may name of any picture: `name`, of its file without the ending."""
    name = given.name if given.path is None else given.path.stem
    return {"name": shown(name, MAX_LETTERS)}


def facts_for(prompt: Prompt) -> Facts:
    """Return what reads the facts of a photo that a prompt names; without any, only its name."""
    text = f"{prompt.system or ''} {prompt.user}"
    if any(f"{{{name}}}" in text for name in FACTS if name != "name"):
        from .photo_facts import photo_facts

        return photo_facts
    return file_facts


def shown(text: str, most: int) -> str:
    """Return a text in one line without control characters, cut to a number of letters."""
    line = " ".join(text[: 4 * most].split())
    line = "".join(letter for letter in line if letter.isprintable())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"
