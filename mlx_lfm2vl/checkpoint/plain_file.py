"""Opening a checkpoint's files: regular ones, in their folder, of a bounded size.

A cloned repository can hold links to any file of this machine, and an unpacked archive can hold
pipes and devices. Every file of a checkpoint is checked here before it is opened. Only weights may
be links to files elsewhere, such as on another disk: they are read as numbers, never copied.
"""

from pathlib import Path

from ..errors import CheckpointError
from .foreign import other_kind


def plain_file(path: Path, *, is_weights: bool = False) -> Path:
    """Return the path, without links, of an existing file of a checkpoint.

    Args:
        path: of the file.
        is_weights: whether a link may lead to a regular file outside of its folder.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a regular file, or a link that leads out of its folder and must
            not. The Hub cache's links to its own blobs are followed.
    """
    try:
        real, folder = path.resolve(strict=True), path.parent.resolve()
        is_file = real.is_file()
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a RuntimeError is a loop of links
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read: {reason}") from None
    if not is_file:
        raise CheckpointError(f"{path} is not a regular file")
    if not (is_weights or real.is_relative_to(folder) or _is_blob(real, folder)):
        raise CheckpointError(
            f"{path} is a link to a file outside of its folder, which is not followed; "
            "copy that file into the folder"
        )
    return real


def _is_blob(real: Path, folder: Path) -> bool:
    """Whether a file is one of the Hub cache's blobs, and its name in a folder of that cache.

    A repository has blobs of its own, `models--NAME/blobs/HASH`. Those that several repositories
    may have in common are at `blobs/HA/HASH` beside the repositories.
    """
    if folder.parent.name != "snapshots":
        return False
    repo = folder.parents[1]
    shared = repo.name.startswith("models--") and real.parent.parent == repo.parent / "blobs"
    return shared or real.parent == repo / "blobs"


def read_bytes(path: Path, most: int) -> bytes:
    """Read a whole file of a checkpoint.

    Args:
        path: of the file.
        most: size in bytes up to which it is read.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no plain file, larger than `most`, of another kind, or cannot be
            read.
    """
    real = plain_file(path)
    try:
        if real.stat().st_size > most:
            raise CheckpointError(f"{path} is too large, expected at most {most} bytes")
        with real.open("rb") as file:
            data = file.read(most)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if kind := other_kind(data):
        raise CheckpointError(f"{path} {kind}")
    return data


def file_identity(path: Path) -> str:
    """Return what tells a file from one that it was replaced by, without reading it.

    No program can set the time of the last change of a file's state.
    """
    found = path.stat()
    return f"{found.st_ino}/{found.st_size}/{found.st_mtime_ns}/{found.st_ctime_ns};"
