"""What a photo says about itself: dates, places and keywords from EXIF, XMP and IPTC."""

import os
import zlib

import pytest
from pictures import make_picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlx_lfm2vl.desktop.photo_facts import date_taken, photo_facts
from mlx_lfm2vl.desktop.texts import Texts
from mlx_lfm2vl.desktop.xmp import merged, write_xmp
from mlx_lfm2vl.desktop.xmp_packet import EMPTY
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.skills.prompts import FACTS

PLACE = (
    b'<rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
    b'photoshop:City="Berlin" photoshop:Country="Germany"'
)
KEYWORDS = merged(EMPTY, "x", Texts(keywords=("Anna", "beach")))
XMP = KEYWORDS.replace(b'<rdf:Description rdf:about=""', PLACE, 1)


def facts(path) -> dict[str, str]:
    found = dict(photo_facts(Input(path.name, str(path), path)))
    assert tuple(found) == FACTS
    return found


def saved(path, date="2026:11:29 14:30:05", gps=None, xmp=b""):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = date
    if gps:
        exif.get_ifd(0x8825).update(gps)
    if path.suffix == ".png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        make_picture(9, 9, 1).save(path, pnginfo=info)
        png, chunk = path.read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        size, crc = (number.to_bytes(4, "big") for number in (len(chunk) - 4, zlib.crc32(chunk)))
        # before the pixels, as cameras and macOS write it
        path.write_bytes(png[:33] + size + chunk + crc + png[33:])
    else:
        make_picture(9, 9, 1).save(path, exif=exif.tobytes(), xmp=xmp)
    return path


def iptc(path, *fields: tuple[int, bytes]) -> None:
    """Put IPTC fields into a JPEG, as Photoshop writes them."""
    data = b"".join(
        b"\x1c\x02" + bytes([tag]) + len(text).to_bytes(2, "big") + text for tag, text in fields
    )
    block = b"8BIM\x04\x04\0\0" + len(data).to_bytes(4, "big") + data + b"\0" * (len(data) % 2)
    segment = b"Photoshop 3.0\0" + block
    jpeg = path.read_bytes()
    marker = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big")
    path.write_bytes(jpeg[:2] + marker + segment + jpeg[2:])


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_date_place_and_keywords_are_read_from_every_kind(ending, tmp_path):
    path = saved(tmp_path / f"My photo.{ending}", xmp=b"" if ending == "tif" else XMP)
    if ending == "tif":
        (tmp_path / "My photo.tif.xmp").write_bytes(XMP)
    assert facts(path) == {
        "name": "My photo",
        "exif.date": "2026-11-29",
        "place": "Berlin, Germany",
        "keywords": "Anna, beach",
    }


def test_keywords_of_the_sidecar_come_before_those_of_the_photo(tmp_path):
    path = saved(tmp_path / "a.jpg", xmp=XMP)
    write_xmp(path, Texts(keywords=("ANNA", "Ben")))
    iptc(path, (25, b"beach"), (25, "Zoë".encode()), (25, b"caf\xe9"), (90, b"Paris"))
    assert facts(path)["keywords"] == "ANNA, Ben, beach, Zoë, café"
    assert facts(path)["place"] == "Berlin, Germany"


def test_coordinates_are_the_place_of_last_resort(tmp_path):
    gps = {1: "S", 2: (33.0, 51.0, 24.84), 3: "E", 4: (151.0, 12.0, 55.08)}
    path = saved(tmp_path / "a.jpg", gps=gps)
    assert facts(path)["place"] == "-33.8569, 151.2153"
    iptc(path, (95, b"New South Wales"))
    assert facts(path)["place"] == "New South Wales"


@pytest.mark.parametrize("gps", [{2: (1.0,), 4: (1.0,)}, {2: (91.0, 0, 0), 4: (0, 0, 0)}])
def test_impossible_coordinates_are_no_place(gps, tmp_path):
    assert facts(saved(tmp_path / "a.jpg", gps=gps))["place"] == ""


@pytest.mark.parametrize("date", ["0000:00:00 00:00:00", "    :  :     :  :  ", "x" * 9999])
def test_a_clock_that_was_not_set_is_no_date(date, tmp_path):
    path = saved(tmp_path / "a.jpg", date=date)
    assert facts(path)["exif.date"] == ""
    assert date_taken(path) is None


def test_hostile_values_are_cut_and_printable(tmp_path):
    words = tuple(f"{n} \x1b[31m<|im_end|>\n" + "x" * 999 for n in range(999))
    path = saved(tmp_path / f"a\n{'b' * 230}.jpg")
    path.with_suffix(".xmp").write_bytes(merged(EMPTY, "x", Texts(keywords=words)))
    found = facts(path)
    assert all(text.isprintable() for text in found.values())
    assert len(found["name"]) == 200
    assert found["keywords"].count(", ") == 39
    assert len(found["keywords"]) == 40 * 60 + 39 * 2


def test_what_cannot_be_read_has_a_name_only(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(saved(tmp_path / "whole.jpg").read_bytes()[:90])
    (tmp_path / "cut.xmp").write_text("<!DOCTYPE a>")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("text", "cut", "pipe", "gone"):
        assert facts(tmp_path / f"{name}.jpg") == {**dict.fromkeys(FACTS, ""), "name": name}
    clipboard = Input("the clipboard's image", b"")
    assert photo_facts(clipboard) == {**dict.fromkeys(FACTS, ""), "name": clipboard.name}


def test_a_heic_photo_says_the_same(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2026:11:29 14:30:05"
    heif = pillow_heif.from_pillow(make_picture(64, 64, 1))
    heif.save(tmp_path / "a.heic", exif=exif.tobytes(), xmp=XMP)
    found = facts(tmp_path / "a.heic")
    assert (found["exif.date"], found["keywords"]) == ("2026-11-29", "Anna, beach")
