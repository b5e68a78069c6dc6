"""The directories of a TIFF file: which page is the picture, and whether it is a raw photo."""

import struct
from dataclasses import dataclass, field

from ..errors import InputError

MAX_PAGES = 1000  # that are looked at
MAX_ENTRIES = 100_000  # tags in all of them
MAX_STRIPS = 250_000  # strips or tiles of a page, for each of which Pillow makes an object

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, PHOTOMETRIC = 254, 255, 256, 257, 262
STRIPS, TILES, SUB_DIRECTORIES, DNG_VERSION = 273, 324, 330, 50706
BITS, COMPRESSION, ORIENTATION, STRIP_LENGTHS = 258, 259, 274, 279
JPEG_TABLES, JPEG_START, JPEG_LENGTH = 347, 513, 514
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1  # photometric kinds of grey
COLOR_FILTER_ARRAY, LINEAR_RAW = 32803, 34892  # and of raw photos
MASK = 4  # bit of SUBFILE
# Formats of the types of tags; the last is of bytes without a meaning.
NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q", 7: "B"}
WANTED = {
    *(SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION),
    *(STRIPS, STRIP_LENGTHS, JPEG_TABLES, JPEG_START, JPEG_LENGTH, SUB_DIRECTORIES, DNG_VERSION),
}


@dataclass
class Directory:
    """What one directory says: the first numbers of some tags, and how many strips it has."""

    numbers: dict[int, list[int]] = field(default_factory=dict)
    strips: int = 0
    kind_at: int = 0  # offset of the entry that says what the values mean

    def first(self, tag: int) -> int:
        return (self.numbers.get(tag) or [0])[0]

    @property
    def pixels(self) -> int:
        return self.first(WIDTH) * self.first(HEIGHT)

    @property
    def is_secondary(self) -> bool:
        """Whether this is a preview or a mask of another picture."""
        return bool(self.first(SUBFILE) & (1 | MASK)) or self.first(OLD_SUBFILE) == 2

    @property
    def is_deep(self) -> bool:
        """Whether the values have more than 8 bits."""
        return self.first(BITS) > 8

    def as_black_is_zero(self, data: bytes) -> bytes:
        """The file with grey whose black is zero: Pillow reads deep values of no other kind."""
        value = struct.pack("<H" if data[:2] == b"II" else ">H", BLACK_IS_ZERO)
        return data[: self.kind_at] + value + data[self.kind_at + 2 :]

    @property
    def is_raw(self) -> bool:
        return self.first(PHOTOMETRIC) in (COLOR_FILTER_ARRAY, LINEAR_RAW)


@dataclass
class Page:
    """The picture of a TIFF file.

    Attributes:
        number: of the page, from 0.
        is_series: whether there are other pictures.
        directory: of the page.
        raw_parts: all directories of a raw photo, of which the page is a preview only; otherwise
            none.
    """

    number: int
    is_series: bool
    directory: Directory
    raw_parts: list[Directory]


def find_page(data: bytes, name: str) -> Page:
    """Find the picture among the pages of a TIFF file.

    Args:
        data: of the file.
        name: of the file, for messages.

    Raises:
        InputError: there is no picture, or a page has too many strips.
    """
    reader = _Reader(data)
    pages = reader.chain()
    if not pages:
        raise InputError(f"{name} is damaged: a TIFF file without a picture")
    subs = [sub for page in pages for sub in reader.below(page)]
    pictures = [number for number, page in enumerate(pages) if not page.is_secondary]
    page = pages[pictures[0]] if pictures else pages[0]
    hidden = [sub for sub in subs if not sub.is_secondary and sub.pixels > page.pixels]
    is_raw = any(part.is_raw for part in [*pages, *subs])
    is_raw = is_raw or bool(hidden) or DNG_VERSION in pages[0].numbers or data[8:10] == b"CR"
    if not is_raw and page.strips > MAX_STRIPS:
        raise InputError(
            f"{name} is a TIFF file of {page.strips} strips, at most {MAX_STRIPS} are read"
        )
    parts = [*pages, *subs] if is_raw else []
    return Page(pages.index(page), len(pictures) > 1, page, parts)


def raw_photo(name: str) -> InputError:
    return InputError(
        f"{name} is a raw photo, of which only a small preview could be read; export it as JPEG "
        "or TIFF first (on a Mac: sips -s format jpeg RAW --out photo.jpg)"
    )


class _Reader:
    """Reads directories as far as they are whole, and each of them once."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.is_big = struct.unpack_from(self.order + "H", data, 2)[0] == 43
        self.seen: set[int] = set()
        self.entries = 0

    def chain(self) -> list[Directory]:
        """The pages of the file."""
        at = self._number("Q", 8) if self.is_big else self._number("I", 4)
        pages = []
        while at and len(pages) < MAX_PAGES:
            page, at = self._directory(at)
            if page is None:
                break
            pages.append(page)
        return pages

    def below(self, page: Directory) -> list[Directory]:
        """The pictures that a page keeps in directories of its own."""
        found = [self._directory(at)[0] for at in page.numbers.get(SUB_DIRECTORIES, [])]
        return [sub for sub in found if sub is not None]

    def _directory(self, at: int) -> tuple[Directory | None, int]:
        """Read the directory at an offset; return it, and the offset of the next."""
        head, size = ("Q", 20) if self.is_big else ("H", 12)
        count = self._number(head, at)
        self.entries += count
        if not count or at in self.seen or self.entries > MAX_ENTRIES:
            return None, 0
        self.seen.add(at)
        directory = Directory()
        start = at + struct.calcsize(head)
        for entry in range(start, start + count * size, size):
            self._entry(entry, directory)
        return directory, self._number("Q" if self.is_big else "I", start + count * size)

    def _entry(self, at: int, directory: Directory) -> None:
        tag, kind = self._number("H", at), self._number("H", at + 2)
        count = self._number("Q" if self.is_big else "I", at + 4)
        if tag in (STRIPS, TILES):
            directory.strips = max(directory.strips, count)
        if tag not in WANTED or kind not in NUMBERS:
            return
        form, inline = NUMBERS[kind], 8 if self.is_big else 4
        width = struct.calcsize(form)
        values = at + 4 + inline
        if tag == PHOTOMETRIC:
            directory.kind_at = values
        if count * width > inline:
            values = self._number("Q" if self.is_big else "I", values)
        most = MAX_PAGES if tag == SUB_DIRECTORIES else 1
        directory.numbers[tag] = [
            self._number(form, values + i * width) for i in range(min(count, most))
        ]

    def _number(self, form: str, at: int) -> int:
        """The number at an offset; 0 beyond the end of the file."""
        if at + struct.calcsize(form) > len(self.data):
            return 0
        return struct.unpack_from(self.order + form, self.data, at)[0]
