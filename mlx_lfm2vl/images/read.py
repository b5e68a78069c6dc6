"""Reading the bytes of an image from where they are: a file, a pipe, a URL, an object in memory."""

import os
import re
import stat
import threading
import unicodedata
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ..checkpoint.find import find_image
from ..errors import InputError, Lfm2VLError
from .first_bytes import is_video
from .limits import ImageLimits

IDLE_SECONDS = 30.0  # that a pipe may be silent
PEEKED = 4096  # bytes that tell what kind of file it is
PIECE = 2**20  # bytes of a pipe read at a time
SIBLINGS = 10_000  # files of a folder that are compared with a name
NAME_SHOWN = 200  # letters of a name in a message
ADDRESS = r"(?i)(?!file:)[a-z][a-z0-9+.-]+:/"  # such as s3://; a path keeps one slash of it
QUOTES = "'\"‘’“”"
EXPECTED = "expected a path, URL, data URI, PIL image, bytes, an open file or an array of pixels"


class OpenFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int, /) -> Any: ...


class NamedBytes(bytes):
    """The bytes of a file that was read already, with its name for messages."""

    name: str


def read_source(source: Any, limits: ImageLimits) -> tuple[str, bytes]:
    """Return the name, for messages, and the bytes of an encoded image.

    Raises:
        InputError: there is nothing to read, it cannot be read, or it exceeds a limit.
        NetworkError: a URL could not be fetched.
    """
    if isinstance(source, NamedBytes):
        name, data = source.name, source
    elif isinstance(source, str | os.PathLike):
        name, data = _read_name(source if isinstance(source, str) else _as_path(source), limits)
    elif hasattr(source, "read"):
        name, data = _read_object(source, limits)
    else:
        name, data = "image data", _bytes_of(source)
    if len(data) > limits.max_bytes:
        raise InputError(f"{name} has {len(data)} bytes, at most {limits.max_bytes} are read")
    if not data:
        raise InputError(f"{name} is empty (0 bytes)")
    return name, data


def read_once(source: Any, limits: ImageLimits) -> Any:
    """Replace the name of a file or pipe by its bytes, so that it is read only once.

    URLs stay as they are: they are fetched when they are needed. So do videos, of which ffmpeg
    reads a part.
    """
    if not isinstance(source, str | Path) or is_url(source):
        return source
    found, head = peek(source, limits)
    return found if is_video(head) else _named(*read_source(found, limits))


def _named(name: str, data: bytes) -> NamedBytes:
    if isinstance(data, NamedBytes):
        return data
    named = NamedBytes(data)
    named.name = name
    return named


def peek(source: Any, limits: ImageLimits) -> tuple[Any, bytes]:
    """Look at the first bytes of a source.

    Returns:
        The source, and its first bytes. A source that can be read only once becomes its bytes, and
        so does a URL that names a PDF. Other URLs, and pixels, have no first bytes.

    Raises:
        InputError: it cannot be read.
        NetworkError: a URL could not be fetched.
    """
    if is_url(source) and not urlsplit(source).path.lower().endswith(".pdf"):
        return source, b""
    if isinstance(source, str | os.PathLike):
        head = _head(source)
        if head:
            return source, head
    elif not (isinstance(source, bytes | bytearray) or hasattr(source, "read")):
        return source, b""
    named = _named(*read_source(source, limits))
    return named, bytes(named[:PEEKED])


def local_file(source: Any) -> Path | None:
    """The file that a source names, also one below `~` or of `file://`; None if it names none."""
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        if isinstance(source, str) and source.lower().startswith("file://"):
            path = Path(unquote(urlsplit(source).path))
        else:
            path = _path(source if isinstance(source, str) else _as_path(source))
        return path if path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _head(source: Any) -> bytes:
    """The first bytes of a file; none of anything else, and of what cannot be read."""
    path = local_file(source)
    if path is None:
        return b""
    try:
        with path.open("rb") as file:
            return file.read(PEEKED)
    except OSError:
        return b""


def is_url(source: Any) -> bool:
    """Return whether a source is fetched over the network."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def quoted(name: object) -> str:
    """A name for messages: in quotes, with unusual spaces and control characters spelt out."""
    text = str(name)
    return repr(text if len(text) <= NAME_SHOWN else f"{text[:NAME_SHOWN]}...")


def _bytes_of(source: Any) -> bytes:
    try:
        return bytes(memoryview(source))
    except (TypeError, ValueError, BufferError):
        raise InputError(f"an image is of type {type(source).__name__}, {EXPECTED}") from None


def _read_object(file: Any, limits: ImageLimits) -> tuple[str, bytes]:
    """Read an open file from its beginning, so that a message can be used again.

    A pipe gives a part at a time, and only once.
    """
    given = getattr(file, "name", None)
    name = quoted(given) if isinstance(given, str) else "image data"
    pieces: list[bytes] = []
    remaining = limits.max_bytes + 1
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        while remaining and (piece := file.read(remaining)):
            if isinstance(piece, str):
                raise InputError(f"{name} is open as text; open it with 'rb'")
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise InputError(f"{name} gives {type(piece).__name__}, expected bytes")
            pieces.append(bytes(piece))
            remaining = max(0, remaining - len(piece))
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read: {error}") from None
    if not pieces:
        raise InputError(f"{name} is empty (0 bytes), or was read to its end before")
    return name, b"".join(pieces)


def _as_path(source: os.PathLike[Any]) -> Path:
    return source if isinstance(source, Path) else Path(os.fsdecode(source))


def _read_name(source: str | Path, limits: ImageLimits) -> tuple[str, bytes]:
    text = str(source)
    if not text:
        raise InputError("the name of an image is empty")
    try:
        parts = urlsplit(text if isinstance(source, str) else "")
        scheme = parts.scheme.lower()
        if scheme in ("http", "https"):
            return text, _fetched(text, limits)
        if scheme == "data":
            return "data URI", _data_uri(text, limits)
        path = Path(unquote(parts.path)) if scheme == "file" else _path(source)
        if re.match(ADDRESS, text) and not path.exists():
            raise InputError(f"{quoted(text)} is no address that is fetched; download it first")
        return quoted(path), _read_path(path, limits)
    except Lfm2VLError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{quoted(text)} cannot be read: {reason}") from None


def _path(source: str | Path) -> Path:
    """The path of a name: a file of that name, or in a home folder, or the built-in picture."""
    path = Path(find_image(source) if isinstance(source, str) else source)
    return path if path.exists() or not str(source).startswith("~") else path.expanduser()


def decode_base64(text: str) -> bytes:
    """Decode base64, also that of URLs, without padding, and broken into lines.

    Raises:
        ValueError: there are other characters, or too few.
    """
    import base64

    lines = text.split()  # a space within a line stands for a lost plus sign, and is refused
    if " " in text.strip():
        raise ValueError("there are spaces in it")
    packed = "".join(lines).replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)


def _data_uri(text: str, limits: ImageLimits) -> bytes:
    head, _, body = text.partition(",")
    if len(body) > 3 * limits.max_bytes + 100:  # percent signs triple a byte
        raise InputError(f"data URI has more than {limits.max_bytes} bytes, the limit")
    if not head.lower().endswith(";base64"):
        raise InputError("data URI cannot be read: expected data:image/...;base64,...")
    try:
        return decode_base64(unquote(body) if "%" in body else body)
    except ValueError as error:
        raise InputError(f"data URI cannot be read: {error}") from None


def _read_path(path: Path, limits: ImageLimits) -> bytes:
    if path.is_dir():
        raise InputError(f"{quoted(path)} is a folder, expected an image file")
    if not path.exists():
        if path.is_symlink():
            raise InputError(f"{quoted(path)} is a link to a file that does not exist")
        raise InputError(f"{quoted(path)} does not exist{_meant(path)}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return _read_pipe(path, limits)
    if status.st_size > limits.max_bytes:
        raise InputError(
            f"{quoted(path)} has {status.st_size} bytes, at most {limits.max_bytes} are read"
        )
    with path.open("rb") as file:  # a file of /proc has no size, so limit the read too
        return file.read(limits.max_bytes + 1)


def _read_pipe(path: Path, limits: ImageLimits) -> bytes:
    """Read a pipe or device whose other end may never write.

    A thread waits for it, because opening a pipe that nobody writes to blocks.
    """
    import queue  # most images are files

    pieces: queue.SimpleQueue[bytes | OSError] = queue.SimpleQueue()
    stop = threading.Event()

    def read() -> None:
        try:
            with path.open("rb", buffering=0) as file:
                while not stop.is_set():
                    piece = file.read(PIECE)
                    pieces.put(piece or b"")
                    if not piece:
                        return
        except OSError as error:
            pieces.put(error)

    threading.Thread(target=read, daemon=True).start()
    data = bytearray()
    try:
        while len(data) <= limits.max_bytes:
            piece = pieces.get(timeout=IDLE_SECONDS)
            if isinstance(piece, OSError):
                raise piece
            if not piece:
                break
            data += piece
    except queue.Empty:
        raise InputError(
            f"{quoted(path)} is a pipe or device that gave nothing for {IDLE_SECONDS:g} seconds"
        ) from None
    finally:
        stop.set()
        _release(path)
    return bytes(data)


def _release(path: Path) -> None:
    """Let a thread go on that waits for somebody to open the other end of a named pipe."""
    if stat.S_ISFIFO(path.stat().st_mode):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody waits
            return


def _meant(path: Path) -> str:
    """Return the question whether a file of a similar name was meant, or nothing."""
    bare = Path(str(path).strip().strip(QUOTES))  # quotes of a drag hide that it is absolute
    found = Path(bare.anchor or ".")
    for part in bare.parts[bool(bare.anchor) :]:
        exact = found / part
        closest = exact if part == ".." or exact.exists() else _sibling(found, part)
        if closest is None:
            return ""
        found = closest
    return f"; did you mean {quoted(found)}?" if found.is_file() else ""


def _sibling(folder: Path, name: str) -> Path | None:
    """Find the file of a folder whose name only looks different."""
    key = _look(name)
    try:
        with os.scandir(folder) as entries:
            for entry, _ in zip(entries, range(SIBLINGS), strict=False):
                if _look(entry.name) == key:
                    return folder / entry.name
    except OSError:
        pass
    return None


def _look(name: str) -> str:
    """What is left of a name without kinds of spaces, Unicode forms, quotes and backslashes."""
    text = unicodedata.normalize("NFC", name)
    spaced = "".join(" " if letter.isspace() else letter for letter in text)
    return "".join(letter for letter in spaced if letter not in f"{QUOTES}\\").strip()


def _fetched(url: str, limits: ImageLimits) -> bytes:
    if not limits.allow_url:
        raise InputError(
            f"{url} is a URL; allow fetching it with --allow-url, in Python with "
            "load(..., limits=ImageLimits(allow_url=True))"
        )
    from .fetch import fetch  # imports TLS, which local files do not need

    return fetch(url, limits.max_bytes)
