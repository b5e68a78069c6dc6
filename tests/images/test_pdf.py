"""Pages of PDFs: how large they are drawn, what is on them, and files that mean harm."""

import gc
import threading
from dataclasses import replace

import numpy as np
import pytest
from drawn_files import pdf

from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images import pdf as reader
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.page_ranges import chosen_pages, page_ranges
from mlx_lfm2vl.images.pages import PageOptions, expand_inputs
from mlx_lfm2vl.images.pdf import PdfFile, PdfPage, page_size
from mlx_lfm2vl.images.source import open_image

FAMILY = ImageConfig(16, 2)
SMALL = ImageConfig(16, 2, tile_size=64, min_image_tokens=1, max_image_tokens=4)
SQUARE = "/MediaBox [0 0 100 100]"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def rectangle(color: tuple[int, int, int], where: str = "0 0 50 50") -> str:
    """Fills a rectangle: left, bottom, width, height."""
    return f"{' '.join(str(level // 255) for level in color)} rg {where} re f"


def pages(data: bytes, chosen: str = "") -> list[Input]:
    return list(expand_inputs([Input("a.pdf", data)], PageOptions(chosen), SMALL, ImageLimits()))


def shown(page: Input) -> np.ndarray:
    return np.asarray(open_image(page.source, ImageLimits()).decode())


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """Colors near the corners, row by row."""
    height, width = pixels.shape[:2]
    return [
        tuple(pixels[y, x].tolist())
        for y in (height // 4, 3 * height // 4)
        for x in (width // 4, 3 * width // 4)
    ]


# -- sizes --


@pytest.mark.parametrize(
    ("points", "size", "grid"),
    [
        ((842, 595), (1536, 1086), (3, 2)),  # A4
        ((595, 842), (1086, 1536), (2, 3)),
        ((792, 612), (1536, 1187), (3, 2)),  # US letter
        ((100, 100), (1536, 1536), (3, 3)),
        ((0.5, 0.25), (2048, 1024), (4, 2)),
        ((14400, 1440), (5120, 512), (10, 1)),
    ],
)
def test_a_page_is_drawn_as_large_as_its_tiles(points, size, grid):
    assert page_size(*points, FAMILY) == size
    assert plan_image(*size, FAMILY).grid == grid


@pytest.mark.parametrize(
    "config",
    [
        FAMILY,
        SMALL,
        replace(FAMILY, do_image_splitting=False),
        replace(FAMILY, max_tiles=2),
        replace(FAMILY, max_tiles=4, min_tiles=1),
    ],
)
def test_no_pixel_of_a_page_is_made_up_and_none_is_lost(config):
    for aspect in np.geomspace(1 / 12, 12, 49):
        size = page_size(800 * aspect, 800, config)
        canvas = plan_image(*size, config).canvas
        assert size[0] >= canvas[0]
        assert size[1] >= canvas[1]
        larger = plan_image(8 * size[0], 8 * size[1], config).canvas
        assert canvas[0] * canvas[1] >= larger[0] * larger[1]
        assert abs(size[0] / size[1] / aspect - 1) < 0.02  # keeps its shape


@pytest.mark.parametrize("points", [(0, 5), (-5, 5), (5, float("inf")), (float("nan"), 5)])
def test_a_page_without_a_size_is_refused(points):
    with pytest.raises(InputError, match="which is no size"):
        page_size(*points, FAMILY)


def test_a_page_that_is_a_line_is_refused():
    with pytest.raises(InputError, match="too long and thin"):
        page_size(14400, 1, FAMILY)


# -- which pages --


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("2", [2]),
        ("1-3,5", [1, 2, 3, 5]),
        (" 4 - , 1", [4, 5, 1]),
        ("2-2", [2]),
    ],
)
def test_pages_are_chosen_in_the_order_given(text, numbers):
    assert chosen_pages(text, 5, "a.pdf") == numbers


@pytest.mark.parametrize("text", ["x", "1;2", "1-2-3", "-2", "1,", "0", "3-2", "0-2", "1.5"])
def test_what_is_no_choice_of_pages_is_refused(text):
    with pytest.raises(InputError, match="^pages "):
        page_ranges(text)


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("5", 3, "a.pdf has 3 pages: there is no page 5"),
        ("2-", 1, "a.pdf has 1 page: there is no page 2"),
        ("1-900000000", 3, "there is no page 900000000"),
        ("", 20_000, "a.pdf has 20000 pages, at most 10000 are read; choose some with --pages"),
        ("1-9000,1-9000", 9000, "more than 10000 pages"),
    ],
)
def test_pages_that_are_not_there_or_too_many_are_refused(text, count, message):
    with pytest.raises(InputError, match=message):
        chosen_pages(text, count, "a.pdf")


# -- what is drawn --


def test_pages_are_upright_within_their_crop_box_and_on_white():
    data = pdf(
        (SQUARE, rectangle(RED)),
        (f"{SQUARE} /Rotate 90", rectangle(RED)),
        (f"{SQUARE} /CropBox [50 0 100 50]", rectangle(RED, "75 0 25 25")),
        (f"{SQUARE} /CropBox [-900 -900 50 50]", rectangle(RED)),
    )
    found = pages(data)
    assert [(page.name, page.page) for page in found] == [
        (f"a.pdf, page {number}", number) for number in (1, 2, 3, 4)
    ]
    assert [corners(shown(page)) for page in found] == [
        [WHITE, WHITE, RED, WHITE],
        [RED, WHITE, WHITE, WHITE],
        [WHITE, WHITE, WHITE, RED],
        [RED] * 4,
    ]


def test_annotations_fields_of_forms_and_transparency_are_drawn():
    appearance = "/Type /XObject /Subtype /Form /BBox [0 0 50 50]"
    stream = "stream\n{0}\nendstream"
    place = {"stamp": "[0 0 50 50]", "field": "[50 50 100 100]"}
    paint = {"stamp": rectangle(GREEN), "field": rectangle(BLUE)}
    data = pdf(
        (
            f"{SQUARE} /Annots [5 0 R 6 0 R] /Resources << /ExtGState << /Half << /ca 0.5 >> >> >>",
            f"/Half gs {rectangle(RED, '0 50 50 50')}",
        ),
        extra=[
            f"<< {appearance} /Length 99 >> {stream.format(paint['stamp'])}",
            f"<< {appearance} /Length 99 >> {stream.format(paint['field'])}",
            f"<< /Type /Annot /Subtype /Stamp /Rect {place['stamp']} /F 4 /AP << /N 3 0 R >> >>",
            f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /Rect {place['field']} /F 4 "
            "/AP << /N 4 0 R >> >>",
        ],
        trailer="|/AcroForm << /Fields [6 0 R] >>",
    )
    (page,) = pages(data)
    half, field, stamp, empty = corners(shown(page))
    assert half == pytest.approx((255, 128, 128), abs=2)
    assert np.argmax(field) == 2  # the form's highlight may tint it
    assert (stamp, empty) == (GREEN, WHITE)


def test_threads_may_draw_pages_of_one_file_at_the_same_time():
    colors = [RED, GREEN, BLUE, WHITE] * 3
    found = pages(pdf(*((SQUARE, rectangle(color, "0 0 100 100")) for color in colors)))
    drawn: dict[int, tuple[int, ...]] = {}

    def draw(number: int) -> None:
        drawn[number] = corners(shown(found[number]))[0]

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(len(colors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn[number] for number in range(len(colors))] == colors


# -- files that mean harm --


LOCK = (
    "/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O (" + "o" * 32 + ") /U (" + "u" * 32 + ") >> "
    "/ID [(a) (a)]"
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pdf((SQUARE, ""), trailer=LOCK), "a.pdf is protected by a password; save it without one"),
        (b"%PDF-1.7\nnothing", "a.pdf is damaged"),
    ],
)
def test_a_pdf_that_cannot_be_opened_says_why_when_its_turn_comes(data, message):
    (refused,) = pages(data)
    with pytest.raises(InputError) as caught:
        open_image(refused.source, ImageLimits())
    assert str(caught.value) == message


def bomb(levels: int = 20) -> list[str]:
    """Forms that each draw the next one ten times, and the last one nothing."""
    form = "/Type /XObject /Subtype /Form /BBox [0 0 100 100]"
    objects = []
    for number in range(3, 3 + levels):
        inner = f"/Resources << /XObject << /X {number + 1} 0 R >> >>"
        objects.append(f"<< {form} {inner} /Length 60 >> stream\n{'/X Do ' * 10}\nendstream")
    objects.append(f"<< {form} /Length 12 >> stream\n0 0 9 9 re f\nendstream")
    return objects


def test_a_page_that_takes_for_ever_is_given_up_and_the_next_is_drawn(monkeypatch):
    monkeypatch.setattr(reader, "SECONDS", 0.2)
    forms = bomb()
    data = pdf(
        (f"{SQUARE} /Resources << /XObject << /X 3 0 R >> >>", "/X Do"),
        (SQUARE, rectangle(RED, "0 0 100 100")),
        extra=forms,
    )
    first, second = pages(data)
    with pytest.raises(InputError, match=r"page 1 cannot be drawn: it takes more than 0.2 sec"):
        shown(first)
    assert corners(shown(second)) == [RED] * 4


def test_a_crash_of_the_reader_is_the_error_of_one_page(monkeypatch, tmp_path):
    program = tmp_path / "crash.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(reader, "WORKER", program)
    page = PdfPage(PdfFile(b"%PDF", "a.pdf"), 1, SMALL)
    with pytest.raises(InputError, match=r"it makes the PDF reader fail \(exit code -11\)"):
        page.draw(ImageLimits())


def test_a_pdf_without_pages_is_refused(monkeypatch):
    monkeypatch.setattr(PdfFile, "ask", lambda *_: {"count": 0})
    with pytest.raises(InputError, match=r"^a\.pdf has no pages$"):
        _ = PdfFile(b"%PDF", "a.pdf").count


def test_a_broken_page_does_not_hold_up_the_others():
    whole = pdf(*((SQUARE, rectangle(color, "0 0 100 100")) for color in (RED, GREEN, BLUE)))
    first, second, third = pages(whole.replace(b"5 0 R 7", b"8 0 R 7"))  # no page, but a stream
    with pytest.raises(InputError, match=r"^a\.pdf, page 2 cannot be drawn: it is damaged$"):
        shown(second)
    assert [corners(shown(page))[0] for page in (first, third)] == [RED, BLUE]


def test_without_pypdfium2_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(reader, "find_spec", lambda _: None)
    (refused,) = pages(pdf((SQUARE, "")))
    with pytest.raises(InputError, match=r"a\.pdf is a PDF, .*: pip install pypdfium2; .*sips"):
        open_image(refused.source, ImageLimits())


def test_the_reader_ends_with_the_last_page():
    found = pages(pdf((SQUARE, ""), (SQUARE, "")))
    shown(found[0])
    worker = found[0].source._file._worker
    found.pop(0)
    gc.collect()
    assert worker.poll() is None
    found.pop()
    gc.collect()
    assert worker.poll() is not None


def test_only_the_last_processes_are_kept_and_an_ended_one_is_started_again(monkeypatch):
    monkeypatch.setattr(reader, "MOST_OPEN", 2)
    files = [PdfFile(pdf((SQUARE, "")), f"{number}.pdf") for number in range(3)]
    assert [file.count for file in files] == [1, 1, 1]
    assert [file._worker is not None for file in files] == [False, True, True]
    assert files[0].ask("size", 1)["size"] == [100, 100]
    assert [file._worker is not None for file in files] == [True, False, True]


def test_a_page_of_more_pixels_than_allowed_is_not_drawn():
    (page,) = pages(pdf((SQUARE, "")))
    with pytest.raises(InputError, match="would have 192 x 192 pixels"):
        open_image(page.source, ImageLimits(max_pixels=1000))
