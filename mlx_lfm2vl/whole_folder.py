"""Atomic writing: a folder or file appears complete or not at all, even if the program is killed.

It is written under another name next to its target, synced to disk, and renamed at the end. A lock
in the unfinished folder tells a program that is still writing from leftovers of one that died.
"""

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from .disk_space import write_failure
from .errors import InputError

LOCK = ".lock"
CHECKPOINT = ("config.json", "checkpoint")


@contextlib.contextmanager
def new_folder(
    target: Path, *, overwrite: bool, kind: tuple[str, str] = CHECKPOINT
) -> Iterator[Path]:
    """Provide a folder that becomes `target` if the block succeeds and is deleted if it fails.

    If an earlier run was killed, this one deletes its unfinished folder and restores the folder it
    was replacing.

    Args:
        target: final path of the folder.
        overwrite: replace an existing folder; it stays untouched until the new one is complete.
        kind: of folder that may be replaced; see `check_target`.

    Yields:
        The folder to fill.

    Raises:
        InputError: the target exists, cannot be written, or is being written by another program.
    """
    from filelock import FileLock, Timeout

    target = _followed(target)
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    lock = FileLock(partial / LOCK, timeout=0)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"{target} is being written by another program") from None
    except OSError as error:
        raise _named(error, target) from None
    try:
        _restore(target, old)
        check_target(target, overwrite=overwrite, kind=kind)
        _clear(partial)
        with _ended_by_signals():
            yield partial
        _sync(partial)
        (partial / LOCK).unlink()
        # What appeared at the target meanwhile is another's work: it is never replaced unasked.
        check_target(target, overwrite=overwrite, kind=kind)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        sync_entry(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _named(error, target) from None
    finally:
        _restore(target, old)
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block by an exception, so that its folder is deleted.

    Only where nobody else handles them, and in the main thread, where Python allows it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    kinds = (signal.SIGTERM, signal.SIGHUP)
    unhandled = [kind for kind in kinds if signal.getsignal(kind) is signal.SIG_DFL]
    for kind in unhandled:
        signal.signal(kind, end)
    try:
        yield
    finally:
        for kind in unhandled:
            signal.signal(kind, signal.SIG_DFL)


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Provide a path whose file becomes `target` if the block succeeds.

    An existing target is replaced. There is no lock: only one program may write the target at a
    time.

    Yields:
        The path to write to.

    Raises:
        InputError: the file cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        with writing(target):
            yield partial
            sync_entry(partial)
            partial.replace(target)
            sync_entry(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Name what was to be written if the block cannot write it.

    Raises:
        InputError: instead of an OSError, whose text may be "No space left on device" and no more.
    """
    try:
        yield
    except OSError as error:
        raise _named(error, target) from None


def _named(error: OSError, target: Path) -> InputError:
    return InputError(f"{target} cannot be written: {write_failure(error, target)}")


def check_file(target: Path) -> None:
    """Check that a file may be written, before anything is loaded.

    Raises:
        InputError: it is no plain file, its folder does not exist, or it or its folder, where its
            replacement is made, may not be written.
    """
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "no plain file"
        raise InputError(f"{target} is {what}, expected the name of a file to write")
    if not target.parent.is_dir():
        raise InputError(f"{target} cannot be written: there is no folder {target.parent}")
    for path in (target.parent, target):
        if path.exists() and not os.access(path, os.W_OK):
            where = "" if path == target else f" in {path}"
            raise InputError(f"{target} cannot be written: {os.strerror(errno.EACCES)}{where}")


def check_target(
    target: Path,
    *,
    overwrite: bool,
    keep: Sequence[Path] = (),
    kind: tuple[str, str] = CHECKPOINT,
) -> None:
    """Check that a folder may be written; call this before hours of work.

    Args:
        target: path of the folder.
        overwrite: allow replacing an empty folder or one of its kind, and nothing else.
        keep: files and folders that must survive, so none of them may be inside the target.
        kind: name of a file that every folder of the kind has, and what the folder is called.

    Raises:
        InputError: the target exists and may not be replaced.
    """
    target = _followed(target)
    if not target.exists():
        return
    for path in keep:
        if path.resolve().is_relative_to(target.resolve()):
            raise InputError(f"{target} holds {path}, which is needed: choose another --output")
    if not overwrite:
        raise InputError(f"{target} exists already; choose another name or pass --overwrite")
    is_folder, (file, what) = target.is_dir(), kind
    if not is_folder or (any(target.iterdir()) and not (target / file).exists()):
        raise InputError(f"{target} is no {what} folder: it is not replaced; choose another name")


def _followed(target: Path) -> Path:
    """Return what a link names: that folder is written, and the link stays.

    Raises:
        InputError: the link names nothing.
    """
    if not target.is_symlink():
        return target
    try:
        return target.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InputError(f"{target} is a link to nothing; choose another --output") from None


def _restore(target: Path, old: Path) -> None:
    """Undo a replacement that was killed or failed halfway, or delete what it replaced."""
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _clear(partial: Path) -> None:
    """Delete what a killed run wrote, except the lock, which is ours now."""
    for path in partial.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(folder: Path) -> None:
    """Sync a folder to disk: everything in it first, then its own directory entry."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync_entry(path)
    sync_entry(folder)


def sync_entry(path: Path) -> None:
    """Sync a file to disk, or a folder: the names in it, not what they hold."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
