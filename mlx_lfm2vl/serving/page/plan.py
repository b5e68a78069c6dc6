"""What the page shows before a question is asked: the views and tokens of images, and pictures.

A browser does not show HEIC, TIFF or the pages of a PDF, and does not know how a model cuts images.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ...checkpoint.image_config import ImageConfig
from ...errors import InputError
from ...images.geometry import plan_image
from ...images.inputs import Input
from ...images.pages import PageOptions, expand_inputs
from ...images.read import NamedBytes, read_source
from ...images.source import open_image
from ...options import ImageOptions
from ...skills.prompts import is_taught
from ...skills.tasks import TASKS
from ..exchange import Terms
from ..protocol.answer_fields import DEFAULT_TOKENS, read_background, read_image_options
from ..protocol.fields import BadField, Fields
from ..served import Served

if TYPE_CHECKING:
    from PIL import Image

MAX_PAGES = 20  # of a document, that one preview draws
MAX_SIDE = 1600  # pixels of a photo's longer side in a preview
JPEG_QUALITY = 88
MAX_IMAGES = 10_000  # items of a list, of which `Terms.limits` allows fewer
MAX_NUMBER = 2**31 - 1


def plan(body: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    """Say which model would answer, and how it would see some images.

    Args:
        body: `model`, a name; `images`, a list of data URIs, or of objects with the `width` and
            `height` in pixels of an upright image; and the fields of `ImageOptions`. Each may be
            left out. A PDF stands for its pages.
        terms: what a request may ask for.

    Returns:
        `model`: its `name`, `kind`, `skills` it was taught, `context` in tokens, and `defaults`:
        the values of fields of a chat request that leaves them out.
        `images`: for each, what `ImagePlan.to_dict` returns, and `note`, how its scale is unusual.
        `tokens`: of all images together.
        `max_images`: of one question, with those of the turns before it.

    Raises:
        BadField: a field is unknown or wrong.
        InputError: an image cannot be read.
        UnknownModel: no model of this name is served.
    """
    given = Fields(body)
    model, config = _read_model(given, terms)
    images = given.items("images", most=MAX_IMAGES)
    given.close()
    terms.limits.check_count(len(images))
    sizes: list[tuple[int, int]] = []
    for number, image in enumerate(images):
        with _naming(field := f"images[{number}]"):
            sizes += _sizes(image, field, config, terms)
    plans = [plan_image(*size, config) for size in sizes]
    return {
        "model": _described(model, terms),
        "images": [{**each.to_dict(), "note": each.scaling} for each in plans],
        "tokens": sum(each.image_tokens for each in plans),
        "max_images": terms.limits.max_images,
    }


def preview(body: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    """Draw an image that a browser may not show, or the pages of a PDF.

    Args:
        body: `image`, a data URI; `pages` of a PDF, such as "1-3"; `model` and the fields of
            `ImageOptions`, which say how large pages are drawn. All but `image` may be left out.
        terms: what a request may ask for.

    Returns:
        `images`: for each picture its `page`, null for a photo; its `size` in pixels, height first;
        and its `url`, a data URI. A page is a PNG that can be asked about instead of the PDF. A
        photo is a JPEG to look at, of at most `MAX_SIDE` pixels a side.
        `count`: of the pictures that there are; at most `MAX_PAGES` are drawn.

    Raises:
        BadField: a field is unknown or wrong.
        InputError: the image cannot be read, or has no such page.
        UnknownModel: no model of this name is served.
    """
    given = Fields(body)
    _, config = _read_model(given, terms)
    pages, image = given.text("pages") or "", given.get("image")
    given.close()
    with _naming("pages"):
        options = PageOptions(pages=pages)
    with _naming("image"):
        pictures = _pictures(image, "image", options, config, terms)
        drawn = [_drawn(each, terms) for each in pictures[:MAX_PAGES]]
    return {"images": drawn, "count": len(pictures)}


def _read_model(given: Fields, terms: Terms) -> tuple[Served, ImageConfig]:
    """The model of a request, and its image settings with those of the request on top."""
    model = terms.find(given.text("model") or "")
    return model, model.info.images.with_options(read_image_options(given, read_background(given)))


def _described(model: Served, terms: Terms) -> dict[str, Any]:
    images = model.info.images
    return {
        "name": model.name,
        "kind": model.info.kind,
        "skills": [name for name in TASKS if is_taught(name, model.info.kind)],
        "context": model.info.context,
        "defaults": {
            "max_completion_tokens": min(DEFAULT_TOKENS, terms.max_tokens or DEFAULT_TOKENS),
            **asdict(model.info.sampling),
            **{field.name: getattr(images, field.name) for field in fields(ImageOptions)},
        },
    }


def _sizes(image: Any, where: str, config: ImageConfig, terms: Terms) -> list[tuple[int, int]]:
    """The (height, width) in pixels of an image, or of each page of a PDF."""
    if isinstance(image, Mapping):
        return [_read_size(Fields(image, where), terms.limits.max_pixels)]
    pictures = _pictures(image, where, PageOptions(), config, terms)
    terms.limits.check_count(len(pictures))
    return [open_image(each.source, terms.limits).size for each in pictures]


def _read_size(given: Fields, max_pixels: int) -> tuple[int, int]:
    """The (height, width) in pixels that a request gives instead of an image."""
    height, width = (given.integer(name, least=1, most=MAX_NUMBER) for name in ("height", "width"))
    given.close()
    if height is None or width is None:
        raise given.bad("", "lacks its width or its height in pixels")
    if height * width > max_pixels:
        raise given.bad("", f"is larger than {max_pixels / 1e6:g} megapixels, the limit")
    return height, width


def _pictures(
    image: Any, where: str, options: PageOptions, config: ImageConfig, terms: Terms
) -> list[Input]:
    """The pictures of a data URI: the pages of a PDF, or one photo. None is drawn yet."""
    if not isinstance(image, str) or image[:5].lower() != "data:":
        given = "missing" if image is None else f"{image!r:.40}"
        raise BadField(f"{where} is {given}, expected a data URI: data:image/...", where)
    data = NamedBytes(read_source(image, terms.limits)[1])  # once, and not again for every page
    data.name = where
    return list(expand_inputs([Input(where, data)], options, config, terms.limits))


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Name a field in errors that do not name one."""
    try:
        yield
    except BadField:
        raise
    except InputError as error:
        raise BadField(str(error), field) from None


def _drawn(picture: Input, terms: Terms) -> dict[str, Any]:
    opened = open_image(picture.source, terms.limits)
    height, width = opened.size
    if picture.page is None:
        scale = min(1.0, MAX_SIDE / max(height, width))
        image = opened.decode(needed=(round(height * scale), round(width * scale)))
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        url = _data_uri(image, "jpeg")
    else:
        url = _data_uri(opened.decode(), "png")
    return {"page": picture.page, "size": [height, width], "url": url}


def _data_uri(image: Image.Image, form: str) -> str:
    file = io.BytesIO()
    image.save(file, form, quality=JPEG_QUALITY)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
