"""A folder, or a file, that appears whole or not at all, whatever happens to the program.

It is made under another name in the same place, written through to the disk, and renamed at the
end. A lock in the unfinished folder tells what a living program still writes from what a dead one
has left.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import InputError

LOCK = ".lock"


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, that becomes the target when the block ends well and vanishes otherwise.

    What a killed run left behind is cleared away, or put back, by the next one.

    Args:
        target: where the folder is to be in the end.
        overwrite: replace an existing folder; it stays untouched until the new one is complete.

    Raises:
        InputError: the target exists, cannot be written, or is being written by another program.
    """
    from filelock import FileLock, Timeout

    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    lock = FileLock(partial / LOCK, timeout=0)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"{target} is being written by another program") from None
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from None
    try:
        _restore(target, old)
        check_target(target, overwrite=overwrite)
        _clear(partial)
        yield partial
        _sync(partial)
        (partial / LOCK).unlink()
        if target.exists():
            target.rename(old)
        partial.rename(target)
        _sync_entry(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from None
    finally:
        _restore(target, old)
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A path to write to, that becomes the target when the block ends well.

    For files that a single program writes; an existing target is replaced.

    Raises:
        OSError: it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        _sync_entry(partial)
        partial.replace(target)
        _sync_entry(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def check_target(target: Path, *, overwrite: bool, keep: Sequence[Path] = ()) -> None:
    """Refuse to write over something; worth asking before hours of work.

    Args:
        target: the folder to be.
        overwrite: an empty folder or a checkpoint may be replaced, and nothing else.
        keep: files or folders that are still needed: none of them may be in the target.

    Raises:
        InputError: the target exists, or would take something with it.
    """
    if not target.exists():
        return
    for path in keep:
        if path.resolve().is_relative_to(target.resolve()):
            raise InputError(f"{target} holds {path}, which is needed: choose another --output")
    if not overwrite:
        raise InputError(f"{target} exists already; choose another name or pass --overwrite")
    is_folder = target.is_dir()
    if not is_folder or (any(target.iterdir()) and not (target / "config.json").exists()):
        raise InputError(f"{target} is no checkpoint folder: it is not replaced")


def _restore(target: Path, old: Path) -> None:
    """Put back what a run had moved away when it was killed or failed."""
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _clear(partial: Path) -> None:
    """Remove what a killed run has written, but not our lock."""
    for path in partial.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(folder: Path) -> None:
    """Have the disk hold everything in a folder, then the folder's own list of names."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync_entry(path)
    _sync_entry(folder)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
