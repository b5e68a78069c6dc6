"""The prompts of the skills: a table of those that were published, or a file of one's own."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..options import SAMPLING_KEYS, AtMost
from .kinds import Kind

if TYPE_CHECKING:
    from ..images.source import ImageSource
    from ..prompt.messages import Message

TABLE = Path(__file__).with_name("prompts.toml")
MAX_FILE_BYTES = 2**20  # of a prompt of one's own
FACTS = ("name", "exif.date", "place", "keywords")  # of a photo, that a prompt may name
UNKNOWN = "unknown"  # stands for a fact that a photo lacks
# A name in one pair of braces is a value, and in two pairs it is itself in braces. Other braces
# stay, so that a prompt can show JSON.
NAME = re.compile(r"\{\{([a-z][a-z.]*)\}\}|\{([a-z][a-z.]*)\}")


@dataclass(frozen=True)
class Prompt:
    """A form of question with its sampling; None leaves a setting to the checkpoint.

    Attributes:
        user: text after the images; "" sends the images alone.
        system: system message; None sends none.
        media: text before each image, in which {n} is its number from 1.
        answer: what the answer begins with.
        form: of classify: the answer with a {label}; "" is the label alone.
        source: where it was published.
    """

    user: str
    system: str | None = None
    media: str = ""
    answer: str = ""
    form: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    source: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `AnswerOptions` that it sets."""
        names = ("max_tokens", *SAMPLING_KEYS)
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.max_tokens is not None:
            given["max_tokens"] = AtMost(self.max_tokens)
        return {**given, "answer_start": self.answer} if self.answer else given

    def check_names(self, known: Collection[str]) -> None:
        """Find names in braces that stand for nothing.

        Raises:
            InputError: there is one; the message lists the known ones.
        """
        for text in (self.system or "", self.user):
            for match in NAME.finditer(text):
                if match[2] and match[2] not in (*known, *FACTS):
                    listed = ", ".join(f"{{{name}}}" for name in (*known, *FACTS))
                    raise InputError(
                        f"the prompt names {{{match[2]}}}, which is unknown; known are {listed}; "
                        f"{{{{{match[2]}}}}} writes it in braces"
                    )

    def messages(
        self, images: Sequence[ImageSource], values: Mapping[str, str], facts: Mapping[str, str]
    ) -> list[Message]:
        """Make the conversation.

        Args:
            images: come before the text.
            values: of the skill, by name.
            facts: of the photo, by name; see `FACTS`. One that is missing or empty is "unknown".
        """
        known = {name: facts.get(name) or UNKNOWN for name in FACTS} | dict(values)
        content: list[dict[str, Any]] = []
        for number, image in enumerate(images, 1):
            if self.media:
                before = "\n" if number > 1 else ""
                text = before + self.media.replace("{n}", str(number))
                content.append({"type": "text", "text": text})
            content.append({"type": "image", "image": image})
        if self.user:
            content.append({"type": "text", "text": _filled(self.user, known)})
        messages: list[Message] = [{"role": "user", "content": content}]
        if self.system is None:
            return messages
        return [{"role": "system", "content": _filled(self.system, known)}, *messages]

    def to_toml(self) -> str:
        """Return the prompt as a file that `read_prompt` reads."""
        lines = []
        for field in fields(self):
            value: str | float | None = getattr(self, field.name)
            if value is None or (value == "" and field.name != "user"):
                continue
            lines.append(f"{field.name} = {_toml(value)}\n")
        return "".join(lines)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return NAME.sub(lambda match: f"{{{match[1]}}}" if match[1] else values[match[2]], text)


def _toml(value: str | float) -> str:
    """Write a value in TOML: a text of several lines as such where that is possible."""
    if not isinstance(value, str):
        return repr(value)
    lines = value.split("\n")
    is_plain = len(lines) > 1 and all(line.isprintable() for line in lines) and "'''" not in value
    if is_plain and not value.endswith("'"):
        return f"'''\n{value}'''"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def find_prompt(skill: str, kind: Kind, variant: str = "") -> Prompt:
    """Return the prompt of a skill for a kind of checkpoint.

    Args:
        skill: such as "caption".
        kind: of the checkpoint.
        variant: such as "short".

    Raises:
        InputError: this kind was not taught it.
    """
    forms = _table()[skill]
    special = forms.get(variant, {})
    for found in (special.get(kind), forms.get(kind), special.get("any"), forms.get("any")):
        if found:
            if "refused" in found:
                raise InputError(f"{skill}: {found['refused']}")
            return Prompt(**found)
    raise KeyError(f"there is no prompt for {skill} {variant} {kind}")


def is_taught(skill: str, kind: Kind) -> bool:
    """Return whether a kind of checkpoint was taught a skill, in any variant."""
    forms = _table()[skill]
    return any(
        "refused" not in found
        for group in (forms, *forms.values())
        if (found := group.get(kind) or group.get("any"))
    )


def read_prompt(path: Path) -> Prompt:
    """Read a prompt of one's own, which replaces the whole published one.

    Args:
        path: a text, which is sent after the images; or, if its name ends with .toml, a file as
            `Prompt.to_toml` writes it.

    Raises:
        InputError: the file cannot be read, is empty, or has an unknown or wrong key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path} has over {MAX_FILE_BYTES} bytes, too many for a prompt")
    if not text.strip():
        raise InputError(f"{path} is empty, expected a prompt")
    if path.suffix.lower() != ".toml":
        return Prompt(text.removesuffix("\n"), source=str(path))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    return Prompt(**_checked(values, path), source=str(path))


def _checked(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check the keys and types of a prompt file; ranges are checked by `AnswerOptions`."""
    values.pop("source", None)  # it is no longer the published one
    texts = ("user", "system", "media", "answer", "form")
    counts = ("max_tokens", "top_k")
    for name, value in values.items():
        if name not in (*texts, "max_tokens", *SAMPLING_KEYS):
            known = ", ".join((*texts, "max_tokens", *SAMPLING_KEYS))
            raise InputError(f"{path} has an unknown key {name!r:.60}, expected {known}")
        expected = str if name in texts else int if name in counts else (int, float)
        if not isinstance(value, expected) or isinstance(value, bool):
            kind = "a text" if name in texts else "a number"
            raise InputError(f"{path}: {name} is {value!r:.60}, expected {kind}")
    return {"user": "", **values}
