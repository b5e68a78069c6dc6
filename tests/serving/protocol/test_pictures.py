"""Images of requests: decoded from base64, counted, and never read from a path."""

import base64

import pytest
from client_shapes import DOT
from drawn_files import pdf

from mlx_lfm2vl.errors import InputError, NetworkError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.protocol.pictures import Picture, load_pictures
from mlx_lfm2vl.serving.served import served_model

CONFIG = served_model("demo").info.images
PAGE = ("/MediaBox [0 0 200 100]", "")
TWO_PAGES = "data:application/pdf;base64," + base64.b64encode(pdf(PAGE, PAGE)).decode()


def load(*sources: str, **limits):
    pictures = [Picture(source, "", f"images[{n}]") for n, source in enumerate(sources)]
    return load_pictures(pictures, ImageLimits(**limits), CONFIG)


def test_an_image_is_named_by_its_number_or_its_file():
    ((first,), (second,)) = load(DOT, DOT.replace("data:", "DATA:"))
    assert (first.name, second.name) == ("image 1", "image 2")
    ((named,),) = load_pictures([Picture(DOT, "dot.png", "image")], ImageLimits(), CONFIG)
    assert open_image(named, ImageLimits()).size == (5, 5)
    assert named.name == "dot.png"


def test_a_pdf_stands_for_its_pages_which_count_as_images():
    (pages, (dot,)) = load(TWO_PAGES, DOT)
    assert [page.name for page in pages] == ["image 1, page 1", "image 1, page 2"]
    assert dot.name == "image 2"
    with pytest.raises(BadField, match="the prompt has 3 images, at most 2 are read") as caught:
        load(TWO_PAGES, DOT, max_images=2)
    assert caught.value.param == "images[0]"
    with pytest.raises(BadField, match="at most 1 are read"):
        load(TWO_PAGES, max_images=1)


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "../photo.png",
        "~/photo.png",
        "demo",
        "file:///etc/passwd",
        "ftp://a.b/c.png",
        "http://127.0.0.1/photo.png",
        "HTTPS://example.com/a.png",
        "data:image/png,plain",
        "data:image/png;base64,!!!",
        "data:image/png;base64,",
        "A" * 100 + "!",
        "\0",
        "",
    ],
)
def test_nothing_but_base64_is_read_and_no_address_fetched(source, monkeypatch):
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr("mlx_lfm2vl.images.fetch.fetch", None)
    with pytest.raises(BadField) as caught:
        load(source)
    assert caught.value.param == "images[0]"


def test_an_address_is_fetched_where_that_is_allowed(monkeypatch):
    fetched = []

    def fetch(url: str, max_bytes: int) -> bytes:
        fetched.append((url, max_bytes))
        return base64.b64decode(DOT.partition(",")[2])

    monkeypatch.setattr("mlx_lfm2vl.images.fetch.fetch", fetch)
    ((image,),) = load("https://example.com/dot.png", allow_url=True, max_bytes=9000)
    assert len(image) == 85
    assert fetched == [("https://example.com/dot.png", 9000)]
    with pytest.raises(InputError, match="the prompt has 2 images"):
        load("https://a.b/1", "https://a.b/2", allow_url=True, max_images=1)
    assert len(fetched) == 1
    with pytest.raises(BadField, match="this server fetches none"):
        load("https://example.com/dot.png")


def test_an_address_that_cannot_be_fetched_is_a_fault_of_the_request(monkeypatch):
    def fetch(url: str, _max_bytes: int) -> bytes:
        raise NetworkError(f"{url} cannot be fetched: 404 Not Found")

    monkeypatch.setattr("mlx_lfm2vl.images.fetch.fetch", fetch)
    with pytest.raises(BadField, match="cannot be fetched: 404 Not Found") as caught:
        load("https://example.com/dot.png", allow_url=True)
    assert caught.value.param == "images[0]"


def test_all_images_together_have_a_limit_of_bytes():
    assert len(load(DOT, DOT, max_bytes=170)) == 2
    with pytest.raises(BadField, match="the images have more than 169 bytes together"):
        load(DOT, DOT, max_bytes=169)
