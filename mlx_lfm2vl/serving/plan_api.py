"""What the page shows before a question is asked: the views and tokens of images, and pictures.

A browser does not show HEIC, TIFF or the pages of a PDF, and does not know how a model cuts images.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, cast

from ..checkpoint.image_config import ImageConfig
from ..errors import InputError
from ..images.geometry import plan_image
from ..images.inputs import Input
from ..images.pages import PageOptions, expand_inputs
from ..images.read import read_source
from ..images.source import open_image
from ..options import ImageOptions
from ..skills.prompts import find_prompt
from ..skills.tasks import TASKS
from .exchange import Terms

if TYPE_CHECKING:
    from PIL import Image

    from ..skills.kinds import Kind

MAX_PAGES = 20  # of a document, that one preview draws
MAX_SIDE = 1600  # pixels of a photo's longer side in a preview
JPEG_QUALITY = 88
IMAGE_OPTIONS = tuple(field.name for field in fields(ImageOptions))


def plan(body: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    """Say which model would answer, and how it would see some images.

    Args:
        body: `model`, a name; `images`, a list of data URIs, or of objects with the `width` and
            `height` in pixels of an upright image; and the fields of `ImageOptions`. Each may be
            left out. A PDF stands for its pages.
        terms: what a request may ask for.

    Returns:
        `model`: its `name`, `kind`, `skills` it was taught, `context` in tokens, `sampling`.
        `images`: for each, what `ImagePlan.to_dict` returns, and `note`, how its scale is unusual.
        `tokens`: of all images together.

    Raises:
        InputError: a field is unknown or wrong, or an image cannot be read.
        UnknownModel: no model of this name is served.
    """
    _check_names(body, ("model", "images", *IMAGE_OPTIONS))
    config = _image_config(body, terms)
    images = body.get("images", [])
    if not isinstance(images, list):
        raise InputError("images is no list, expected data URIs or objects with width and height")
    images = cast(list[Any], images)
    terms.limits.check_count(len(images))
    sizes = [size for image in images for size in _sizes(image, config, terms)]
    plans = [plan_image(*size, config) for size in sizes]
    return {
        "model": _model(body, terms),
        "images": [{**each.to_dict(), "note": each.scaling} for each in plans],
        "tokens": sum(each.image_tokens for each in plans),
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
        InputError: a field is unknown or wrong, or the image cannot be read.
        UnknownModel: no model of this name is served.
    """
    _check_names(body, ("model", "image", "pages", *IMAGE_OPTIONS))
    config = _image_config(body, terms)
    pages = body.get("pages", "")
    if not isinstance(pages, str):
        raise InputError(f"pages is {pages!r:.40}, expected text such as 1-3")
    pictures = _pictures(body.get("image"), pages, config, terms)
    drawn = [_drawn(each, terms) for each in pictures[:MAX_PAGES]]
    return {"images": drawn, "count": len(pictures)}


def taught(kind: Kind) -> list[str]:
    """Return the names of the skills that a kind of checkpoint was taught."""
    return [name for name in TASKS if _is_taught(name, kind)]


def _is_taught(name: str, kind: Kind) -> bool:
    try:
        find_prompt(name, kind)
    except InputError:
        return False
    return True


def _model(body: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    model = terms.find(body.get("model") or "")
    return {
        "name": model.name,
        "kind": model.info.kind,
        "skills": taught(model.info.kind),
        "context": model.info.context,
        "sampling": asdict(model.info.sampling),
    }


def _check_names(body: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in body:
        if name not in known:
            raise InputError(f"there is no field {name!r:.60}, expected {', '.join(known)}")


def _image_config(body: Mapping[str, Any], terms: Terms) -> ImageConfig:
    """The image settings of the model with those of the request on top."""
    model = body.get("model") or ""
    if not isinstance(model, str):
        raise InputError(f"model is {model!r:.40}, expected a name")
    given = {name: body[name] for name in IMAGE_OPTIONS if body.get(name) is not None}
    config = terms.find(model).info.images
    for name, value in given.items():
        expected = str if name == "background" else type(getattr(config, name))
        if type(value) is not expected:
            raise InputError(f"{name} is {value!r:.40}, expected {expected.__name__}")
    return config.with_options(ImageOptions(**given))


def _sizes(image: Any, config: ImageConfig, terms: Terms) -> list[tuple[int, int]]:
    """The (height, width) in pixels of an image, or of each page of a PDF."""
    if not isinstance(image, dict):
        pictures = _pictures(image, "", config, terms)
        terms.limits.check_count(len(pictures))
        return [open_image(each.source, terms.limits).size for each in pictures]
    sides = [cast(dict[str, Any], image).get(name) for name in ("height", "width")]
    if len(cast(dict[str, Any], image)) != 2 or any(type(side) is not int for side in sides):
        raise InputError(f"an image is {image!r:.60}, expected its width and height in pixels")
    height, width = cast(list[int], sides)
    if height * width > terms.limits.max_pixels:
        raise InputError(
            f"an image of {width} x {height} pixels is larger than "
            f"{terms.limits.max_pixels / 1e6:g} megapixels, the limit"
        )
    return [(height, width)]


def _pictures(image: Any, pages: str, config: ImageConfig, terms: Terms) -> list[Input]:
    """The pictures of a data URI: the pages of a PDF, or one photo. None is drawn yet."""
    if not isinstance(image, str) or not image.lower().startswith("data:"):
        raise InputError(f"an image is {image!r:.40}, expected a data URI: data:image/...;base64,")
    name, data = read_source(image, terms.limits)  # once, and not again for every page
    options = PageOptions(pages=pages)
    return list(expand_inputs([Input(name, data)], options, config, terms.limits))


def _drawn(picture: Input, terms: Terms) -> dict[str, Any]:
    opened = open_image(picture.source, terms.limits)
    height, width = opened.size
    scale = min(1.0, MAX_SIDE / max(height, width))
    needed = max(1, round(height * scale)), max(1, round(width * scale))
    if picture.page is None:
        image = opened.decode(needed=needed)
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        url = _data_uri(image, "jpeg")
    else:
        url = _data_uri(opened.decode(), "png")
    return {"page": picture.page, "size": [height, width], "url": url}


def _data_uri(image: Image.Image, form: str) -> str:
    file = io.BytesIO()
    image.save(file, form, quality=JPEG_QUALITY)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"
