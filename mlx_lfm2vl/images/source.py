"""Image files from outside, decoded within limits into upright sRGB pixels."""

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
from PIL import Image

from ..errors import InputError, Lfm2VLError
from .heic import heic_to_tiff

logger = logging.getLogger(__name__)

ImageSource = str | Path | bytes | Image.Image

# No EPS or PDF, whose decoders start programs; no ICO, which decodes what is in it when opened.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
ORIENTATION = 0x0112
# What Pillow's decoders raise on damaged files.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
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


class OpenedImage:
    """An image whose size is known and whose pixels are not decoded yet.

    Attributes:
        name: for messages.
        size: (height, width) in pixels, the right way up.
    """

    def __init__(
        self, image: Image.Image, name: str, limits: ImageLimits, ours: bool = True
    ) -> None:
        self.name, self._image, self._limits = name, image, limits
        self._ours = ours  # nobody else has it, so its decoder's settings may be changed
        self._reduced = False
        width, height = image.size
        if width * height > limits.max_pixels:
            raise InputError(
                f"{name} has {width} x {height} pixels ({width * height / 1e6:.0f} megapixels), "
                f"at most {limits.max_pixels / 1e6:.0f} are decoded; raise it with --max-megapixels"
            )
        try:
            with _our_rules(limits):
                self._frames = getattr(image, "n_frames", 1)
                self._orientation = image.getexif().get(ORIENTATION, 1)
        except DECODE_ERRORS as error:
            raise InputError(f"{name} is damaged or not supported: {error}") from None
        # Pillow gives the size of a TIFF the right way up already.
        sideways = self._orientation in SIDEWAYS and image.format != "TIFF"
        self.size = (width, height) if sideways else (height, width)

    def decode(self, at_least: tuple[int, int] | None = None) -> Image.Image:
        """The pixels the way a person would see them, RGB.

        EXIF rotation is applied, transparency goes over white, 16-bit images keep their range,
        palettes, grey and CMYK become RGB, wide-gamut profiles become sRGB, and an animation
        gives its first frame.

        Args:
            at_least: (height, width) that a JPEG may be reduced to while it is decoded, which is
                done by a half, a quarter or an eighth; None for all of its pixels.

        Raises:
            InputError: the file is damaged.
        """
        image, size = self._image, self.size
        if self._reduced:
            raise ValueError(f"{self.name} was decoded smaller; open it again")
        if self._frames > 1 and image.format != "MPO":  # an MPO is one photo with previews
            logger.warning("%s has %d frames or pages: using the first", self.name, self._frames)
        try:
            with _our_rules(self._limits):
                if at_least and self._ours and image.format in ("JPEG", "MPO"):
                    size = self._reduce(*at_least)
                image.load()
            profile = image.info.get("icc_profile")
            image = _to_srgb(_over_white(_eight_bit(self._upright(image))), profile)
        except DECODE_ERRORS as error:
            raise InputError(f"{self.name} is damaged or not supported: {error}") from None
        if (image.height, image.width) != size:
            raise InputError(f"{self.name} is damaged: it is not of the size its header says")
        return image

    def _reduce(self, height: int, width: int) -> tuple[int, int]:
        """Have a JPEG decoded smaller; returns the (height, width) it will have upright."""
        sideways = self._orientation in SIDEWAYS
        self._image.draft(None, (height, width) if sideways else (width, height))
        width, height = self._image.size
        self._reduced = True
        return (width, height) if sideways else (height, width)

    def _upright(self, image: Image.Image) -> Image.Image:
        if self._orientation == 1:
            return image
        from PIL import ImageOps  # slow to import, and most images need no turning

        return ImageOps.exif_transpose(image)


def open_image(source: ImageSource, limits: ImageLimits) -> OpenedImage:
    """Read a file and its header.

    Args:
        source: a path (`~` and `file://` too), an http(s) URL if `limits` allow it, a
            `data:` URI, the bytes of a file, or a PIL image.
        limits: caps on what is read and decoded.

    Raises:
        InputError: the source cannot be read, is no image, or exceeds a limit.
        NetworkError: a URL could not be fetched.
    """
    if isinstance(source, Image.Image):
        return OpenedImage(source, "image", limits, ours=False)
    name, data = ("image data", source) if isinstance(source, bytes) else _read(source, limits)
    if len(data) > limits.max_bytes:
        raise InputError(f"{name} has {len(data)} bytes, at most {limits.max_bytes} are read")
    if not data:
        raise InputError(f"{name} is empty (0 bytes)")
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        data = heic_to_tiff(data, name)
    try:
        with _our_rules(limits):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        limit = limits.max_pixels / 1e6
        raise InputError(f"{name} has far more than {limit:.0f} megapixels") from None
    except DECODE_ERRORS:
        raise InputError(f"{name} is not an image this program can read") from None
    return OpenedImage(image, name, limits)


def read_size(path: str | Path, limits: ImageLimits) -> tuple[int, int] | None:
    """(height, width) as the header of a file says, before any turning.

    None if it cannot be read, and for HEIC, which has to be decoded first.
    """
    try:
        with _our_rules(limits), Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except DECODE_ERRORS:
        return None


def _read(source: str | Path, limits: ImageLimits) -> tuple[str, bytes]:
    """Name for messages, and bytes, of a path, URL or data URI."""
    text = str(source)
    try:
        parts = urlsplit(text if isinstance(source, str) else "")
        scheme = parts.scheme.lower()
        if scheme in ("http", "https"):
            return text, _fetched(text, limits)
        if scheme == "data":
            import base64

            return "data URI", base64.b64decode(text.partition(",")[2], validate=True)
        path = Path(unquote(parts.path)) if scheme == "file" else Path(text).expanduser()
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected an image file")
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if path.stat().st_size > limits.max_bytes:
            size = path.stat().st_size
            raise InputError(f"{path} has {size} bytes, at most {limits.max_bytes} are read")
        with path.open("rb") as file:  # a device or pipe has no size: cap the read itself
            return str(path), file.read(limits.max_bytes + 1)
    except Lfm2VLError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{text[:100]!r} cannot be read: {reason}") from None


def is_url(source: ImageSource) -> bool:
    """Whether a source is fetched over the network."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _fetched(url: str, limits: ImageLimits) -> bytes:
    if not limits.allow_url:
        raise InputError(f"{url} is a URL; allow fetching it with --allow-url (allow_url=True)")
    from .fetch import fetch  # brings TLS along, which files do not need

    return fetch(url, limits.max_bytes)


@contextmanager
def _our_rules(limits: ImageLimits) -> Iterator[None]:
    """Our pixel cap counts instead of Pillow's global one, and its warnings are no news."""
    with _pillow_globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = saved


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
