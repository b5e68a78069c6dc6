"""Pages of PDFs as pictures, drawn at the size at which the model loses nothing of them."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.image_config import ImageConfig
from ..errors import InputError
from .drawn import Drawn
from .geometry import plan_image
from .page_ranges import chosen_pages
from .read import read_source

if TYPE_CHECKING:
    from PIL import Image

    from .inputs import Input
    from .limits import ImageLimits

SECONDS = 30.0  # of processor time for a page
WORKER = Path(__file__).with_name("pdf_worker.py")
GROWTH = 1.1  # by which a page is drawn larger until it is cut into its tiles
MOST_OPEN = 8  # PDFs whose process is kept for the next request
THINNEST = 500  # times as long as wide; no paper is
LARGE = 10**6  # pixels of a side that every grid of tiles is smaller than
PASSWORD, SECURITY = 4, 5  # PDFium's FPDF_ERR_PASSWORD and FPDF_ERR_SECURITY
LOCKED = {
    PASSWORD: "is protected by a password; save it without one",
    SECURITY: "is protected in a way that is not supported; print it to a new PDF",
}


def pdf_pages(
    item: Input, pages: str, config: ImageConfig, limits: ImageLimits
) -> Iterator[tuple[int, PdfPage]]:
    """Open a PDF; yield the number and the picture of each page that is chosen.

    Args:
        item: the PDF.
        pages: a choice of pages as `page_ranges` reads it; empty is all.
        config: image settings in use, which say at which size a page is drawn.
        limits: on the file.

    Raises:
        InputError: the PDF cannot be read, a page is not there, or pypdfium2 is not installed.
        NetworkError: a URL could not be fetched.
    """
    _, data = read_source(item.source, limits)
    file = PdfFile(data, item.name)
    for number in chosen_pages(pages, file.count, item.name):
        yield number, PdfPage(file, number, config)


def page_size(height: float, width: float, config: ImageConfig) -> tuple[int, int]:
    """Return (height, width) in pixels at which a page loses nothing.

    The page keeps its shape, covers its grid of tiles, and fits it on one side: A4 is drawn with
    1086 x 1536 pixels for 2 x 3 tiles of 512.

    Args:
        height: of the page, in any unit.
        width: of the page, in the same unit.
        config: image settings in use.

    Raises:
        InputError: the page has no size, or is too long and thin, as the end of a sentence.
    """
    if not (0 < height < math.inf and 0 < width < math.inf):
        raise InputError(f"has {width:g} x {height:g} points, which is no size")
    unit = LARGE / max(height, width)
    large = max(1, round(height * unit)), max(1, round(width * unit))
    if min(large) * THINNEST < max(large):
        raise InputError("is too long and thin")
    canvas = plan_image(*large, config).canvas
    scale = max(canvas[0] / large[0], canvas[1] / large[1])
    while True:
        size = _scaled(large[0], scale), _scaled(large[1], scale)
        if plan_image(*size, config).canvas == canvas or min(size) > 2 * max(canvas):
            return size
        scale *= GROWTH  # a small page would be shown in one view


def _scaled(side: int, scale: float) -> int:
    return math.ceil(side * scale - 1e-6)


class PdfPage(Drawn):
    """A page of a PDF, counted from 1."""

    def __init__(self, file: PdfFile, number: int, config: ImageConfig) -> None:
        self.name = f"{file.name}, page {number}"
        self._file, self._number, self._config = file, number, config

    def draw(self, limits: ImageLimits) -> Image.Image:
        """Draw the page on white, with annotations and the fields of forms.

        Raises:
            InputError: it is damaged, takes too long, or would have too many pixels.
        """
        from PIL import Image

        try:
            points = self._file.ask("size", self._number)["size"]
            height, width = page_size(points[0], points[1], self._config)
            if width * height > limits.max_pixels:
                raise InputError(f"would have {width} x {height} pixels; it is too long and thin")
            pixels = self._file.ask("draw", self._number, height, width)["pixels"]
        except InputError as error:
            raise InputError(f"{self.name} cannot be drawn: it {error}") from None
        return Image.frombytes("RGB", (width, height), pixels)


class PdfFile:
    """A PDF that is open in a process of its own, which ends with this object.

    Only the last `MOST_OPEN` processes are kept: a server holds many PDFs whose questions wait.

    Attributes:
        name: of the file, for messages.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name, self._data = name, data
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None

    @cached_property
    def count(self) -> int:
        """The number of pages.

        Raises:
            InputError: the PDF cannot be read, or pypdfium2 is not installed.
        """
        try:
            count = self.ask("count")["count"]
        except InputError as error:
            raise InputError(f"{self.name} {error}") from None
        if not count:
            raise InputError(f"{self.name} has no pages")
        return count

    def ask(self, *request: Any) -> dict[str, Any]:
        """Ask the process that has the PDF open. One that has died is replaced.

        Raises:
            InputError: there is no answer, with the reason alone.
        """
        with self._lock:
            if self._worker is None:
                _make_room(self)
                self._worker = self._start()
            worker = self._worker
            assert worker.stdin
            assert worker.stdout
            answer: dict[str, Any] = {}
            with suppress(OSError):  # it has died
                worker.stdin.write(json.dumps(request).encode() + b"\n")
                worker.stdin.flush()
                answer = json.loads(worker.stdout.readline() or b"{}")
                if "bytes" in answer:
                    answer["pixels"] = worker.stdout.read(answer["bytes"])
            if answer and "error" not in answer:
                return answer
            if not answer:
                self._worker = None
                answer["code"] = _stop(worker)
        raise InputError(_reason(answer))

    def rest(self) -> bool:
        """End the process unless it is at work. The next request starts another one.

        Returns:
            Whether there is no process now.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._worker is not None:
                _stop(self._worker)
                self._worker = None
            return True
        finally:
            self._lock.release()

    def _start(self) -> subprocess.Popen[bytes]:
        if find_spec("pypdfium2") is None:
            raise InputError(
                "is a PDF, whose pages need pypdfium2, the extra 'pdf': pip install pypdfium2; "
                "on a Mac, this converts the first page: sips -s format png A.pdf --out A.png"
            )
        worker = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the caller
        )
        weakref.finalize(self, _stop, worker)
        assert worker.stdin
        with suppress(OSError):  # it has died, which the first request finds
            worker.stdin.write(b"%d\n" % len(self._data))
            worker.stdin.write(self._data)
        return worker


_open: list[weakref.ref[PdfFile]] = []  # whose process was started, the oldest first
_opening = threading.Lock()


def _make_room(newest: PdfFile) -> None:
    """End the oldest processes that are not at work, before that of a file is started."""
    with _opening:
        found = [file for known in _open if (file := known()) is not None and file is not newest]
        spare = len(found) - MOST_OPEN + 1
        left = [file for number, file in enumerate(found) if number >= spare or not file.rest()]
        _open[:] = map(weakref.ref, [*left, newest])


def _reason(answer: dict[str, Any]) -> str:
    """Why a process gave no answer."""
    code = answer.get("code")
    if answer.get("error") in LOCKED:
        return LOCKED[answer["error"]]
    if code == -signal.SIGPROF:
        return f"takes more than {SECONDS:g} seconds of work"
    if code:
        return f"makes the PDF reader fail (exit code {code})"
    return "is damaged"


def _stop(worker: subprocess.Popen[bytes]) -> int:
    """End a process; return its exit code."""
    for pipe in (worker.stdin, worker.stdout):
        with suppress(OSError):
            if pipe:
                pipe.close()
    worker.kill()
    return worker.wait()
