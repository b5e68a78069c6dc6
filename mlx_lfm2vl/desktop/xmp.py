"""XMP sidecars: the files beside a photo in which photo programs keep captions and keywords.

Lightroom, Bridge and Camera Raw call them `photo.xmp`; darktable and digiKam `photo.jpg.xmp`.
A sidecar that is there is added to, and keeps every byte of the rest.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..whole_folder import new_file, writing
from .beside import beside, companions
from .texts import Texts, distinct
from .xmp_packet import (
    DESCRIPTION,
    EMPTY,
    MAX_BYTES,
    NOT_XML,
    SUBJECT,
    TITLE,
    Packet,
    changed_packet,
    read_packet,
)


class Written(NamedTuple):
    """What became of a photo's sidecars.

    Attributes:
        changed: the sidecars that say something new.
        has_own: whether another title or description was there and stayed.
    """

    changed: list[Path]
    has_own: bool


def write_xmp(
    photo: Path, texts: Texts, *, replace: bool = False, whole_name: bool = False
) -> Written:
    """Put texts into a photo's sidecars; make one if there is none.

    Keywords are added to those that are there. A title or description that is there stays, unless
    it is to be replaced; other languages of it stay in any case.

    Args:
        photo: an existing file.
        texts: what to write; empty ones change nothing.
        replace: replace a title and a description that are there.
        whole_name: name a new sidecar `photo.jpg.xmp` instead of `photo.xmp`.

    Raises:
        InputError: a sidecar cannot be read or written. It is unchanged then.
    """
    found = companions(photo, (".xmp",)) or [beside(photo, ".xmp", whole_name=whole_name)]
    changed, has_own = [], False
    for sidecar in found:
        old = read_bytes(sidecar) if sidecar.exists() else None
        new = merged(EMPTY if old is None else old, str(sidecar), texts, replace=replace)
        has_own |= not replace and _has_own(read_packet(new, str(sidecar)), texts)
        if new not in (old, EMPTY):
            _write(sidecar.resolve(), new)
            changed.append(sidecar)
    return Written(changed, has_own)


def read_bytes(sidecar: Path) -> bytes:
    """Return the bytes of a sidecar, at most one more than `read_packet` takes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with sidecar.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{sidecar} cannot be read: {error.strerror or error}") from None


def merged(data: bytes, name: str, texts: Texts, *, replace: bool = False) -> bytes:
    """Return the bytes of a packet with texts put in, as `write_xmp` does.

    Args:
        data: the packet as it is.
        name: of its file, for messages.
        texts: what to put in.
        replace: replace a title and a description that are there.

    Raises:
        InputError: the packet cannot be read.
    """
    packet = read_packet(data, name)
    alternatives = {
        key: text
        for key, text in ((TITLE, texts.title), (DESCRIPTION, texts.description))
        if _is_new(packet, key, _kept(text), replace)
    }
    old = packet.properties[SUBJECT].texts if SUBJECT in packet.properties else []
    keywords = distinct(map(_kept, texts.keywords), old)
    new = changed_packet(packet, alternatives, {SUBJECT: keywords} if keywords else {})
    _check(read_packet(new, name), alternatives, [*old, *keywords], name)
    return new


def _kept(text: str) -> str:
    """Return what XML can hold of a text."""
    return NOT_XML.sub("", text).strip()


def _has_own(packet: Packet, texts: Texts) -> bool:
    """Whether a packet says something else than the title and description given."""
    pairs = ((TITLE, _kept(texts.title)), (DESCRIPTION, _kept(texts.description)))
    return any(text and text not in packet.properties[key].texts for key, text in pairs)


def _is_new(packet: Packet, key: str, text: str, replace: bool) -> bool:
    """Whether a text is to be put in."""
    old = packet.properties[key].texts if key in packet.properties else []
    return bool(text) and (not old or (replace and text not in old))


def _check(packet: Packet, alternatives: dict[str, str], keywords: list[str], name: str) -> None:
    """Read back what was put in: a packet may be XML that no program writes.

    Raises:
        InputError: it says something else.
    """
    wanted = {key: _kept(text) for key, text in alternatives.items()}
    found = {key: packet.properties[key].texts for key in wanted if key in packet.properties}
    is_there = all(text in found.get(key, []) for key, text in wanted.items())
    listed = packet.properties[SUBJECT].texts if SUBJECT in packet.properties else []
    if not is_there or listed != keywords:
        raise InputError(f"{name} is XMP of an unusual form: nothing was put into it")


def _write(sidecar: Path, data: bytes) -> None:
    with writing(sidecar), new_file(sidecar) as partial:
        partial.write_bytes(data)
        if sidecar.exists():
            shutil.copymode(sidecar, partial)
