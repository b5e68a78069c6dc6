"""Images as Python programs hold them: bytes-like objects, open files, arrays of pixels."""

import io
import os
import pathlib
import tempfile
import threading
import time

import mlx.core as mx
import numpy as np
import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import generate
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.source import ImageLimits, open_image
from mlx_lfm2vl.prompt import sources
from mlx_lfm2vl.prompt.sources import as_images, read_source

PICTURE = make_picture(13, 21, 1)
PIXELS = np.asarray(PICTURE)
FILE = io.BytesIO()
PICTURE.save(FILE, "png")
DATA = FILE.getvalue()


class Name:
    """A path of another library."""

    def __init__(self, path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


class Frame:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del dtype, copy
        return PIXELS


SOURCES = {
    "bytes": DATA,
    "a bytearray": bytearray(DATA),
    "a memoryview": memoryview(DATA),
    "part of a memoryview": memoryview(b"__" + DATA + b"__")[2:-2],
    "a stream": io.BytesIO(DATA),
    "a NumPy array": PIXELS,
    "a view of a NumPy array": np.flip(np.flip(PIXELS, 1).copy(), 1),
    "a NumPy array with opacity": np.dstack([PIXELS, np.full((13, 21), 255, np.uint8)]),
    "a memoryview of pixels": memoryview(PIXELS),
    "an MLX array": mx.array(PIXELS),
    "an array of another library": Frame(),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_the_pixels_of_the_image(source):
    for _ in range(2):  # a message can be used again
        found = open_image(read_source(source), ImageLimits()).decode()
        np.testing.assert_array_equal(np.asarray(found), PIXELS)


def test_open_files_and_paths_give_the_pixels_of_the_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(DATA)
    spooled = tempfile.SpooledTemporaryFile
    with path.open("rb") as file, path.open("rb", buffering=0) as raw, spooled() as upload:
        upload.write(DATA)
        for source in (Name(path), file, raw, upload):
            found = open_image(read_source(source), ImageLimits()).decode()
            np.testing.assert_array_equal(np.asarray(found), PIXELS)


def test_a_gray_array_has_two_axes_or_one_channel():
    gray = PIXELS[..., 0]
    for array in (gray, gray[..., None]):
        found = read_source(array)
        assert isinstance(found, Image.Image)
        assert found.mode == "L"
        np.testing.assert_array_equal(np.asarray(found), gray)


def test_an_array_is_copied_so_that_a_frame_can_be_used_again():
    frame = PIXELS.copy()
    source = read_source(frame)
    frame[:] = 0
    np.testing.assert_array_equal(np.asarray(source), PIXELS)


WRONG = {
    "channels first": (PIXELS.transpose(2, 0, 1), r"uint8 and shape \(3, 13, 21\), expected uint8"),
    "floats": (PIXELS / 255, "array of float64"),
    "whole numbers": (PIXELS.astype(int), "array of int64"),
    "a batch": (PIXELS[None], r"shape \(1, 13, 21, 3\)"),
    "no pixels": (PIXELS[:0], r"shape \(0, 21, 3\)"),
    "one number": (np.float32(1), r"shape \(\)"),
    "text": (io.StringIO("x"), "gives str, expected bytes; use 'rb'"),
    "a number": (7, "holds 7, expected a path"),
    "a set": ({1}, "holds .1., expected a path"),
}


@pytest.mark.parametrize(("source", "why"), WRONG.values(), ids=WRONG)
def test_other_objects_are_refused_in_a_line(source, why):
    with pytest.raises(InputError, match=why) as error:
        read_source(source)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_a_closed_file_is_refused():
    file = io.BytesIO(DATA)
    file.close()
    with pytest.raises(InputError, match="cannot be read from its open file: I/O operation"):
        read_source(file)


def test_a_pipe_is_read_to_its_end():
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as file:
        thread = threading.Thread(target=write_slowly, args=(writer,))
        thread.start()
        assert read_source(file) == DATA
        thread.join()


def write_slowly(descriptor: int) -> None:
    with open(descriptor, "wb", buffering=0) as file:
        file.write(DATA[:100])
        time.sleep(0.05)
        file.write(DATA[100:])


@pytest.mark.timeout(60)
def test_an_endless_file_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1000)
    with open("/dev/zero", "rb") as file, pytest.raises(InputError, match="over 1000 bytes"):
        read_source(file)


@pytest.mark.parametrize("image", [DATA, bytearray(DATA), PIXELS, pathlib.Path("a"), "a", FILE])
def test_one_image_is_a_list_of_one(image):
    assert as_images(image) == [image] or as_images(image)[0] is image
    assert len(as_images([image, image])) == len(as_images((image, image))) == 2


def test_a_question_goes_with_an_array(tiny):
    answers = [
        generate(*tiny, "What?", image=image, max_tokens=3, temperature=0).token_ids
        for image in (PICTURE, PIXELS, io.BytesIO(DATA), [bytearray(DATA)])
    ]
    assert all(answer == answers[0] for answer in answers)
