"""What files are that this program does not read, by their first bytes, and the way out."""

import re
from collections.abc import Sequence

from ..errors import InputError

HEADER_BYTES = 4096  # that are searched for what a file is
EXPORT = "export it as JPEG or PNG"
CONVERT = "convert it to PNG"
FRAME = "ask about frames of it with generate --frames or --at, or save one as an image"
NO_IMAGE = "look at it in a text editor: it may be an error message of the program that wrote it"
PDF = rb"\s*%PDF"
VIDEO = rb"(?s)RIFF....AVI |\x1aE\xdf\xa3|\0\0\x01\xba|FLV|....(moov|mdat|wide|free|skip)"
ANIMATION = rb"(?s)GIF8|RIFF....WEBP|\x89PNG"
# Pattern of the first bytes, what the file is, and the way out.
OTHERS = [
    (PDF, "a PDF", "ask about its pages with generate --pages, in Python with open_pages"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript", EXPORT),
    (rb"8BPS|8BPB", "a Photoshop file", EXPORT),
    (rb"gimp xcf", "a GIMP file", EXPORT),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", "convert it to JPEG or PNG"),
    (rb"II\xbc", "JPEG XR", CONVERT),
    (rb"icns", "a Mac icon", f"{CONVERT} (on a Mac: sips -s format png)"),
    (rb"\0\0\x01\0|\0\0\x02\0[\x01-\x20]\0", "a Windows icon or cursor", CONVERT),
    (rb"v/1\x01", "OpenEXR", EXPORT),
    (rb"#\?R", "a Radiance picture", EXPORT),
    (rb"(?s).{128}DICM", "DICOM", EXPORT),
    (rb"SIMPLE  =", "a FITS picture", EXPORT),
    (rb"DDS ", "a DirectX texture", EXPORT),
    (rb"\xabKTX ", "a KTX texture", EXPORT),
    (rb"qoif", "a QOI picture", CONVERT),
    (rb"BPG\xfb", "a BPG picture", CONVERT),
    (rb"FLIF", "a FLIF picture", CONVERT),
    (rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]", "a PCX picture", CONVERT),
    (rb"\x01\xda[\0\x01][\x01\x02]", "an SGI picture", CONVERT),
    (rb"\x59\xa6\x6a\x95", "a Sun raster picture", CONVERT),
    (rb"SDPX|XPDS|\x80\x2a\x5f\xd7", "a film scan (DPX or Cineon)", EXPORT),
    (rb"/\* XPM|#define \S+_width ", "an X11 bitmap", CONVERT),
    (rb"P7\s|PF\s", "a PAM or color PFM picture", CONVERT),
    (rb"\x8a[MJ]NG|\x8bJNG", "an MNG or JNG picture", CONVERT),
    (rb"\xd7\xcd\xc6\x9a|(?s:\x01\0\0\0.{36} EMF)", "a Windows metafile", CONVERT),
    (rb"AT&TFORM", "a DjVu document", "convert its pages to PNG first"),
    (VIDEO, "a video", FRAME),
    (rb"(?s)ID3|OggS|fLaC|RIFF....WAVE", "a sound file", "only images are read"),
    (
        rb"PK\x03\x04|\xd0\xcf\x11\xe0",
        "a ZIP archive or an office document",
        "export the image in it",
    ),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "an archive", "unpack it first"),
    (
        rb"\0\x05\x16\x07",
        "a side file of a Mac, without the image",
        "use the file without ._ in its name",
    ),
    (rb"bplist00", "a property list", "if it stands for a file in iCloud, download that first"),
    (rb"version https://git-lfs", "a pointer of Git LFS", "fetch the file with git lfs pull"),
    (rb"(?is)(\xef\xbb\xbf)?\s*<(!doctype )?html", "a web page", "download the image itself"),
    (rb"(?is)(\xef\xbb\xbf)?\s*<(svg|(\?xml|!--|!doctype svg).*?<svg)", "SVG", EXPORT),
    (rb"(?is)(\xef\xbb\xbf)?\s*<\?xml", "an XML file", NO_IMAGE),
    (rb"\s*data:image/", "a text file with a data URI", "give its text instead of its name"),
    (rb"\s*(iVBORw0KGgo|/9j/|R0lGOD|UklGR)", "a text file with base64", "decode it first"),
    (rb"\0{64}", "a file of zeros", "copy or download it again"),
    (rb"\x93NUMPY", "a NumPy array", "give the array itself, in Python"),
    (rb"[\t\n\r\x20-\x7e]{2,}\Z", "a text file", NO_IMAGE),
]
# Files of kinds that are read in general.
KNOWN = [
    (rb"\xff\xd8", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"(?s)RIFF....WEBP", "WebP"),
    (rb"GIF8", "GIF"),
    (rb"BM", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"(?s)....ftypavi[fs]", "AVIF"),
    (rb"(?s)....ftyp", "HEIC"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"P[1-6f]\s", "PPM"),
]


def is_pdf(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a PDF."""
    return re.match(PDF, head) is not None


def refuse_other(data: bytes, name: str) -> None:
    """Refuse a file by what its first bytes say, if they say that it is no image that is read.

    Raises:
        InputError: it is of another kind.
    """
    for start, what, way_out in OTHERS:
        if re.match(start, data[:HEADER_BYTES]):
            raise InputError(f"{name} is {what}, not an image this program can read; {way_out}")


def not_opened(data: bytes, name: str, formats: Sequence[str]) -> InputError:
    """Return the error for a file that the decoder of its kind, or of any, does not open."""
    for start, kind in KNOWN:
        if re.match(start, data[:HEADER_BYTES]):
            return InputError(
                f"{name} is {kind}, but damaged or of a kind that is not supported; save it as PNG"
            )
    return InputError(
        f"{name} is not an image this program can read; expected one of {', '.join(formats)}"
    )
