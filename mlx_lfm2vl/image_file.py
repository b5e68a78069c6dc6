"""Image files from outside, decoded within limits into upright sRGB pixels."""

import base64
import binascii
import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps

from .errors import InputError
from .mac import heic_to_tiff
from .network import fetch

logger = logging.getLogger(__name__)

ImageSource = str | Path | bytes | Image.Image

# No EPS, PDF or other format whose decoder starts a program.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "ICO",
    "TGA",
)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc")
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_pillow_globals = threading.Lock()


@dataclass(frozen=True)
class ImageLimits:
    """What an image from outside may cost."""

    max_pixels: int = 200_000_000  # of the decoded image, checked before decoding
    max_bytes: int = 256 * 2**20  # of the file
    max_images: int = 32  # per prompt
    allow_url: bool = False  # fetch http and https URLs


def load_image(source: ImageSource, limits: ImageLimits) -> Image.Image:
    """Load an image the way a person would see it.

    EXIF rotation is applied, transparency goes over white, 16-bit images keep their range,
    palettes, grey and CMYK become RGB, wide-gamut profiles become sRGB, and an animation gives
    its first frame.

    Args:
        source: a path (`~` and `file://` too), an http(s) URL if `limits` allow it, a
            `data:` URI, the bytes of a file, or a PIL image.
        limits: caps on what is read and decoded.

    Returns:
        An RGB image.

    Raises:
        InputError: the source cannot be read, is no image, or exceeds a limit.
        NetworkError: a URL could not be fetched.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "image", limits)
    if isinstance(source, bytes):
        name, data = "image data", source
    else:
        name, data = _read(source, limits)
    if len(data) > limits.max_bytes:
        raise InputError(f"{name} has {len(data)} bytes, at most {limits.max_bytes} are read")
    if not data:
        raise InputError(f"{name} is empty (0 bytes)")
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        data = heic_to_tiff(data, name)
    try:
        with _our_rules():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except DECODE_ERRORS:
        raise InputError(f"{name} is not an image this program can read") from None
    return _decode(image, name, limits)


def _read(source: str | Path, limits: ImageLimits) -> tuple[str, bytes]:
    """Name for messages, and bytes, of a path, URL or data URI."""
    text = str(source)
    scheme = urlsplit(text).scheme.lower() if isinstance(source, str) else ""
    if scheme in ("http", "https"):
        if not limits.allow_url:
            raise InputError(
                f"{text} is a URL; allow fetching it with --allow-url (allow_url=True)"
            )
        return text, fetch(text, limits.max_bytes)
    if scheme == "data":
        header, _, body = text.partition(",")
        try:
            return "data URI", base64.b64decode(body, validate=True)
        except binascii.Error:
            raise InputError(f"data URI {header[:40]!r} holds no valid base64") from None
    path = Path(unquote(urlsplit(text).path)) if scheme == "file" else Path(text).expanduser()
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected an image file")
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if path.stat().st_size > limits.max_bytes:
            size = path.stat().st_size
            raise InputError(f"{path} has {size} bytes, at most {limits.max_bytes} are read")
        with path.open("rb") as file:  # a device or pipe has no size: cap the read itself
            return str(path), file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{text[:200]} cannot be read: {reason}") from None


@contextmanager
def _our_rules() -> Iterator[None]:
    """Our pixel cap counts instead of Pillow's global one, and its warnings are no news."""
    with _pillow_globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = saved


def _decode(image: Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise InputError(
            f"{name} has {width} x {height} pixels ({width * height / 1e6:.0f} megapixels), "
            f"at most {limits.max_pixels / 1e6:.0f} are decoded; raise it with --max-megapixels"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO is one photo with previews
        logger.warning("%s is an animation or a series of %d frames: using the first", name, frames)
    try:
        with _our_rules():
            image.load()
        profile = image.info.get("icc_profile")
        image = _over_white(_eight_bit(ImageOps.exif_transpose(image)))
        return _to_srgb(image, profile)
    except DECODE_ERRORS as error:
        raise InputError(f"{name} is damaged or not supported: {error}") from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and float grey images to 8 bits without losing their range."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float32)
    if image.mode.startswith("I"):
        values /= 257.0  # 65535 -> 255
    elif values.size and np.nanmax(values) <= 1.0:
        values *= 255.0
    values = np.nan_to_num(values)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), "L")


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is None:
        return image.convert("RGB")
    from PIL import ImageCms  # only images with a profile need it

    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
        )
        converted = transform.apply(_probe(image.mode))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB")  # a broken or foreign profile; the pixels are still there
    plain = np.asarray(_probe(image.mode).convert("RGB")).astype(np.int16)
    if np.abs(np.asarray(converted) - plain).max() <= 3:
        return image.convert("RGB")  # sRGB already: keep the pixels exactly
    return transform.apply(image)


def _probe(mode: str) -> Image.Image:
    """A few hundred colours that tell one profile from another."""
    levels = np.linspace(0, 255, 5).astype(np.uint8)
    bands = len(Image.new(mode, (1, 1)).getbands())
    colours = np.stack(np.meshgrid(*[levels] * bands), axis=-1).reshape(1, -1, bands)
    return Image.fromarray(colours if bands > 1 else colours[..., 0], mode)
