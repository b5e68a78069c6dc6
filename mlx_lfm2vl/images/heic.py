"""Reading HEIC photos: by pillow-heif where it is installed, else by the `sips` of macOS."""

import io
import re
import struct
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError
from .png_colors import color_profile

SIPS_SECONDS = 60
INSTALL = "pip install pillow-heif"
SIZE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)  # the box of a picture's width and height
# Numbers of ITU-T H.273 for television, or for nothing, which writers of sRGB pictures use as well.
PLAIN_PRIMARIES, PLAIN_CURVES = (1, 2, 5, 6, 7), (1, 2, 6, 13, 14, 15)


def heif_decoder() -> Any:
    """Return the class of pillow-heif that opens a file, or None if it is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile


def largest_size(data: bytes) -> tuple[int, int]:
    """The (width, height) of the largest picture in a HEIC file, as its header says."""
    sizes = [struct.unpack(">II", size) for size in SIZE.findall(data)]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def open_heif(data: bytes) -> tuple[Image.Image, bytes | None, list[str]]:
    """Open a HEIC file by pillow-heif, which decodes its primary picture when it is loaded.

    The pixels come upright and in 8 bits, whatever EXIF says of them.

    Returns:
        The image, the color profile if the file describes its colors by numbers, and notes.

    Raises:
        SyntaxError, or another error of Pillow: the file is damaged.
    """
    image = heif_decoder()(io.BytesIO(data))
    profile, notes = None, list[str]()
    if image.n_frames > 1:
        notes.append(f"it holds {image.n_frames} pictures, of which the primary one is used")
    described = image.info.get("nclx_profile")
    if described and "icc_profile" not in image.info:
        primaries, curve = described["color_primaries"], described["transfer_characteristics"]
        known = 1 if primaries in PLAIN_PRIMARIES else primaries
        profile, note = color_profile(
            {b"cICP": bytes([known, 13 if curve in PLAIN_CURVES else curve, 0, 1])}, None
        )
        notes += [note] if note else []
    return image, profile, notes


def heic_to_tiff(data: bytes, name: str) -> bytes:
    """Convert a HEIC photo to TIFF, which keeps its pixels, color profile and orientation.

    Args:
        data: bytes of the HEIC file.
        name: of the photo, for error messages.

    Returns:
        Bytes of the TIFF file.

    Raises:
        InputError: this is not a Mac, or `sips` cannot convert the photo.
    """
    if sys.platform != "darwin":
        raise InputError(
            f"{name} is HEIC, which needs another package here: {INSTALL}; or convert it first (on "
            "a Mac: sips -s format jpeg A.heic --out A.jpg)"
        )
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "photo.heic"), Path(folder, "photo.tiff")
        source.write_bytes(data)
        command = ["sips", "-s", "format", "tiff", str(source), "--out", str(target)]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=SIPS_SECONDS)
            return target.read_bytes()
        except (OSError, subprocess.SubprocessError):
            raise InputError(
                f"{name} is HEIC, and sips cannot convert it; try {INSTALL}, or export it as JPEG "
                "or PNG"
            ) from None
