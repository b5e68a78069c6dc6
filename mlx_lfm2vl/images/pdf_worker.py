"""A program of its own that draws pages of one PDF, so that no PDF can stop or crash its caller.

PDFium is C++ that reads files from strangers. A page can make it work for hours, take all memory or
crash. Its calls cannot be interrupted, and it serves one thread at a time.

On stdin: the number of bytes of the PDF in a line, the bytes, then requests, a JSON list in a line:
`["count"]`, `["size", page]`, `["draw", page, height, width]`. On stdout: a line of JSON for each,
and the RGB pixels of what was drawn. The argument is the processor time in seconds that a request
may take. After it the process is killed.
"""

import contextlib
import json
import resource
import signal
import sys
from typing import Any, BinaryIO

import pypdfium2 as pdfium
import pypdfium2.raw as raw

MAX_MEMORY = 4 * 2**30  # bytes of address space; macOS does not hold processes to it
BYTES = 3  # of a pixel
FLAGS = raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER  # comments and stamps too; RGB


def serve(requests: BinaryIO, answers: BinaryIO, seconds: float) -> None:
    """Answer requests about one PDF until there are no more."""
    data = requests.read(int(requests.readline()))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        document = pdfium.PdfDocument(data)
        document.init_forms()
    except pdfium.PdfiumError as error:
        answers.write(_line({"error": error.err_code}))
        return
    for line in requests:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer, pixels = _answer(document, *json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)  # the caller may take its time
        answers.write(_line(answer))
        answers.write(pixels)
        answers.flush()


def _answer(document: pdfium.PdfDocument, what: str, *given: int) -> tuple[dict, Any]:
    if what == "count":
        return {"count": len(document)}, b""
    try:
        page = document[given[0] - 1]
    except pdfium.PdfiumError:
        return {"error": None}, b""
    if what == "size":
        width, height = page.get_size()
        return {"size": [height, width]}, b""
    _, height, width = given
    return {"bytes": height * width * BYTES}, _draw(document, page, height, width)


def _draw(document: pdfium.PdfDocument, page: pdfium.PdfPage, height: int, width: int) -> Any:
    """Draw a page on white, upright and within its crop box, with the fields of forms."""
    bitmap = pdfium.PdfBitmap.new_native(width, height, raw.FPDFBitmap_BGR, rev_byteorder=True)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
    place = (0, 0, width, height, 0, FLAGS)
    raw.FPDF_RenderPageBitmap(bitmap, page, *place)
    if document.formenv:
        raw.FPDF_FFLDraw(document.formenv, bitmap, page, *place)
    return bytes(bitmap.buffer)


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
