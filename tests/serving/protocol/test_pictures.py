"""Images of requests: decoded from base64, counted, and never read from a path."""

import base64

import pytest
from client_shapes import DOT
from drawn_files import pdf
from exchanges import MODEL

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image
from mlx_lfm2vl.serving.exchange import Terms, Unfetched
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.protocol.pictures import Picture, load_pictures

CONFIG = MODEL.info.images
DOT_PNG = base64.b64decode(DOT.partition(",")[2])
PAGE = ("/MediaBox [0 0 200 100]", "")
TWO_PAGES = "data:application/pdf;base64," + base64.b64encode(pdf(PAGE, PAGE)).decode()


def load(*sources: str, fetched: dict[str, bytes] | None = None, **limits):
    pictures = [Picture(source, "", f"images[{n}]") for n, source in enumerate(sources)]
    return load_pictures(pictures, terms(fetched, **limits), CONFIG)


def terms(fetched: dict[str, bytes] | None = None, **limits) -> Terms:
    return Terms(lambda _: MODEL, ImageLimits(**limits), fetched=fetched or {})


def test_an_image_is_named_by_its_number_or_its_file():
    ((first,), (second,)) = load(DOT, DOT.replace("data:", "DATA:"))
    assert (first.name, second.name) == ("image 1", "image 2")
    ((named,),) = load_pictures([Picture(DOT, "dot.png", "image")], terms(), CONFIG)
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


def test_an_address_asks_for_its_file_where_that_is_allowed():
    url, other = "https://example.com/dot.png", "https://a.b/2"
    with pytest.raises(Unfetched) as caught:
        load(url, DOT, other, allow_url=True)
    assert caught.value.fields == {url: "images[0]", other: "images[2]"}
    files = {url: DOT_PNG, other: b""}
    ((image,), (dot,)) = load(url, DOT, fetched=files, allow_url=True)
    assert image == dot == DOT_PNG
    with pytest.raises(BadField, match=r"https://a.b/2 is empty") as empty:
        load(url, other, fetched=files, allow_url=True)
    assert empty.value.param == "images[1]"
    with pytest.raises(InputError, match="the prompt has 2 images"):
        load(url, other, allow_url=True, max_images=1)


def test_all_images_together_have_a_limit_of_bytes():
    assert len(load(DOT, DOT, max_bytes=170)) == 2
    with pytest.raises(BadField, match="the images have more than 169 bytes together"):
        load(DOT, DOT, max_bytes=169)
