"""Where the bytes of an image come from, and what is said if they do not come."""

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images import read
from mlx_lfm2vl.images.gather import gather
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.read import read_once
from mlx_lfm2vl.images.source import open_image

LIMITS = ImageLimits()
PICTURE = make_picture(20, 30, 1)
PIXELS = np.asarray(PICTURE)


def encoded() -> bytes:
    data = io.BytesIO()
    PICTURE.save(data, "png")
    return data.getvalue()


def shown(source: object, limits: ImageLimits = LIMITS) -> np.ndarray:
    return np.asarray(open_image(source, limits).decode())


def test_bytes_of_every_kind_and_open_files_are_read(tmp_path):
    data = encoded()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (bytearray(data), memoryview(data), io.BytesIO(data), file):
            np.testing.assert_array_equal(shown(source), PIXELS)


def test_an_open_file_is_read_no_further_than_the_cap():
    file = io.BytesIO(bytes(1000))
    with pytest.raises(InputError, match="at most 100 are read"):
        open_image(file, ImageLimits(max_bytes=100))
    assert file.tell() == 101


def test_an_open_file_is_read_from_its_beginning_so_that_a_message_can_be_used_again():
    file = io.BytesIO(encoded())
    file.read()
    for _ in range(2):
        np.testing.assert_array_equal(shown(file), PIXELS)


def test_a_file_open_as_text_or_closed_says_so():
    with pytest.raises(InputError, match="open it with 'rb'"):
        open_image(io.StringIO("x"), LIMITS)
    file = io.BytesIO(encoded())
    file.close()
    with pytest.raises(InputError, match="closed"):
        open_image(file, LIMITS)


def test_an_open_pipe_is_read_to_its_end_and_once():
    data = encoded()
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb", buffering=0) as file:
            for at in range(0, len(data), 500):
                file.write(data[at : at + 500])
                time.sleep(0.005)

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader, "rb", buffering=0) as file:
        np.testing.assert_array_equal(shown(file), PIXELS)
        with pytest.raises(InputError, match="or was read to its end before"):
            open_image(file, LIMITS)
    thread.join()


class Name:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


class Frame:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del dtype, copy
        return PIXELS


def test_paths_files_and_arrays_of_other_libraries_are_images(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    (entry,) = list(os.scandir(tmp_path))
    with tempfile.SpooledTemporaryFile() as upload, path.open("rb", buffering=0) as raw:
        upload.write(encoded())
        for source in (Name(path), entry, upload, raw, Frame()):
            np.testing.assert_array_equal(shown(source), PIXELS)


def test_a_memoryview_holds_a_file_or_if_it_has_more_axes_pixels():
    data = encoded()
    for view in (memoryview(b"__" + data + b"__")[2:-2], memoryview(PIXELS), array("B", data)):
        np.testing.assert_array_equal(shown(view), PIXELS)


def test_an_array_is_copied_so_that_a_frame_can_be_used_again():
    frame = PIXELS.copy()
    opened = open_image(frame, LIMITS)
    frame[:] = 0
    np.testing.assert_array_equal(np.asarray(opened.decode()), PIXELS)


@pytest.mark.parametrize("make", [np.asarray, mx.array], ids=["numpy", "mlx"])
def test_arrays_of_pixels_are_images(make):
    np.testing.assert_array_equal(shown(make(PIXELS)), PIXELS)
    grey = shown(make(PIXELS[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(PIXELS[..., :1], 3, axis=2))
    np.testing.assert_array_equal(shown(make(PIXELS[..., :1])), grey)
    clear = np.dstack([PIXELS, np.zeros((20, 30), np.uint8)])
    assert (shown(make(clear)) == 255).all()
    np.testing.assert_array_equal(shown(PIXELS[::-1, ::-1]), PIXELS[::-1, ::-1])


@pytest.mark.parametrize(
    "array",
    [
        PIXELS.astype(np.float32),
        PIXELS.transpose(2, 0, 1),
        PIXELS[None],
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.float32(1),
        np.array(["x"], object),
    ],
    ids=["float", "channels first", "batch", "empty", "line", "number", "objects"],
)
def test_other_arrays_are_refused_with_their_shape(array):
    with pytest.raises(InputError, match=r"an image array has shape \("):
        open_image(array, LIMITS)


def test_what_is_no_source_is_refused_by_its_type():
    for source, kind in ((5, "int"), ({1}, "set"), (object(), "object"), ([1, 2], "list")):
        with pytest.raises(InputError, match=f"^an image is of type {kind}, expected a path.*$"):
            open_image(source, LIMITS)  # pyright: ignore[reportArgumentType]


def test_a_pil_image_whose_file_was_closed_is_an_input_error(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    with Image.open(path) as image:
        pass
    with pytest.raises(InputError, match="closed"):
        shown(image)


# -- pipes --


@pytest.fixture
def pipe(tmp_path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_is_read_to_its_end(pipe):
    data = encoded()

    def write() -> None:
        with pipe.open("wb") as file:
            for at in range(0, len(data), 500):
                file.write(data[at : at + 500])
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    np.testing.assert_array_equal(shown(pipe), PIXELS)
    writer.join()


def test_a_pipe_that_nobody_writes_to_is_given_up(pipe, monkeypatch):
    monkeypatch.setattr(read, "IDLE_SECONDS", 0.2)
    before = threading.active_count()
    with pytest.raises(InputError, match="gave nothing for 0.2 seconds"):
        open_image(pipe, LIMITS)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before  # the thread that waited has ended


def test_a_device_is_read_no_further_than_the_cap():
    with pytest.raises(InputError, match="at most 1000 are read"):
        open_image("/dev/zero", ImageLimits(max_bytes=1000))
    with pytest.raises(InputError, match="empty"):
        open_image("/dev/null", LIMITS)


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0"])
def test_standard_input_is_read_by_its_path(name):
    code = (
        "from mlx_lfm2vl.images.source import ImageLimits, open_image\n"
        f"print(open_image({name!r}, ImageLimits()).decode().size)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=encoded(), capture_output=True)
    assert (done.stdout, done.stderr) == (b"(30, 20)\n", b"")


def test_a_source_that_was_read_once_keeps_its_name(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello, this is no image")
    source = read_once(str(path), LIMITS)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.txt' is a text file, not an image"):
        open_image(source, LIMITS)
    for other in ("http://a.b/c.png", b"bytes", PICTURE):
        assert read_once(other, LIMITS) is other


# -- names --


@pytest.mark.parametrize(
    ("stored", "typed"),
    [
        ("Screenshot at 9.41.00\u202fAM.png", "Screenshot at 9.41.00 AM.png"),
        ("Screenshot at 9.41.00\xa0AM.png", "Screenshot at 9.41.00 AM.png"),
        ("a b.png", "a\u202fb.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("my pic.png", "'my pic.png'"),
        ("my pic.png", '"my pic.png"'),
        ("my pic.png", "my\\ pic.png"),
        ("my pic.png", "my pic.png "),
        ("my pic.png", " my pic.png"),
        ("it's (1).png", "it\\'s\\ \\(1\\).png"),
    ],
)
def test_a_name_that_only_looks_different_is_suggested(stored, typed, tmp_path, monkeypatch):
    folder = tmp_path / "sub\u202ffolder"
    folder.mkdir()
    (folder / stored).write_bytes(encoded())
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as error:
        open_image(typed, LIMITS)
    assert str(error.value) == f"{typed!r} does not exist; did you mean {stored!r}?"
    for absolute in (
        f"{tmp_path}/sub folder/{typed}",
        f"'{folder}/{stored}' ",
        f'"{folder}/{typed}"',
    ):
        with pytest.raises(InputError) as error:
            open_image(absolute, LIMITS)
        assert str(error.value).endswith(f"did you mean {str(folder / stored)!r}?")


def test_a_link_to_nothing_is_said_to_be_one(tmp_path):
    (tmp_path / "gone.png").symlink_to("no such.png")
    with pytest.raises(InputError, match=r"gone.png' is a link to a file that does not exist"):
        open_image(tmp_path / "gone.png", LIMITS)


def test_nothing_is_suggested_for_a_name_that_is_like_no_other(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "folder /b.png", "'folder'", "no/such.png"):
        with pytest.raises(InputError) as error:
            open_image(name, LIMITS)
        assert str(error.value) == f"{name!r} does not exist"


def test_a_file_whose_name_begins_with_a_tilde_comes_before_a_home_folder(tmp_path, monkeypatch):
    (tmp_path / "~ok.png").write_bytes(encoded())
    home = tmp_path / "home"
    home.mkdir()
    (home / "there.png").write_bytes(encoded())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    for name in ("~ok.png", "./~ok.png", "~/there.png", Path("~ok.png")):
        np.testing.assert_array_equal(shown(name), PIXELS)


def test_an_empty_name_says_so():
    with pytest.raises(InputError, match="the name of an image is empty"):
        open_image("", LIMITS)


def test_a_data_uri_that_is_not_base64_says_what_it_must_be():
    with pytest.raises(InputError, match="expected data:image"):
        open_image("data:image/svg+xml,<svg/>", LIMITS)
    with pytest.raises(InputError, match="data URI has more than 10 bytes"):
        open_image("data:image/png;base64," + "A" * 1000, ImageLimits(max_bytes=10))


@pytest.mark.parametrize("name", ["s3://bucket/a.png", "gs://bucket/a.png", "FTP://host/a.png"])
@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_that_is_not_fetched_is_no_missing_file(name, kind):
    said = f"^'{kind(name)}' is no address that is fetched; download it first$"
    with pytest.raises(InputError, match=said):
        open_image(kind(name), ImageLimits())
    (one,) = gather([name])
    with pytest.raises(InputError, match=f"^'{name}' is no address"):
        open_image(one.source, ImageLimits())
