"""Names of files made from what a model said: a template such as `{date}_{slug}{ext}`."""

import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import InputError

FIELDS = ("date", "time", "name", "slug", "ext")
FIELD = re.compile(r"\{([^{}]*)\}")
SLUG_LETTERS = 60
STEM_BYTES = 200  # of 255 that a name may have: sidecars and numbers are longer
NOT_IN_NAMES = re.compile(r"[/\\:\x00-\x1f\x7f]")  # a colon is a slash to the Finder


class Split(NamedTuple):
    """The parts of a template.

    Attributes:
        stem: of the name, with fields in braces.
        fields: those that it names.
    """

    stem: str
    fields: frozenset[str]


def read_template(template: str) -> Split:
    """Check a template before any work.

    Raises:
        InputError: a field is unknown, it does not end in `{ext}`, or it names a folder.
    """
    listed = ", ".join(f"{{{name}}}" for name in FIELDS)
    names = FIELD.findall(template)
    unknown = [name for name in names if name not in FIELDS]
    if unknown or set("{}") & set(FIELD.sub("", template)):
        what = f"{{{unknown[0]}}}" if unknown else "a brace alone"
        raise InputError(f"--rename {template!r} has {what}, which is unknown; known are {listed}")
    stem = template.removesuffix("{ext}")
    if stem == template or "ext" in FIELD.findall(stem) or not stem:
        raise InputError(f"--rename {template!r} must be a name that ends in {{ext}}")
    if NOT_IN_NAMES.search(stem):
        raise InputError(f"--rename {template!r} has a slash, colon or control character in it")
    if stem.startswith("."):
        raise InputError(f"--rename {template!r} begins with a dot: the files would be hidden")
    return Split(stem, frozenset(names) - {"ext"})


def filled_stem(split: Split, values: Mapping[str, str]) -> str:
    """Return a file's new stem; empty if a field of it is.

    It has no slashes and no control characters, is not hidden, and takes at most `STEM_BYTES` on a
    disk of any Mac.
    """
    if any(not values.get(name) for name in split.fields):
        return ""
    stem = FIELD.sub(lambda match: values[match[1]], split.stem)
    stem = unicodedata.normalize("NFC", NOT_IN_NAMES.sub("", stem))
    stem = "".join(letter for letter in stem if letter.isprintable())
    # HFS+ stores letters and their accents apart.
    while len(unicodedata.normalize("NFD", stem).encode()) > STEM_BYTES:
        stem = stem[:-1]
    return stem.strip(" .")


def slug(text: str) -> str:
    """Return the first words of a text in small letters, joined by hyphens.

    Letters and digits of all scripts stay.
    """
    text = unicodedata.normalize("NFC", text).lower()
    text = re.sub(r"['\u2019]", "", text)
    kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else "-" for c in text)
    words = [word for word in kept.split("-") if word]
    short = ""
    for word in words:
        longer = f"{short}-{word}" if short else word[:SLUG_LETTERS]
        if len(longer) > SLUG_LETTERS:
            break
        short = longer
    return short


def name_key(name: str) -> str:
    """Return what two names have in common that a Mac's disk takes for one."""
    return unicodedata.normalize("NFC", name).casefold()
