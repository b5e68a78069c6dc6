"""Decoding an opened image to upright 8-bit RGB pixels, as a viewer would show it."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from PIL import Image

from ..errors import InputError
from .colors import ColorReader, check_meaning, has_fine_detail, mend_palette
from .container import HEIF_COST, ImageFile, check_pixels
from .damage import DECODE_ERRORS, DamageError, reason
from .jpeg import END, reduction
from .libtiff import libtiff_only, silent_libtiff
from .limits import ImageLimits

logger = logging.getLogger(__name__)

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Bytes per pixel, where it is more than 8.
DECODER_COSTS = {"AVIF": 12, "JPEG2000": 20, "HEIF": HEIF_COST}
# Bits that complete the last blocks of a JPEG. If they change its pixels, it was cut. Groups of 011
# are codes of values other than zero in most tables, where the decoder itself fills in zeros.
JUNK = b"\x6d\xb6\xdb" * 400
MISSING_END = "the end of the file is missing"
_pillow_globals = threading.Lock()


class OpenedImage:
    """An image with a known size whose pixels are not decoded yet.

    Attributes:
        name: of the image, for messages.
        size: (height, width) in pixels after rotation by EXIF.
    """

    def __init__(
        self, image: Image.Image, file: ImageFile, limits: ImageLimits, ours: bool = True
    ) -> None:
        self.name, self._image, self._file, self._limits = file.name, image, file, limits
        self._ours = ours  # no caller has this object, so its decoder may be reconfigured
        self._decoded = False
        cost = DECODER_COSTS.get(image.format or "", 1) if ours else 1
        try:
            with pillow_rules(limits, file.is_tiff):
                if file.page:
                    image.seek(file.page)
                self._is_series = file.is_series or (
                    image.format in ("WEBP", "AVIF") and getattr(image, "n_frames", 1) > 1
                )
                if image.format == "TIFF":
                    check_meaning(image, self.name)
                    mend_palette(image)
                self._colors = ColorReader(image, file)
        except DECODE_ERRORS as error:
            raise InputError(f"{self.name} is damaged or not supported: {reason(error)}") from None
        width, height = image.size
        if not width or not height:
            raise InputError(f"{self.name} has {width} x {height} pixels: there is nothing to see")
        check_pixels(self.name, width, height, cost, limits)
        self._orientation = file.orientation or self._read_orientation()
        # Pillow gives a TIFF the right way up already.
        self._turn = None if image.format == "TIFF" else UPRIGHT.get(self._orientation)
        sideways = self._turn is not None and self._orientation in SIDEWAYS
        self.size = (width, height) if sideways else (height, width)

    def _read_orientation(self) -> int:
        try:
            with pillow_rules(self._limits):
                # Of the base class, since that of a PNG decodes the pixels first.
                value = Image.Image.getexif(self._image).get(ORIENTATION, 1)
                return int(value[0] if isinstance(value, bytes) else value)
        except DECODE_ERRORS:
            self._file.notes.append("its EXIF data are damaged, so it may lie on its side")
            return 1

    def decode(
        self, needed: tuple[int, int] | None = None, background: str | None = None
    ) -> Image.Image:
        """Decode the image to RGB as a viewer would show it.

        EXIF rotation is applied, transparent pixels are blended over a color, values of 16 and 32
        bits are scaled to 8, palettes, grayscale, Lab and CMYK become RGB, other color profiles are
        converted to sRGB, and an animation gives its first frame.

        Args:
            needed: (height, width) in pixels to which the image will be resized. A JPEG may then
                be decoded at 1/2 or 1/4 of its size, if that is well above this, and if it shows
                no text or lines. None decodes all pixels.
            background: color below transparent pixels, such as "black" or "#202020". None is white,
                or black if all that is drawn is light.

        Returns:
            An RGB image.

        Raises:
            InputError: the file is damaged.
            ValueError: the image was decoded before.
        """
        if self._decoded:
            raise ValueError(f"{self.name} was already decoded; open it again")
        try:
            with pillow_rules(self._limits):
                size = self._load(needed)
            image = self._to_rgb(background)
        except DECODE_ERRORS as error:
            raise InputError(f"{self.name} is damaged or not supported: {reason(error)}") from None
        if (image.height, image.width) != size:
            raise InputError(
                f"{self.name} is damaged: it decodes to {image.width} x {image.height} pixels, "
                f"expected {size[1]} x {size[0]}"
            )
        self.say_notes()
        return image

    def say_notes(self) -> None:
        """Log what is unusual about the image, as far as it is known yet."""
        if self._is_series:
            logger.warning("%s has several frames or pages: using the first", self.name)
        if self._file.notes:
            logger.warning("%s: %s", self.name, "; ".join(self._file.notes))

    def _load(self, needed: tuple[int, int] | None) -> tuple[int, int]:
        """Decode the stored pixels; return the (height, width) they have when upright."""
        scale = 1
        if not (self._ours and self._image.format in ("JPEG", "MPO")):
            with silent_libtiff() if self._image.format == "TIFF" else nullcontext():
                self._image.load()
        else:
            scale = self._load_jpeg(needed)
        self._colors.restore_transparency(self._image, self._file.data if self._ours else None)
        return self.size[0] // scale, self.size[1] // scale

    def _load_jpeg(self, needed: tuple[int, int] | None) -> int:
        """Decode a JPEG, reduced if that suffices; return by what its sides were divided."""
        width, height = self._image.size
        scale = 1
        if needed:
            sideways = self._orientation in SIDEWAYS
            least = (needed[1], needed[0]) if sideways else needed
            scale = reduction(self._file.data, (height, width), least)
        if scale > 1:
            image = Image.open(io.BytesIO(self._file.data), formats=("JPEG", "MPO"))
            image = self._decoded_jpeg(image, scale)
            if not has_fine_detail(image):
                self._image = image
                return scale
        self._image = self._decoded_jpeg(self._image, 1)
        return 1

    def _decoded_jpeg(self, image: Image.Image, scale: int) -> Image.Image:
        """Decode a JPEG, also one without an end marker if all its rows are there.

        Anything may follow the last row without changing it, but what follows a cut is decoded.
        """
        if self._file.is_ended:
            _reduce(image, scale)
            image.load()
            return image
        images, rows = [], self._file.data.rstrip(b"\xff")  # half of a marker
        for ending in (END, JUNK + END):
            image = Image.open(io.BytesIO(rows + ending), formats=("JPEG",))
            _reduce(image, scale)
            image.load()
            images.append(image)
        first, second = (image.tobytes() for image in images)
        if first != second:
            raise DamageError("the file is cut off")
        if MISSING_END not in self._file.notes:
            self._file.notes.append(MISSING_END)
        return images[0]

    def _to_rgb(self, background: str | None) -> Image.Image:
        """Turn and convert the loaded pixels. Those of an image of ours are let go of early."""
        image = self._image
        if self._ours:
            self._decoded = True
            self._image = Image.new("L", (1, 1))
        if self._turn is not None:
            image = image.transpose(self._turn)
        return self._colors.convert(image, background)


def _reduce(image: Image.Image, scale: int) -> None:
    """Tell a JPEG's decoder to divide the sides of the picture."""
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))


@contextmanager
def pillow_rules(limits: ImageLimits, is_tiff: bool = False) -> Iterator[None]:
    """Replace Pillow's global pixel limit by ours and silence its warnings and log lines."""
    rules = libtiff_only() if is_tiff else nullcontext()
    with _pillow_globals, warnings.catch_warnings(), _silent_log(), rules:
        warnings.simplefilter("ignore")
        saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = saved


@contextmanager
def _silent_log() -> Iterator[None]:
    """Keep Pillow's log lines from handlers that are not its own; its exceptions say the same."""
    pillow, nowhere = logging.getLogger("PIL"), logging.NullHandler()
    saved, pillow.propagate = pillow.propagate, False
    pillow.addHandler(nowhere)
    try:
        yield
    finally:
        pillow.removeHandler(nowhere)
        pillow.propagate = saved
