"""All that a user names, as single pictures: files, folders, patterns, lists, stdin, addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from glob import iglob
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from ..checkpoint.aliases import DEMO
from ..checkpoint.find import find_image
from ..errors import InputError
from .drawn import Refused
from .folders import images_below
from .inputs import Input
from .limits import ImageLimits
from .name_list import names_in


def gather(
    words: Iterable[str],
    *,
    recursive: bool = False,
    files_from: str | None = None,
    stdin: BinaryIO | None = None,
    limits: ImageLimits | None = None,
) -> Iterator[Input]:
    """Return one `Input` for each picture that is named, in the order of the names.

    No picture is opened, and at most one folder is listed at a time, so memory does not grow with
    the number of files. What is missing or cannot be read is among them, and opening it raises the
    error.

    Args:
        words: paths, also with `~`; patterns such as `*.jpg`; folders, which stand for the images
            and PDFs in them, sorted by name; `-` for the image on stdin; `demo` for the built-in
            picture; addresses and data URIs. A file of that name comes before a pattern, a home
            folder and the built-in picture.
        recursive: also enter the folders in a folder, after its own images.
        files_from: file with names of more files, or `-` for stdin. See `names_in`.
        stdin: where `-` is read from.
        limits: on the bytes that are read from stdin.

    Raises:
        InputError: at once, if the list of names cannot be read; later, if it holds no names, or
            if stdin is closed.
    """
    listed = () if files_from is None else names_in(files_from, stdin)
    return _gather(words, listed, recursive, stdin, limits or ImageLimits())


def _gather(
    words: Iterable[str],
    listed: Iterable[str],
    recursive: bool,
    stdin: BinaryIO | None,
    limits: ImageLimits,
) -> Iterator[Input]:
    for word in words:
        if word == "-":
            yield _from_stdin(stdin, limits)
        else:
            yield from _named(word, recursive)
    for name in listed:
        yield _addressed(name) if is_address(name) else _file(name)


def find_path(word: str) -> Path | None:
    """The file or folder of this name, or None. A file called `~a` comes before a home folder."""
    try:
        path = Path(word)
        if word and not path.exists() and word.startswith("~"):
            path = path.expanduser()
        return path if word and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, or no home
        return None


def is_address(word: str) -> bool:
    """Whether a word is fetched or decoded, or is the address of a file."""
    return bool(re.match(r"(?i)(https?|file)://|data:", word))


def _matches(pattern: str, recursive: bool) -> Iterator[Input]:
    """The files that match, and with `recursive` those in folders that match."""
    found = folders = 0
    enters = recursive and "**" not in pattern  # whose matches are in all folders already
    for path in _sorted_matches(pattern):
        if not path.is_dir():
            images: Iterable[Input] = [Input(str(path), path, path)] if path.is_file() else ()
        else:
            folders += 1
            images = _in_folder(path, recursive) if enters else ()
        for image in images:
            found += 1
            yield image
    if not found and folders:
        reason = f"only folders match {pattern!r}; --recursive enters them, {pattern}/* names files"
        yield Input(pattern, Refused(pattern, InputError(reason)))
    elif not found:
        yield _file(pattern)  # which is missing


def _sorted_matches(pattern: str) -> list[Path]:
    try:
        whole = Path(pattern).expanduser()
        return sorted(_below(whole) if "**" in whole.parts else map(Path, iglob(str(whole))))
    except (OSError, ValueError, RuntimeError):  # no home, or no pattern after all
        return []


def _below(pattern: Path) -> Iterator[Path]:
    """What matches a pattern with `**`, without what is hidden.

    Unlike `glob.glob` it does not follow links to folders, which may form a circle.
    """
    parts = pattern.parts[bool(pattern.anchor) :]
    named = {part for part in parts if part.startswith(".")}
    rest = Path(*parts, *(["*"] if parts[-1] == "**" else []))
    for path in Path(pattern.anchor or ".").glob(str(rest)):
        if not any(part.startswith(".") and part not in named for part in path.parts):
            yield path


def _named(word: str, recursive: bool) -> Iterator[Input]:
    """The picture of that name, those of a folder, or those that match."""
    path = None if is_address(word) else find_path(word)
    if is_address(word):
        yield _addressed(word)
    elif path is not None and path.is_dir():
        yield from _in_folder(path, recursive)
    elif path is not None:
        yield Input(word, path, path)
    elif word == DEMO:
        yield Input(DEMO, find_image(DEMO))
    elif re.search(r"[*?[]", word):
        yield from _matches(word, recursive)
    else:
        yield _file(word)


def _in_folder(folder: Path, recursive: bool) -> Iterator[Input]:
    for name, problem in images_below(folder, recursive=recursive):
        if problem is None:
            yield Input(name, Path(name), Path(name))
        else:
            yield Input(name, Refused(name, InputError(problem)))


def _file(name: str) -> Input:
    """The file of a name, which may be missing."""
    path = (find_path(name) if name.startswith("~") else None) or Path(name)
    is_plain = bool(name) and "://" not in name  # of which a path would keep one slash
    return Input(name, path if is_plain else name, path)


def _addressed(word: str) -> Input:
    from .read import is_url  # not above: it loads numpy, which `--help` does without

    if is_url(word):
        return Input(word, word)
    if word[:5].lower() == "data:":
        return Input("data URI", word)
    return Input(word, word, Path(unquote(urlsplit(word).path)))


def _from_stdin(stdin: BinaryIO | None, limits: ImageLimits) -> Input:
    if stdin is None:
        raise InputError("- stands for standard input, which cannot be read here")
    from .read import NamedBytes

    named = NamedBytes(stdin.read(limits.max_bytes + 1))
    named.name = "the image on standard input"
    return Input("-", named)
