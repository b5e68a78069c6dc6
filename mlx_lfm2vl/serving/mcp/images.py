"""What an agent may look at: files in some folders, the clipboard, the screen.

A file is opened from its folder's descriptor, one part of its path at a time, and no link is
followed on the way. What was checked is therefore what is read, whoever exchanges files meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...errors import InputError
from ...images.clipboard import copied
from ...images.inputs import Input
from ...images.limits import ImageLimits
from ...images.read import NamedBytes, quoted
from ...images.screenshot import take_screenshot

CLIPBOARD, SCREENSHOT = "clipboard", "screenshot"  # instead of a path
ADDRESSES = ("http", "https", "data", "ftp")
# O_NONBLOCK: opening a pipe, which then is refused, waits for nobody.
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class AllowedFolder:
    """A folder whose files may be read, with those of the folders in it.

    Attributes:
        path: without links.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a folder, which stays the allowed one even if it is renamed or replaced.

        Raises:
            InputError: there is no such folder, or it cannot be read.
        """
        try:
            self.path = Path(folder).expanduser().resolve(strict=True)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, RuntimeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"--allow-folder {quoted(folder)}: {reason}") from None
        self._identity = _identity(os.fstat(self._descriptor))

    def parts_of(self, path: Path) -> tuple[str, ...] | None:
        """Return the parts of a path below this folder, or none; None if it is elsewhere.

        Folders are compared by what they are, since many disks take names in any case.

        Args:
            path: absolute and without links.
        """
        for parent in (path, *path.parents):
            try:
                if _identity(os.stat(parent)) == self._identity:
                    return path.relative_to(parent).parts
            except OSError:
                continue
        return None

    def read(self, parts: Sequence[str], limits: ImageLimits) -> bytes:
        """Read a file below this folder.

        Raises:
            InputError: it is no file, or too large.
            OSError: it cannot be read, or a part of the path is a link.
        """
        *folders, name = parts or (".",)
        folder = os.dup(self._descriptor)
        try:
            for part in folders:
                inner = os.open(part, FLAGS | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            # Opening a device can do something, so this comes before.
            _check_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
            descriptor = os.open(name, FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_regular(status)
            # A file of /proc has no size, and one that grows has another, so limit the read too.
            is_large = status.st_size > limits.max_bytes
            data = b"" if is_large else file.read(limits.max_bytes + 1)
        if is_large or len(data) > limits.max_bytes:
            raise InputError(f"it has more than {limits.max_bytes} bytes, the limit")
        return data


@dataclass(frozen=True)
class Allowed:
    """What may be looked at.

    Attributes:
        folders: whose files may be read; none of them hidden.
        clipboard: whether what was copied may be.
        screenshot: whether the main screen may be.
    """

    folders: Sequence[AllowedFolder] = ()
    clipboard: bool = False
    screenshot: bool = False

    @property
    def described(self) -> str:
        """What an agent may name, in words."""
        words = [f"the whole path of an image or PDF in {folder.path}" for folder in self.folders]
        words += ['"clipboard" for the image that was copied'] * self.clipboard
        words += ['"screenshot" for what the screen shows now'] * self.screenshot
        return ", or ".join(words)

    def open(self, name: str, limits: ImageLimits) -> Input:
        """Read what an agent has named.

        Args:
            name: a path, "clipboard" or "screenshot".
            limits: on the bytes of a file.

        Raises:
            InputError: it is not allowed, which the message says how to change, or it cannot be
                read.
        """
        if name == CLIPBOARD:
            return self._copied(limits)
        if name == SCREENSHOT:
            if not self.screenshot:
                raise InputError(
                    _refused("the screen is not allowed", "it with --allow-screenshot")
                )
            return take_screenshot()
        return self._file(name, limits)

    def _copied(self, limits: ImageLimits) -> Input:
        if not self.clipboard:
            raise InputError(_refused("the clipboard is not allowed", "it with --allow-clipboard"))
        found = copied(limits)
        if len(found) != 1:
            raise InputError(f"{len(found)} images were copied, expected one")
        return found[0]

    def _file(self, name: str, limits: ImageLimits) -> Input:
        try:
            address = urlsplit(name)
            if address.scheme.lower() in ADDRESSES:
                raise InputError(f"{quoted(name)} is an address, which is not fetched; give a path")
            path = unquote(address.path) if address.scheme.lower() == "file" else name
            real = Path(os.path.realpath(Path(path).expanduser()))
            for folder in self.folders:
                parts = folder.parts_of(real)
                if parts is not None:
                    return _read(name, folder, parts, limits)
        except (OSError, RuntimeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{quoted(name)} cannot be read: {reason}") from None
        # The same words whether it exists or not.
        where = f"{quoted(name)} is not in a folder that is allowed"
        if not Path(path).expanduser().is_absolute():
            where += ", as seen from this server's own folder: give the whole path"
        raise InputError(_refused(where, "one with --allow-folder"))


def _read(name: str, folder: AllowedFolder, parts: tuple[str, ...], limits: ImageLimits) -> Input:
    if any(part.startswith(".") for part in parts):
        raise InputError(f"{quoted(name)} is hidden; hidden files are not read")
    try:
        data = NamedBytes(folder.read(parts, limits))
    except FileNotFoundError:
        raise InputError(f"{quoted(name)} does not exist") from None
    except InputError as error:
        raise InputError(f"{quoted(name)} is not read: {error}") from None
    data.name = quoted(name)
    return Input(data.name, data)


def _refused(why: str, way: str) -> str:
    return f"{why}; whoever starts this server allows {way}"


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError("it is a folder, expected an image or PDF")
    if not stat.S_ISREG(status.st_mode):
        raise InputError("it is a pipe, device or link, expected a file")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
