"""The images of a request: base64, PDFs and what was fetched, within limits, never from a path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...checkpoint.image_config import ImageConfig
from ...errors import InputError
from ...images.drawn import Drawn
from ...images.inputs import Input
from ...images.limits import ImageLimits
from ...images.other_kinds import HEADER_BYTES, is_pdf
from ...images.read import NamedBytes, decode_base64, is_url, read_source
from ...prompt.sources import SHORTEST_BASE64
from ..exchange import Terms, Unfetched
from .answer_fields import DETAILS
from .fields import BadField, Fields

MAX_NAME = 200  # characters of a file's name
MAX_SOURCE = 2**30  # characters of base64, which `limits` bounds further
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
EXPECTED = "expected a data URI, such as data:image/png;base64,..."


@dataclass(frozen=True)
class Picture:
    """An image or a PDF of a request, which is not decoded yet.

    Attributes:
        source: a data URI, base64, or an address.
        name: of its file; empty if it has none.
        param: the field it comes from.
        detail: how closely to look at it; None stands for "auto".
    """

    source: str
    name: str
    param: str
    detail: str | None = None


def read_picture(part: Fields) -> Picture:
    """Read the `image_url` of a part: an object with a `url`, or only the address.

    Raises:
        BadField: it is something else.
    """
    detail = part.word("detail", *DETAILS)
    if isinstance(part.get("image_url"), str | None):
        part.refuse("file_id", "names a file that was uploaded, and no files are kept here")
        holder, field = part, "image_url"
    else:
        holder, field = Fields(part.get("image_url"), part.where("image_url")), "url"
        detail = holder.word("detail", *DETAILS) or detail
    source = holder.text(field, most=MAX_SOURCE)
    if not source:
        raise holder.bad(field, f"holds no image, {EXPECTED}")
    if holder is not part:
        holder.close()
    return Picture(source, "", holder.where(field), detail)


def read_file(part: Fields) -> Picture:
    """Read a PDF or an image: its `file_data` in base64, and its `filename`.

    Raises:
        BadField: it is something else.
    """
    detail = part.word("detail", *DETAILS)
    name = part.text("filename", most=MAX_NAME) or ""
    part.refuse("file_id", "names a file that was uploaded, and no files are kept here")
    data, url = part.text("file_data", most=MAX_SOURCE), part.text("file_url", most=MAX_SOURCE)
    field = "file_url" if data is None and url else "file_data"
    source = data or url
    if not source:
        raise part.bad(field, "holds no file, expected a PDF or an image in base64")
    return Picture(source, name, part.where(field), detail)


def load_pictures(
    pictures: Sequence[Picture], terms: Terms, config: ImageConfig
) -> list[Sequence[NamedBytes | Drawn]]:
    """Decode the bytes of images; their pixels are decoded later.

    Args:
        pictures: of one request.
        terms: caps on their number, also counting the pages of PDFs, and on the bytes of all of
            them; and the files that were fetched.
        config: image settings in use, for the pages of PDFs.

    Returns:
        What `open_image` takes, for each picture: itself, or its pages.

    Raises:
        BadField: one is no image data, or there are too many or too much of them.
        Unfetched: some are addresses that are not fetched yet.
    """
    limits = terms.limits
    limits.check_count(len(pictures))
    _check_fetched(pictures, terms)
    found: list[Sequence[NamedBytes | Drawn]] = []
    count, left = len(pictures), limits.max_bytes
    for number, picture in enumerate(pictures, 1):
        name = picture.name or f"image {number}"
        try:
            data = _read(picture, name, terms)
            left -= len(data)
            if left < 0:
                raise InputError(f"the images have more than {limits.max_bytes} bytes together")
            is_document = is_pdf(data[:HEADER_BYTES])
            drawn = _pages(data, limits, config) if is_document else [data]
            count += len(drawn) - 1
            limits.check_count(count)
        except InputError as error:
            raise BadField(str(error), picture.param) from None
        found.append(drawn)
    return found


def _check_fetched(pictures: Sequence[Picture], terms: Terms) -> None:
    """Ask for the files of addresses, if they may be fetched."""
    fields = {picture.source: picture.param for picture in pictures if is_url(picture.source)}
    if fields and not terms.limits.allow_url:
        param = next(iter(fields.values()))
        raise BadField(
            f"{param} is an address, and none is fetched here; send the image as a data URI, or "
            f"{terms.to_fetch}",
            param,
        )
    missing = {address: param for address, param in fields.items() if address not in terms.fetched}
    if missing:
        raise Unfetched(missing)


def _read(picture: Picture, name: str, terms: Terms) -> NamedBytes:
    """Return the bytes of an image, with its name for messages."""
    source = picture.source
    if is_url(source):
        _, data = read_source(_named(terms.fetched[source], source), terms.limits)
    elif source[:5].lower() == "data:":
        _, data = read_source(source, terms.limits)
    else:
        if SCHEME.match(source) or len(source) < SHORTEST_BASE64:  # another address, or a path
            raise InputError(f"{picture.param} is {source[:20]!r}, {EXPECTED}")
        try:
            data = decode_base64(source)
        except ValueError:
            raise InputError(f"{picture.param} is not base64, {EXPECTED}") from None
    return _named(data, name)


def _named(data: bytes, name: str) -> NamedBytes:
    named = NamedBytes(data)
    named.name = name
    return named


def _pages(data: NamedBytes, limits: ImageLimits, config: ImageConfig) -> Sequence[Drawn]:
    """Return the pages of a PDF, which are drawn later."""
    from ...images.pdf import pdf_pages

    return [page for _, page in pdf_pages(Input(data.name, data), "", config, limits)]
