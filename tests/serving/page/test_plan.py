"""What the page shows before a question: costs of images, and pictures that a browser can show."""

import base64
import io
import re

import pytest
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.page.plan import MAX_PAGES, MAX_SIDE, plan, preview
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.served import served_model

MODEL = served_model("demo")
LIMITS = ImageLimits(max_pixels=4_000_000, max_images=3)
TERMS = Terms(lambda _: MODEL, LIMITS)


def uri(image: Image.Image, form: str, **options) -> str:
    file = io.BytesIO()
    image.save(file, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def document(pages: int) -> str:
    first, *rest = [make_picture(84, 59, seed) for seed in range(pages)]
    return uri(first, "pdf", save_all=True, append_images=rest)


def test_an_image_is_planned_by_its_size_as_by_its_data():
    picture = make_picture(300, 500, 1)
    by_size = plan({"images": [{"width": 500, "height": 300}]}, TERMS)
    assert by_size == plan({"images": [uri(picture, "png")]}, TERMS)
    expected = plan_image(300, 500, MODEL.info.images)
    assert by_size["images"] == [{**expected.to_dict(), "note": ""}]
    assert by_size["tokens"] == expected.image_tokens


def test_a_plan_names_the_model_its_skills_and_how_many_images_are_taken():
    found = plan({}, TERMS)
    assert found["max_images"] == LIMITS.max_images
    model = found["model"]
    assert (model["name"], model["kind"]) == ("demo", "demo")
    assert {"caption", "detect", "point"} <= set(model["skills"])
    assert not {"layout", "extract"} & set(model["skills"])
    assert model["defaults"]["max_tiles"] == MODEL.info.images.max_tiles
    assert model["defaults"]["temperature"] == MODEL.info.sampling.temperature


def test_image_options_change_the_plan():
    image = {"images": [{"width": 1200, "height": 900}]}
    whole = plan({**image, "do_image_splitting": False}, TERMS)
    assert whole["images"][0]["grid"] == [1, 1]
    assert whole["tokens"] < plan(image, TERMS)["tokens"]


def test_a_document_is_planned_by_page_and_its_pages_are_drawn_as_they_are_read():
    planned = plan({"images": [document(2)]}, TERMS)
    drawn = preview({"image": document(2)}, TERMS)
    assert drawn["count"] == len(planned["images"]) == 2
    assert [picture["page"] for picture in drawn["images"]] == [1, 2]
    for page, picture in zip(planned["images"], drawn["images"], strict=True):
        image = opened(picture["url"])
        assert image.format == "PNG"
        assert picture["size"] == page["size"] == [image.height, image.width]
    (second,) = preview({"image": document(2), "pages": "2"}, TERMS)["images"]
    assert second == drawn["images"][1]


def test_a_preview_draws_the_first_pages_and_says_how_many_there_are():
    drawn = preview({"image": document(MAX_PAGES + 2)}, TERMS)
    assert (len(drawn["images"]), drawn["count"]) == (MAX_PAGES, MAX_PAGES + 2)


def test_a_photo_becomes_a_small_jpeg_that_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    photo = make_picture(90, MAX_SIDE + 400, 1)
    (drawn,) = preview({"image": uri(photo, "tiff", exif=exif)}, TERMS)["images"]
    image = opened(drawn["url"])
    assert (drawn["page"], drawn["size"]) == (None, [MAX_SIDE + 400, 90])
    assert image.format == "JPEG"
    assert image.height == MAX_SIDE
    assert image.width == 90 * MAX_SIDE // (MAX_SIDE + 400)


def test_an_image_that_cannot_be_read_is_named_by_its_field():
    broken = "data:image/png;base64," + base64.b64encode(b"no image").decode()
    for read, body, field in (
        (preview, {"image": broken}, "image"),
        (preview, {"image": document(1), "pages": "2"}, "image"),
        (preview, {"image": document(1), "pages": "x"}, "pages"),
        (plan, {"images": [{"width": 9, "height": 9}, broken]}, "images[1]"),
    ):
        with pytest.raises(BadField, match=re.escape(field)) as caught:
            read(body, TERMS)
        assert caught.value.param == field


@pytest.mark.parametrize("image", ["/etc/hostname", "file:///etc/hostname", "http://x/a.png", 7])
def test_only_data_uris_are_opened(image):
    with pytest.raises(InputError, match="expected a data URI"):
        preview({"image": image}, TERMS)
    with pytest.raises(InputError, match="expected a data URI"):
        plan({"images": [image]}, TERMS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"image": "data:,"}, "unknown field 'image'; did you mean 'images'"),
        ({"images": "data:,"}, "images is a text, expected a list"),
        ({"images": [{"width": 3}]}, r"images\[0\] lacks its width or its height"),
        ({"images": [{"width": 3, "height": True}]}, "height is a boolean"),
        ({"images": [{"width": 3000, "height": 3000}]}, "larger than 4 megapixels"),
        ({"images": [{"width": 0, "height": 3}]}, "width is 0, expected 1 to"),
        ({"images": [{"width": 9, "height": 9}] * 4}, "4 images, at most 3"),
        ({"model": 3}, "model is a number, expected a text"),
        ({"max_tiles": "9"}, "max_tiles is a text, expected a whole number"),
        ({"max_tiles": 1}, "expected 1 <= min <= max"),
    ],
)
def test_a_wrong_plan_is_refused_with_a_reason(body, message):
    with pytest.raises(InputError, match=message):
        plan(body, TERMS)
