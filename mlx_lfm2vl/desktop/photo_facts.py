"""What a photo file says about itself, for prompts: name, date, place, keywords.

Everything comes from files that anybody may have written, so it is cut to a length that a prompt
bears, and holds no line feeds and no control characters.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image, IptcImagePlugin

from ..errors import InputError
from ..images.container import FORMATS
from ..images.damage import DECODE_ERRORS
from ..images.decode import pillow_rules
from ..images.first_bytes import is_heic
from ..images.inputs import Input
from ..images.limits import ImageLimits
from .beside import companions
from .facts import MAX_LETTERS, file_facts, shown
from .texts import distinct
from .xmp import read_bytes
from .xmp_packet import SUBJECT, Property, read_packet

MAX_KEYWORDS = 40
MAX_KEYWORD = 60  # letters
MAX_XMP = 2**22  # bytes of a packet inside a photo

EXIF, GPS = 0x8769, 0x8825  # directories
XMP = 0x02BC  # of a TIFF
ORIGINAL, DIGITIZED = 0x9003, 0x9004  # "2026:11:29 14:30:00"
PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
PLACES = tuple(f"{PHOTOSHOP} {name}" for name in ("City", "State", "Country"))
IPTC_PLACES = ((2, 90), (2, 95), (2, 101))
IPTC_KEYWORDS, IPTC_CHARACTERS = (2, 25), (1, 90)
UTF8 = b"\x1b%G"
HEAD = 1024


@dataclass
class _Metadata:
    """What is written in a photo, as far as it can be read."""

    exif: dict[int, Any] = field(default_factory=dict[int, Any])
    gps: dict[int, Any] = field(default_factory=dict[int, Any])
    xmp: list[dict[str, Property]] = field(default_factory=list[dict[str, Property]])
    iptc: dict[tuple[int, int], Any] = field(default_factory=dict[tuple[int, int], Any])


def photo_facts(given: Input) -> Mapping[str, str]:
    """Return what a prompt may name of a picture in braces.

    Any thread may call this. A file that cannot be read has no facts but its name.

    Returns:
        Every name of `skills.prompts.FACTS`. What is not known is empty.

        name: of the file, without its ending.
        exif.date: when the photo was taken: `2026-11-29`.
        place: city, state and country from XMP or IPTC, else latitude and longitude in degrees.
        keywords: those that are there already, such as names of people: `Anna, beach`.
    """
    found = _read(given.path) if given.path else _Metadata()
    taken = _taken(found)
    keywords = distinct(shown(word, MAX_KEYWORD) for word in _keywords(found))
    return {
        **file_facts(given),
        "exif.date": f"{taken:%Y-%m-%d}" if taken else "",
        "place": _place(found),
        "keywords": ", ".join(keywords[:MAX_KEYWORDS]),
    }


def date_taken(path: Path) -> datetime | None:
    """Return when a photo was taken, in the camera's time; None if it does not say so."""
    return _taken(_read(path))


def _read(path: Path) -> _Metadata:
    found = _Metadata()
    if not path.is_file():  # opening a pipe would wait for somebody to write
        return found
    try:
        packets = [read_bytes(sidecar) for sidecar in companions(path, (".xmp",))]
    except (OSError, InputError):
        packets = []
    try:
        with pillow_rules(ImageLimits()), path.open("rb") as file:
            packets.append(_read_photo(file, found))
    except DECODE_ERRORS:
        pass
    for data in packets:
        try:
            found.xmp.append(read_packet(data, str(path)).properties)
        except InputError:
            continue
    return found


def _read_photo(file: Any, found: _Metadata) -> bytes:
    """Read what lies before the pixels; return the XMP packet, empty if there is none."""
    head = file.read(HEAD)
    file.seek(0)
    if is_heic(head):
        return _read_heic(file, found)
    with Image.open(file, formats=FORMATS) as image:
        # Of the base class, since that of a PNG decodes the pixels first.
        exif = Image.Image.getexif(image)
        found.exif, found.gps = dict(exif.get_ifd(EXIF)), dict(exif.get_ifd(GPS))
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or exif.get(XMP)
        found.iptc = IptcImagePlugin.getiptcinfo(image) or {}
        return _packet(packet)


def _read_heic(file: Any, found: _Metadata) -> bytes:
    try:
        import pillow_heif
    except ImportError:
        return b""
    info, exif = pillow_heif.open_heif(file).info, Image.Exif()
    exif.load(info.get("exif") or b"")
    found.exif, found.gps = dict(exif.get_ifd(EXIF)), dict(exif.get_ifd(GPS))
    return _packet(info.get("xmp"))


def _packet(value: Any) -> bytes:
    data = value.encode(errors="replace") if isinstance(value, str) else value
    return data.rstrip(b"\0") if isinstance(data, bytes) and len(data) <= MAX_XMP else b""


def _taken(found: _Metadata) -> datetime | None:
    for tag in (ORIGINAL, DIGITIZED):
        try:
            return datetime.strptime(str(found.exif.get(tag))[:19], "%Y:%m:%d %H:%M:%S")
        except ValueError:  # cameras without a clock write zeros
            continue
    return None


def _place(found: _Metadata) -> str:
    named = [
        next((text for each in found.xmp if name in each for text in each[name].texts), "")
        or next(iter(_iptc(found, key)), "")
        for name, key in zip(PLACES, IPTC_PLACES, strict=True)
    ]
    return shown(", ".join(distinct(named)), MAX_LETTERS) or _position(found.gps)


def _position(gps: Mapping[int, Any]) -> str:
    """Return latitude and longitude with four decimals, some ten metres."""
    try:
        sides = []
        for tag, most, minus in ((1, 90, "S"), (3, 180, "W")):
            degrees, minutes, seconds = (float(part) for part in gps[tag + 1])
            angle = degrees + minutes / 60 + seconds / 3600
            if not math.isfinite(angle) or not 0 <= angle <= most:
                return ""
            sides.append(-angle if str(gps.get(tag, "")).strip("\0 ").upper() == minus else angle)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return ""
    return ", ".join(f"{side:.4f}" for side in sides)


def _keywords(found: _Metadata) -> Iterable[str]:
    for each in found.xmp:
        if SUBJECT in each:
            yield from each[SUBJECT].texts
    yield from _iptc(found, IPTC_KEYWORDS)


def _iptc(found: _Metadata, key: tuple[int, int]) -> list[str]:
    """Return the texts of a data set. Without a declaration they may be in any encoding."""
    values = found.iptc.get(key, [])
    texts = []
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, bytes):
            try:
                texts.append(value.decode())
            except UnicodeDecodeError:
                texts.append(value.decode("latin-1"))
    return texts
