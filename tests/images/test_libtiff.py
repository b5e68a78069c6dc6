"""libtiff says nothing on standard error, and what others say there is not lost."""

import io
import subprocess
import sys

import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.images import libtiff


def damaged() -> bytes:
    """A TIFF about which libtiff writes a line."""
    data = io.BytesIO()
    make_picture(40, 60, 1).save(data, "tiff", compression="tiff_lzw")
    broken = bytearray(data.getvalue())
    broken[60:110] = bytes(range(200, 250))
    return bytes(broken)


OPEN = """
import contextlib, os, sys, threading
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.source import ImageLimits, open_image
data, done = sys.stdin.buffer.read(), False
def write():
    count = 0
    while not done or count < 1000:
        os.write(2, b"%d\\n" % count)
        count += 1
    print(count)
writer = threading.Thread(target=write)
writer.start()
for _ in range(50):
    with contextlib.suppress(InputError):
        open_image(data, ImageLimits()).decode()
done = True
writer.join()
"""


def test_what_other_threads_write_meanwhile_is_not_lost():
    done = subprocess.run([sys.executable, "-c", OPEN], input=damaged(), capture_output=True)
    assert done.returncode == 0
    assert done.stderr.decode().split() == [str(n) for n in range(int(done.stdout))]


def test_others_hear_of_libtiffs_errors_as_before(capfd):
    with libtiff.silent_libtiff(), pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(damaged())).load()
    assert capfd.readouterr().err == ""
    with pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(damaged())).load()
    assert "not yet in table" in capfd.readouterr().err


def test_a_library_that_hides_its_handlers_is_used_as_it_is(monkeypatch):
    libtiff._handler_setters.cache_clear()
    monkeypatch.setattr(libtiff.ctypes, "CDLL", lambda _: object())
    with libtiff.silent_libtiff(), pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(damaged())).load()
    assert libtiff._handler_setters() == []
    libtiff._handler_setters.cache_clear()
