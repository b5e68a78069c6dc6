"""One image or several, and images in the objects and base64 of other tools."""

import base64
import io
import pathlib
from array import array

import numpy as np
import pytest
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.prompt.sources import as_images, read_base64, read_path_or_base64, read_source

FILE = io.BytesIO()
make_picture(13, 21, 1).save(FILE, "png")
DATA = FILE.getvalue()
TEXT = base64.b64encode(DATA).decode()
ONE = [DATA, bytearray(DATA), array("B", DATA), np.ones((4, 5, 3)), pathlib.Path("a"), "a", FILE]


@pytest.mark.parametrize("image", ONE, ids=lambda image: type(image).__name__)
def test_one_image_is_a_list_of_one(image):
    (found,) = as_images(image)
    assert found is image
    for several in ([image, image], (image, image)):
        assert all(one is image for one in as_images(several))
        assert len(as_images(several)) == 2


def test_an_object_stands_for_the_one_source_it_holds():
    assert read_source({"url": "a.png"}) == read_source({"path": "a.png"}) == "a.png"
    assert read_source({"bytes": DATA, "path": "a.png"}) == DATA
    assert read_source({"base64": TEXT}) == read_source({"data": TEXT}) == DATA
    assert read_source({"data": f"data:image/png;base64,{TEXT}"}).startswith("data:")


WRONG = {
    "nothing": ({}, "an image is empty; expected one of url, path"),
    "two": ({"url": "a", "base64": TEXT}, "an image holds url and base64; expected one"),
    "an object": ({"url": {"url": "a"}}, "the url of an image is an object"),
    "another key": ({"file": "a"}, "unknown key 'file'"),
}


@pytest.mark.parametrize(("value", "why"), WRONG.values(), ids=WRONG)
def test_other_objects_are_refused(value, why):
    with pytest.raises(InputError, match=why):
        read_source(value)


def test_long_base64_may_stand_where_a_path_does():
    assert len(TEXT) > 80
    assert read_path_or_base64(TEXT) == read_base64(TEXT[:50] + "\n" + TEXT[50:]) == DATA
    assert read_path_or_base64(TEXT[:20]) == TEXT[:20]
    for text in (TEXT.rstrip("="), TEXT.replace("+", "-").replace("/", "_")):
        assert read_base64(text) == DATA
    with pytest.raises(InputError, match="not valid base64"):
        read_base64(TEXT.replace("A", " "))
    with pytest.raises(InputError, match="not valid base64"):
        read_base64("a.png")
