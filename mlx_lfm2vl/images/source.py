"""Opening images from any source and decoding them, within limits, to upright sRGB pixels."""

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

# Not EPS and PDF, whose decoders start other programs, nor ICO, which decodes as it is opened.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
ORIENTATION = 0x0112
# Errors that Pillow's decoders raise on damaged files.
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
    """Limits on images from untrusted sources."""

    max_pixels: int = 200_000_000  # pixels of the decoded image; checked before decoding
    max_bytes: int = 256 * 2**20  # size of the file
    max_images: int = 32  # images per prompt
    allow_url: bool = False  # fetch http and https URLs


class OpenedImage:
    """An image with a known size whose pixels are not decoded yet.

    Attributes:
        name: of the image, for messages.
        size: (height, width) in pixels after rotation by EXIF.
    """

    def __init__(
        self, image: Image.Image, name: str, limits: ImageLimits, ours: bool = True
    ) -> None:
        self.name, self._image, self._limits = name, image, limits
        self._ours = ours  # no caller has this object, so its decoder may be reconfigured
        self._reduced = False
        width, height = image.size
        if width * height > limits.max_pixels:
            raise InputError(
                f"{name} has {width} x {height} pixels ({width * height / 1e6:.0f} megapixels), "
                f"the limit is {limits.max_pixels / 1e6:.0f}; raise it with --max-megapixels"
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
        """Decode the image to RGB as a viewer would show it.

        EXIF rotation is applied, transparent pixels are blended over white, 16-bit values are
        scaled to 8 bits, palettes, grayscale and CMYK become RGB, other color profiles are
        converted to sRGB, and an animation gives its first frame.

        Args:
            at_least: (height, width) in pixels that suffices. A JPEG may then be decoded at 1/2,
                1/4 or 1/8 of its size, but not below this. None decodes all pixels.

        Returns:
            An RGB image.

        Raises:
            InputError: the file is damaged.
            ValueError: the image was decoded at a reduced size before.
        """
        image, size = self._image, self.size
        if self._reduced:
            raise ValueError(f"{self.name} was already decoded at a reduced size; open it again")
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
            raise InputError(
                f"{self.name} is damaged: it decodes to {image.width} x {image.height} pixels, "
                f"expected {size[1]} x {size[0]}"
            )
        return image

    def _reduce(self, height: int, width: int) -> tuple[int, int]:
        """Tell a JPEG's decoder to reduce it; return the (height, width) after rotation."""
        sideways = self._orientation in SIDEWAYS
        self._image.draft(None, (height, width) if sideways else (width, height))
        width, height = self._image.size
        self._reduced = True
        return (width, height) if sideways else (height, width)

    def _upright(self, image: Image.Image) -> Image.Image:
        if self._orientation == 1:
            return image
        from PIL import ImageOps  # slow to import, and most images need no rotation

        return ImageOps.exif_transpose(image)


def open_image(source: ImageSource, limits: ImageLimits) -> OpenedImage:
    """Read an image file and parse its header, without decoding the pixels.

    HEIC is an exception: it is converted to TIFF at once.

    Args:
        source: a path (also with `~` or `file://`), an http(s) URL if `limits` allow it, a
            `data:` URI, the bytes of a file, or a PIL image.
        limits: on bytes read, pixels decoded and the use of the network.

    Raises:
        InputError: the source cannot be read, is not an image, or exceeds a limit.
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
        raise InputError(
            f"{name} has far more than {limit:.0f} megapixels, the limit; "
            "raise it with --max-megapixels"
        ) from None
    except DECODE_ERRORS:
        raise InputError(
            f"{name} is not an image this program can read; expected one of {', '.join(FORMATS)}"
        ) from None
    return OpenedImage(image, name, limits)


def read_size(path: str | Path, limits: ImageLimits) -> tuple[int, int] | None:
    """Read (height, width) in pixels from a file's header, before rotation by EXIF.

    Returns:
        None if the file cannot be read, or is HEIC, whose size is not known before decoding.
    """
    try:
        with _our_rules(limits), Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except DECODE_ERRORS:
        return None


def _read(source: str | Path, limits: ImageLimits) -> tuple[str, bytes]:
    """Return the name, for messages, and the bytes of a path, URL or data URI."""
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
        with path.open("rb") as file:  # a device or pipe has no size, so limit the read too
            return str(path), file.read(limits.max_bytes + 1)
    except Lfm2VLError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{text[:100]!r} cannot be read: {reason}") from None


def is_url(source: ImageSource) -> bool:
    """Return whether a source is fetched over the network."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _fetched(url: str, limits: ImageLimits) -> bytes:
    if not limits.allow_url:
        raise InputError(f"{url} is a URL; allow fetching it with --allow-url (allow_url=True)")
    from .fetch import fetch  # imports TLS, which local files do not need

    return fetch(url, limits.max_bytes)


@contextmanager
def _our_rules(limits: ImageLimits) -> Iterator[None]:
    """Replace Pillow's global pixel limit by ours and silence its warnings."""
    with _pillow_globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = saved


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert grayscale images with 16 or 32 bits per pixel, integer or float, to 8 bits.

    Integers are taken to range from 0 to 65535. Floats are taken to range from 0 to 1 if none is
    larger, otherwise from 0 to 255.
    """
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
        return image.convert("RGB")  # the profile is broken or of another kind; ignore it
    plain = np.asarray(_probe(image.mode).convert("RGB")).astype(np.int16)
    if np.abs(np.asarray(converted) - plain).max() <= 3:
        return image.convert("RGB")  # the profile is sRGB: keep the pixels exactly
    return transform.apply(image)


def _probe(mode: str) -> Image.Image:
    """Return an image of at most a few hundred colors, enough to tell a profile from sRGB."""
    levels = np.linspace(0, 255, 5).astype(np.uint8)
    bands = len(Image.new(mode, (1, 1)).getbands())
    colors = np.stack(np.meshgrid(*[levels] * bands), axis=-1).reshape(1, -1, bands)
    return Image.fromarray(colors if bands > 1 else colors[..., 0], mode)
