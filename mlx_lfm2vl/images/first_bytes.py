"""What kind of file it is, by its first bytes. This module does not import a decoder."""

import re
import struct

from .other_kinds import ANIMATION, VIDEO

AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
GENERAL_BRANDS = {b"mif1", b"msf1", b"miaf", b"heif", b"mif2"}
VIDEO_BRANDS = re.compile(rb"qt  |isom|iso[2-9]|mp4|M4V|avc1|3g[p2]|dash")


def is_heic(head: bytes) -> bool:
    """Whether the first bytes of a file are those of HEIC, which is not AVIF."""
    brands = brands_of(head)
    return bool(brands & (HEIC_BRANDS | GENERAL_BRANDS)) and not brands & AVIF_BRANDS


def is_video(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a video."""
    brands = brands_of(head)
    is_image = brands & AVIF_BRANDS or is_heic(head) or b"crx " in brands
    has_brand = any(VIDEO_BRANDS.match(brand) for brand in brands)
    return bool(re.match(VIDEO, head)) or (has_brand and not is_image)


def is_animation(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a kind that may have several frames."""
    return bool(re.match(ANIMATION, head)) or b"avis" in brands_of(head)


def brands_of(data: bytes) -> set[bytes]:
    """The brands in the first box of an ISO media file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(struct.unpack_from(">I", data)[0], 1024, len(data))
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}
