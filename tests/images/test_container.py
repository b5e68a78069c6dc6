"""Kinds of files: raw photos and documents are named, and harmless damage is passed over."""

import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from drawn_files import chunk, directory, header, tiff
from pictures import make_picture
from PIL import Image, ImageCms

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image, read_size

LIMITS = ImageLimits()
PICTURE = make_picture(40, 60, 1)
PIXELS = np.asarray(PICTURE)


def encoded(form: str = "png", picture: Image.Image = PICTURE, **options) -> bytes:
    data = io.BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


def shown(source: object, limits: ImageLimits = LIMITS) -> np.ndarray:
    return np.asarray(open_image(source, limits).decode())


# -- raw photos --

PREVIEW, PHOTO, COLOR_FILTERS = 1, 0, 32803


def pages(*entries: dict[int, tuple[int, list[int]]], below: bool = False) -> bytes:
    """Write a TIFF of several pictures, one after the other or each below the first.

    Args:
        entries: tags of each picture besides those that every picture has.
        below: the others are below the first, as in a raw photo.
    """
    body, firsts = b"", []
    sizes = [
        directory_of(entry, 0, 0, below and not number) for number, entry in enumerate(entries)
    ]
    at = 8
    for size in sizes:
        firsts.append(at)
        at += len(size)
    at = 8
    for number, entry in enumerate(entries):
        following = 0 if below or number + 1 == len(entries) else firsts[number + 1]
        subs = firsts[1:] if below and not number else []
        body += directory_of(entry, at, following, below and not number, subs)
        at = 8 + len(body)
    return header(8) + body


def directory_of(
    entry: dict[int, tuple[int, list[int]]],
    at: int,
    following: int,
    has_subs: bool,
    subs: list[int] | None = None,
) -> bytes:
    """A directory and, after it, the pixels of an 8-bit grey picture."""
    width, height = entry.get(256, (3, [8]))[1][0], entry.get(257, (3, [6]))[1][0]
    tags = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [8]),
        259: (3, [1]),
        262: (3, [1]),
        273: (4, [0]),
        277: (3, [1]),
        278: (3, [height]),
        279: (4, [width * height]),
        **entry,
    }
    if has_subs:
        tags[330] = (4, subs or [0, 0])
    size = len(directory(tags, at, "<", following))
    tags[273] = (4, [at + size])
    level = entry.get(65000, (3, [0]))[1][0]
    return directory(tags, at, "<", following) + bytes([level]) * (width * height)


FILTERED = {262: (3, [COLOR_FILTERS])}
LARGE = {256: (3, [32]), 257: (3, [24])}
RAW = {
    "DNG": pages({254: (4, [PREVIEW]), 50706: (1, [1, 4, 0, 0])}, LARGE | FILTERED, {}, below=True),
    "linear DNG": pages({50706: (1, [1, 4, 0, 0])}),
    "NEF": pages({254: (4, [PREVIEW])}, LARGE, LARGE | FILTERED, below=True),
    "ARW": pages({254: (4, [PREVIEW])}, LARGE | FILTERED, {}, below=True),
    "photo below": pages({}, LARGE, {254: (4, [PREVIEW])}, below=True),
    "raw page": pages({254: (4, [PREVIEW])}, LARGE | FILTERED),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + directory_of({}, 16, 0, False),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "ORF": b"IIRO\x08\0\0\0" + bytes(100),
    "RW2": b"IIU\0\x08\0\0\0" + bytes(100),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_a_raw_photo_is_refused_with_the_way_out(name, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(RAW[name])
    with pytest.raises(InputError, match=r"photo' is a raw photo, .*sips -s format jpeg"):
        open_image(path, LIMITS)
    assert read_size(path, LIMITS) is None


def test_a_picture_with_smaller_copies_below_is_shown():
    data = pages({**LARGE, 65000: (3, [77])}, {254: (4, [PREVIEW])}, {}, below=True)
    assert (shown(data) == 77).all()


def test_the_first_page_that_is_no_preview_is_shown(caplog):
    preview = {254: (4, [PREVIEW]), 65000: (3, [10])}
    assert (shown(pages(preview, {**LARGE, 65000: (3, [20])})) == 20).all()
    assert not caplog.records
    old_preview = {255: (3, [2]), 65000: (3, [10])}
    opened = open_image(pages(old_preview, {**LARGE, 65000: (3, [20])}), LIMITS)
    assert opened.size == (24, 32)
    assert (np.asarray(opened.decode()) == 20).all()
    assert (shown(pages(preview)) == 10).all()  # there is nothing else
    assert (shown(pages({65000: (3, [1])}, {65000: (3, [2])})) == 1).all()
    assert "several frames or pages: using the first" in caplog.text


# -- brands --


def with_brands(first: bytes, *others: bytes) -> bytes:
    data = encoded("avif", quality=90)
    size = struct.unpack_from(">I", data)[0]
    brands = b"".join(others)
    rest = data[size:]
    assert size >= 16 + len(brands)  # offsets in the file stay right
    return (
        struct.pack(">I", size) + b"ftyp" + first + bytes(4) + brands.ljust(size - 16, b"\0") + rest
    )


@pytest.mark.parametrize("first", [b"avif", b"mif1", b"msf1", b"miaf"])
def test_avif_is_told_by_any_of_its_brands(first):
    data = with_brands(first, b"avif")
    np.testing.assert_array_equal(shown(data), shown(encoded("avif", quality=90)))


@pytest.mark.parametrize("first", [b"heic", b"hevx", b"hevm", b"hevs", b"heif", b"mif1"])
def test_heic_is_told_by_any_of_its_brands(first, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = with_brands(first, b"mif1", b"heix")
    with pytest.raises(InputError, match="is HEIC, which needs another package"):
        open_image(data, LIMITS)
    path = tmp_path / "a.heic"
    path.write_bytes(data)
    assert read_size(path, LIMITS) is None


OTHERS = {
    "PDF": b"%PDF-1.7\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "Photoshop": b"8BPS\0\1" + bytes(50),
    "GIMP": b"gimp xcf v011\0",
    "JPEG XL": b"\xff\x0a" + bytes(50),
    "Mac icon": b"icns" + bytes(50),
    "Windows icon": b"\0\0\1\0\1\0" + bytes(50),
    "SVG": b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "web page": b"<!DOCTYPE html>\n<html>",
    "video": b"\0\0\0\x14ftypqt  " + bytes(50),
    "ZIP": b"PK\3\4" + bytes(50),
    "DICOM": bytes(128) + b"DICM" + bytes(50),
    "SVG with entities": b'\xef\xbb\xbf<!DOCTYPE svg [<!ENTITY a "b">]>\n<svg/>',
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "old video": b"\0\0\0\x08wide\0\0\0\0mdat" + bytes(50),
    "sound": b"ID3\3\0" + bytes(50),
    "JPEG XR": b"II\xbc\x01" + bytes(50),
    "side file of a Mac": b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(50),
    "property list": b"bplist00" + bytes(50),
    "data URI": b"data:image/png;base64,iVBORw0KGgo",
    "base64": b"/9j/4AAQSkZJRgABAQAAAQ",
    "text": b'{"error": "not found"}\n',
    "zeros": bytes(5000),
    "PAM": b"P7\nWIDTH 1\n",
    "FITS": b"SIMPLE  =                    T",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named_with_a_way_out(name):
    kind = name.removeprefix("old ").split(" with")[0]
    with pytest.raises(InputError, match=f"{kind}.*not an image this program can read; "):
        open_image(OTHERS[name], LIMITS)


def test_what_a_file_is_takes_little_time_to_find_out():
    for data in (b"<!-- --><!---->" * 400, b"<?xml" * 1000, b" " * 5000, b"<!doctype svg" * 400):
        begin = time.process_time()
        with pytest.raises(InputError):
            open_image(data, LIMITS)
        assert time.process_time() - begin < 1


def test_an_image_of_a_kind_that_no_decoder_reads_is_called_by_its_format():
    doubles = tiff([np.zeros(15).tobytes()], (3, 5), 1, (64,), {339: (3, [3])})
    with pytest.raises(InputError, match="is TIFF, but damaged or of a kind that is not supported"):
        open_image(doubles, LIMITS)


# -- damage that does no harm --


def note(caplog) -> str:
    assert len(caplog.records) == 1
    return caplog.records[0].getMessage()


JPEG = encoded("jpeg", quality=95)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"optimize": True}]
)
@pytest.mark.parametrize("draft", [None, (20, 30)])
def test_a_jpeg_without_its_end_marker_is_shown_with_a_note(options, draft, caplog):
    data = encoded("jpeg", **options)
    for cut in (data[:-2], data[:-1]):
        caplog.clear()
        whole = open_image(data, LIMITS).decode(draft)
        image = open_image(cut, LIMITS).decode(draft)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(whole))
        assert note(caplog) == "image data: the end of the file is missing"


@pytest.mark.parametrize("cut", [5, 8, 20, 200])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_rows_are_cut_is_refused(cut, progressive):
    data = encoded("jpeg", quality=95, progressive=progressive)
    with pytest.raises(InputError, match="damaged"):
        shown(data[:-cut])


def test_bytes_after_the_end_of_a_jpeg_change_nothing(caplog):
    np.testing.assert_array_equal(shown(JPEG + b"more\0" * 20), shown(JPEG))
    assert not caplog.records


PNG = encoded()
TEXT = b'{"node": "value"}' * 120_000
SIDE_CHUNKS = {
    "large zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(TEXT)),
    "large iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(TEXT)),
    "large tEXt": chunk(b"tEXt", b"workflow\0" + TEXT),
    "large EXIF text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**24))),
}


@pytest.mark.parametrize("name", SIDE_CHUNKS)
def test_side_chunks_of_any_size_do_no_harm(name, caplog):
    data = PNG[:33] + SIDE_CHUNKS[name] + PNG[33:]
    np.testing.assert_array_equal(shown(data), PIXELS)
    assert not caplog.records


@pytest.mark.parametrize("kind", [b"pHYs", b"tEXt", b"iCCP", b"eXIf", b"tRNS", b"gAMA"])
def test_side_chunks_with_a_wrong_checksum_are_left_out_with_a_note(kind, caplog):
    data = PNG[:33] + chunk(kind, b"123456789", wrong=True) + PNG[33:]
    np.testing.assert_array_equal(shown(data), PIXELS)
    assert note(caplog) == "image data: damaged side chunks were left out"


def test_a_large_profile_is_used():
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile += bytes(2**21)  # as the tables of a calibrated screen
    struct.pack_into(">I", profile, 0, len(profile))
    at = profile.find(b"rXYZ")
    offset = struct.unpack_from(">I", profile, at + 4)[0]
    struct.pack_into(">i", profile, offset + 8, int(0.55 * 65536))
    red = encoded(picture=Image.new("RGB", (4, 4), (200, 40, 40)))
    small = encoded(
        picture=Image.new("RGB", (4, 4), (200, 40, 40)), icc_profile=bytes(profile[: -(2**21)])
    )
    body = b"icc\0\0" + zlib.compress(bytes(profile))
    large = red[:33] + chunk(b"iCCP", body) + red[33:]
    assert shown(large)[0, 0, 0] > 203
    np.testing.assert_allclose(shown(large).astype(int), shown(small), atol=3)


def test_a_png_without_its_end_is_shown_with_a_note(caplog):
    for cut in (12, 10, 14):
        caplog.clear()
        np.testing.assert_array_equal(shown(PNG[:-cut]), PIXELS)
        assert note(caplog) == "image data: the end of the file is missing"


def test_a_png_whose_pixels_have_a_wrong_checksum_is_refused():
    data = bytearray(PNG)
    data[PNG.find(b"IDAT") + 50] ^= 1
    with pytest.raises(InputError, match="damaged: the checksum of its IDAT is wrong"):
        open_image(bytes(data), LIMITS)


@pytest.mark.parametrize("turned", ["eXIf before", "eXIf after", "XMP"])
def test_a_png_is_turned_by_what_stands_before_or_after_its_pixels(turned):
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()[6:]
    if turned == "eXIf before":
        data = PNG[:33] + chunk(b"eXIf", body) + PNG[33:]
    elif turned == "eXIf after":
        data = PNG[:-12] + chunk(b"eXIf", body) + PNG[-12:]
    else:
        xmp = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
        data = PNG[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + PNG[33:]
    opened = open_image(data, LIMITS)
    assert opened.size == (60, 40)
    np.testing.assert_array_equal(np.asarray(opened.decode()), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_cut_exif_data_are_passed_over(form, caplog):
    exif = Image.Exif()
    exif[0x010F] = "A camera with a long name"
    exif[0x0112] = 1
    whole = exif.tobytes()
    plain = shown(encoded(form, quality=90))
    for end in range(6, len(whole)):
        np.testing.assert_array_equal(shown(encoded(form, quality=90, exif=whole[:end])), plain)
    assert all("EXIF" in record.getMessage() for record in caplog.records)


def test_libraries_write_nothing_to_standard_error():
    code = (
        "import sys\n"
        "from mlx_lfm2vl.errors import InputError\n"
        "from mlx_lfm2vl.images.source import ImageLimits, open_image\n"
        "try:\n"
        "    open_image(sys.stdin.buffer, ImageLimits()).decode()\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    data = bytearray(encoded("tiff", compression="tiff_lzw"))
    data[60:110] = bytes(range(200, 250))
    done = subprocess.run([sys.executable, "-c", code], input=bytes(data), capture_output=True)
    assert done.stderr == b""
    assert b"damaged or not supported" in done.stdout
    assert done.stdout.count(b"\n") == 1


def test_log_lines_of_pillow_stay_inside(caplog):
    data = tiff([bytes(48)], (6, 8), 1, (8,), {277: (4, [278])})
    with pytest.raises(InputError, match="is TIFF, but damaged or of a kind"):
        open_image(data, LIMITS)
    assert not caplog.records


def test_a_webp_whose_chunks_are_all_there_may_say_that_it_is_longer(caplog):
    data = encoded("webp", lossless=True)
    longer = data[:4] + struct.pack("<I", len(data) + 100) + data[8:]
    np.testing.assert_array_equal(shown(longer), PIXELS)
    assert "shorter than its first bytes say" in caplog.text
    with pytest.raises(InputError, match="the file is cut off"):
        open_image(data[:-3], LIMITS)


def test_pngs_without_a_palette_and_for_iphones_are_refused_by_what_is_wrong():
    palette = encoded(picture=PICTURE.quantize(4))
    at = palette.find(b"PLTE") - 4
    length = struct.unpack_from(">I", palette, at)[0]
    with pytest.raises(InputError, match="its palette is missing"):
        open_image(palette[:at] + palette[at + 12 + length :], LIMITS)
    whole = encoded()
    with pytest.raises(InputError, match="for iPhone apps only"):
        open_image(whole[:8] + chunk(b"CgBI", b"\x50\0\x20\6") + whole[8:], LIMITS)


def test_an_orientation_is_heard_also_if_it_is_stored_as_a_byte():
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x112, 1, 1, b"\6\0\0\0", 0)
    data = encoded("jpeg")
    marked = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body + data[2:]
    assert open_image(marked, LIMITS).size == (60, 40)
