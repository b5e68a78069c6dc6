"""What the numbers of a decoded image mean as colors: from any of Pillow's modes to 8-bit sRGB."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImagePalette, ImageStat

from ..errors import InputError
from .container import ImageFile
from .damage import DamageError

BITS, PHOTOMETRIC, SUBSAMPLING, COMPRESSION, SAMPLE_FORMAT = 258, 262, 530, 259, 339  # TIFF tags
COLOR_MAP = 320
MEANINGS = (BITS, PHOTOMETRIC, SUBSAMPLING, COMPRESSION, SAMPLE_FORMAT)
WHITE_IS_ZERO, SIGNED = 0, 2
STRIP_PIXELS = 2**20
LEVELS = {"L;2": 85, "L;4": 17}  # steps between the levels of 2 and 4 bits
FINE = 16.0  # root mean square of the difference between neighbors; photos have 5 to 12
LIGHT = 230  # least level of grey that cannot be told from white
FEW = 0.01  # share of a picture that does not count
ON_BLACK = "all that is drawn is light, so it is shown on black"
# Formats in which some programs write an alpha of zero everywhere and mean opaque.
EMPTY_ALPHA = ("BMP", "DIB", "TGA")


def check_meaning(image: Image.Image, name: str) -> None:
    """Refuse a TIFF that Pillow would decode to other values than its tags say.

    Raises:
        InputError: it is of such a kind.
    """
    tags = _tags(image)
    if not tags:
        return
    bits = _first(tags, BITS, 1)
    if _first(tags, SAMPLE_FORMAT, 1) == SIGNED and bits < 32:
        raise InputError(f"{name} has signed values, which are not supported; save it as PNG")
    is_coarse = tuple(tags.get(SUBSAMPLING, (2, 2))) != (1, 1)
    if image.mode == "YCbCr" and _first(tags, COMPRESSION, 1) == 1 and is_coarse:
        raise InputError(
            f"{name} has uncompressed YCbCr colors at half the resolution, "
            "which are not supported; save it as PNG"
        )


def mend_palette(image: Image.Image) -> None:
    """Read the palette of a TIFF as 8-bit values if none is above 255.

    The standard has 16 bits, but some programs write 8. Follows `checkcmap` in libtiff.
    """
    levels = (getattr(image, "tag_v2", None) or {}).get(COLOR_MAP, ())
    if image.mode in ("P", "PA") and levels and max(levels) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(levels))


def _tags(image: Image.Image) -> dict[int, Any]:
    """The tags of a TIFF that say what its values mean; none of other images."""
    tags = getattr(image, "tag_v2", None) or {}
    return {tag: tags[tag] for tag in MEANINGS if tag in tags}


def _first(tags: dict, tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return value[0] if isinstance(value, tuple) else value


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (top, strip) for strips of at most `STRIP_PIXELS`."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def has_fine_detail(image: Image.Image) -> bool:
    """Whether neighboring pixels differ as much as in text and line art."""
    squares, count = 0.0, 0
    for _, strip in strips(image):
        width, height = strip.size
        for right, down in ((1, 0), (0, 1)):
            if width > right and height > down:
                here = strip.crop((0, 0, width - right, height - down))
                there = strip.crop((right, down, width, height))
                difference = ImageStat.Stat(ImageChops.difference(here, there))
                squares += sum(difference.sum2)
                count += sum(difference.count)
    return squares > FINE**2 * count


class ColorReader:
    """Converts the decoded pixels of one image, a strip at a time to save memory.

    It is made before the pixels are decoded, because Pillow forgets how they were stored.
    """

    def __init__(self, image: Image.Image, file: ImageFile) -> None:
        tags = _tags(image)
        self._notes = file.notes
        self._format = image.format
        self._bits = _first(tags, BITS, 16)
        self._is_inverted = file.is_inverted or _first(tags, PHOTOMETRIC, 1) == WHITE_IS_ZERO
        self._is_unsigned = self._bits == 32 and _first(tags, SAMPLE_FORMAT, 1) != SIGNED
        self._profile = file.profile or image.info.get("icc_profile")
        tile = getattr(image, "tile", None)
        arguments = tile[0][3] if tile else ""
        self._stored = arguments if isinstance(arguments, str) else str((arguments or [""])[0])

    def restore_transparency(self, image: Image.Image, data: bytes | None) -> None:
        """Compare a transparent color of a PNG with the values as they are stored.

        Args:
            image: whose pixels were just decoded.
            data: of its file; None if the file is not at hand, then 8 bits of 16 are compared.
        """
        key = image.info.get("transparency")
        if self._format != "PNG" or key is None:
            return
        if isinstance(key, int) and self._stored in LEVELS:
            image.info["transparency"] = key * LEVELS[self._stored]
        elif isinstance(key, tuple) and self._stored.startswith("RGB;16"):
            if data is None:
                image.info["transparency"] = tuple(value >> 8 for value in key)
                return
            del image.info["transparency"]
            image.putalpha(_unlike(key, image, data))

    def convert(self, image: Image.Image, background: str | None = None) -> Image.Image:
        """Convert all pixels; the image itself is returned if they are 8-bit RGB already.

        Args:
            image: the decoded image.
            background: color below transparent pixels; None chooses white or black.

        Raises:
            DamageError: the values lie outside every range in use.
        """
        if image.mode == "RGB" and self._profile is None and not image.has_transparency_data:
            return image
        self._white = self._find_white(image)
        self._is_opaque = (
            image.mode == "RGBA"
            and self._format in EMPTY_ALPHA
            and not image.getchannel("A").getbbox()
        )
        self._transform = None
        self._ground = background or self._find_ground(image)
        converted = Image.new("RGB", image.size)
        for top, strip in strips(image):
            converted.paste(self._to_rgb(strip), (0, top))
        return converted

    def _to_rgb(self, image: Image.Image) -> Image.Image:
        colors, alpha = self._parts(image)
        if alpha is None:
            return colors
        ground = Image.new("RGB", image.size, self._ground)
        return Image.composite(colors, ground, alpha)

    def _parts(self, image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
        """Return colors in sRGB and, of a picture with transparent pixels, its alpha."""
        if image.mode.startswith(("I", "F")):
            image = self._eight_bit(image)
        if image.mode == "LAB":
            return self._from_lab(image), None
        if self._is_opaque:
            image = image.convert("RGB")
        if not image.has_transparency_data:
            return self._to_srgb(image), None
        if image.mode == "La":
            image = image.convert("LA")
        if image.mode not in ("LA", "RGBA"):
            image = image.convert("RGBA")
        alpha = image.getchannel("A")
        return self._to_srgb(image.convert(image.mode[:-1])), alpha

    def _find_ground(self, image: Image.Image) -> str:
        """The color below transparent pixels: white, or black if all that is drawn is light."""
        if not self._may_be_transparent(image):
            return "white"
        drawn, dark, most = 0, 0, 255 * image.width * image.height
        for _, strip in strips(image):
            colors, alpha = self._parts(strip)
            if alpha is None:
                return "white"
            weights = alpha.histogram()
            drawn += sum(level * count for level, count in enumerate(weights))
            shade = colors.convert("L").point([255] * LIGHT + [0] * (256 - LIGHT))
            levels = ImageChops.darker(alpha, shade).histogram()
            dark += sum(level * count for level, count in enumerate(levels))
            if dark > FEW * most:
                return "white"
        is_light = drawn and dark <= FEW * drawn and drawn <= (1 - FEW) * most
        if not is_light:
            return "white"
        self._notes.append(ON_BLACK)
        return "black"

    def _may_be_transparent(self, image: Image.Image) -> bool:
        return image.has_transparency_data and not self._is_opaque

    def _numbers(self, image: Image.Image) -> np.ndarray:
        values = np.asarray(image)
        return values.view(np.uint32) if self._is_unsigned and image.mode == "I" else values

    def _find_white(self, image: Image.Image) -> float:
        """The value of full white, of values of more than 8 bits.

        Whole numbers of up to 32 bits use their range, or that of 16 bits. Floats are taken to
        range from 0 to 1, 255 or 65535, whichever is the first that holds all.
        """
        if image.mode not in ("F", "I"):
            return 4095.0 if self._bits == 12 else 65535.0
        if image.mode == "I" and self._is_unsigned:
            return 2.0**32 - 1
        low, high = 0.0, 0.0
        for _, strip in strips(image):
            values = self._numbers(strip)
            values = values[np.isfinite(values)]
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
        if image.mode == "I" and self._format is None:
            ranges = (255.0, 65535.0)  # made of whole numbers by a program, not by a camera
        white = next((white for white in ranges if high <= white), 0.0)
        if not white or low < -white / 10 or (low < 0 and image.mode == "I"):
            raise DamageError(f"its values range from {low:g} to {high:g}, expected 0 to 65535")
        return white

    def _eight_bit(self, image: Image.Image) -> Image.Image:
        values = self._numbers(image).astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # of what is no number
            scaled = values * np.float32(255.0 / self._white)
        levels = np.nan_to_num(scaled, posinf=255.0, neginf=0.0)
        if self._is_inverted:
            levels = 255.0 - levels
        key = image.info.get("transparency")
        if isinstance(key, int):
            alpha = np.where(values == key, 0, 255)
            levels = np.stack([levels, alpha], axis=-1)
        return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))

    def _from_lab(self, image: Image.Image) -> Image.Image:
        from PIL import ImageCms

        if self._transform is None:
            lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            self._transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        return self._transform.apply(image)

    def _to_srgb(self, image: Image.Image) -> Image.Image:
        if self._profile is None:
            return image.convert("RGB")
        is_color = image.mode == "L" and self._profile[16:20] == b"RGB "
        if is_color or image.mode not in ("RGB", "CMYK", "L"):
            image = image.convert("RGB")
        if self._transform is None:
            self._transform = _profile_transform(self._profile, image.mode)
        if self._transform is None:
            self._profile = None
            return image.convert("RGB")
        return self._transform.apply(image)


def _unlike(key: tuple[int, ...], image: Image.Image, data: bytes) -> Image.Image:
    """Return an alpha of 0 where 16-bit colors of a PNG equal `key`, of 255 elsewhere.

    The low bytes are decoded by a mode that takes the first byte of a value for its last.
    """
    low = Image.open(io.BytesIO(data), formats=("PNG",))
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
    low.load()
    alpha = Image.new("L", image.size, 255)
    for (top, high_strip), (_, low_strip) in zip(strips(image), strips(low), strict=True):
        high_bytes, low_bytes = np.asarray(high_strip), np.asarray(low_strip)
        values = high_bytes.astype(np.uint16) << 8 | low_bytes
        unlike = (values != np.array(key, np.uint16)).any(axis=-1)
        alpha.paste(Image.fromarray(unlike.astype(np.uint8) * 255, "L"), (0, top))
    return alpha


def _profile_transform(profile: bytes, mode: str) -> Any:
    """Return the transform of a profile to sRGB; None if it is broken or changes nothing."""
    from PIL import ImageCms  # only images with a profile need it

    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
        )
        converted = transform.apply(_probe(mode))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None  # the profile is broken or of another kind
    plain = np.asarray(_probe(mode).convert("RGB")).astype(np.int16)
    is_srgb = np.abs(np.asarray(converted) - plain).max() <= 3
    return None if is_srgb else transform


def _probe(mode: str) -> Image.Image:
    """Return an image of at most a few hundred colors, enough to tell a profile from sRGB."""
    levels = np.array([0, 20, 64, 128, 191, 255], np.uint8)  # curves differ most in the dark
    bands = len(Image.new(mode, (1, 1)).getbands())
    colors = np.stack(np.meshgrid(*[levels] * bands), axis=-1).reshape(1, -1, bands)
    return Image.fromarray(colors if bands > 1 else colors[..., 0], mode)
