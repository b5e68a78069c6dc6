"""The color that is laid below transparent pixels."""

import io

import numpy as np
import pytest
from drawn_files import chunk, png
from PIL import Image

from mlx_lfm2vl.images import colors
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image

NOTE = "image data: all that is drawn is light, so it is shown on black"
SIDE = 20


def shown(source: object) -> np.ndarray:
    return np.asarray(open_image(source, ImageLimits()).decode()).astype(int)


def logo(color: int, alpha: int = 255, mode: str = "RGBA") -> bytes:
    """A square of one grey on transparent black, as PNG."""
    image = Image.new("RGBA", (SIDE, SIDE))
    image.paste((color, color, color, alpha), (5, 5, 15, 15))
    file = io.BytesIO()
    image.convert(mode).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("rows", [1, SIDE])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_light_writing_is_shown_on_black_with_one_note(mode, rows, caplog, monkeypatch):
    monkeypatch.setattr(colors, "STRIP_PIXELS", SIDE * rows)
    pixels = shown(logo(250, mode=mode))
    assert pixels[10, 10].tolist() == [250] * 3
    assert pixels[0, 0].tolist() == [0] * 3
    assert [record.getMessage() for record in caplog.records] == [NOTE]


def test_light_writing_that_is_half_transparent_is_shown_on_black():
    assert shown(logo(255, 128))[[0, 10], [0, 10], 0].tolist() == [0, 128]


@pytest.mark.parametrize("color", [0, 128, 220])
def test_writing_that_can_be_seen_on_white_is_shown_on_white(color, caplog):
    assert shown(logo(color))[[0, 10], [0, 10], 0].tolist() == [255, color]
    assert not caplog.records


@pytest.mark.parametrize("rows", [1, SIDE])
def test_a_picture_of_light_and_dark_parts_is_shown_on_white(rows, caplog, monkeypatch):
    monkeypatch.setattr(colors, "STRIP_PIXELS", SIDE * rows)
    image = Image.open(io.BytesIO(logo(255)))
    image.paste((40, 40, 40, 255), (12, 12, 15, 15))
    assert shown(image)[0, 0].tolist() == [255] * 3
    assert not caplog.records


def test_a_picture_without_a_visible_pixel_is_white(caplog):
    assert (shown(logo(255, 0)) == 255).all()
    assert not caplog.records


@pytest.mark.parametrize(("color", "depth"), [(0, 2), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_one_transparent_pixel_of_a_white_picture_stays_white(color, depth, caplog):
    assert (shown(with_key(color, depth, transparent=1)) == 255).all()
    assert not caplog.records


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("color", [0, 2])
def test_white_beside_a_transparent_color_is_shown_on_black(color, depth, caplog):
    pixels = shown(with_key(color, depth, transparent=150))[0]
    assert (pixels[:150] == 0).all()
    assert (pixels[150:] == 255).all()
    assert [record.getMessage() for record in caplog.records] == [NOTE]


def with_key(color: int, depth: int, transparent: int) -> bytes:
    """A row of 200 white pixels, of which the first show a dark color that is transparent."""
    channels, most = (1, 2**depth - 1) if color == 0 else (3, 2**depth - 1)
    values = np.full((200, channels), most)
    values[:transparent] = 1
    if depth == 16:
        row = values.astype(">u2").tobytes()
    elif depth == 8:
        row = values.astype(np.uint8).tobytes()
    else:
        row = np.packbits((values >> np.array([1, 0])) & 1).tobytes()
    key = np.full(channels, 1, ">u2").tobytes()
    return png([row], 200, depth, color, chunk(b"tRNS", key))


def test_an_opaque_white_picture_with_alpha_changes_nothing(caplog):
    assert (shown(Image.new("RGBA", (8, 8), "white")) == 255).all()
    assert not caplog.records
