"""The images and PDFs of a folder and of those below it, one listing at a time."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .endings import is_page_name, is_video_name

logger = logging.getLogger(__name__)

# Folders that macOS shows as one file. What is in them belongs to a program: Photos keeps several
# sizes of each picture under names that mean nothing.
PACKAGES = (
    *(".photoslibrary", ".photolibrary", ".aplibrary", ".migratedphotolibrary", ".lrdata"),
    *(".cocatalog", ".fcpbundle", ".imovielibrary", ".tvlibrary", ".musiclibrary", ".theater"),
    *(".app", ".bundle", ".framework", ".plugin", ".rtfd", ".pages", ".numbers", ".key"),
)
IN_CLOUD = ".icloud"  # of the hidden file that stands for one that is not downloaded


class Listing(NamedTuple):
    """What is in one folder, sorted by name."""

    images: list[str]
    folders: list[str]


def images_below(folder: Path, *, recursive: bool) -> Iterator[tuple[str, str | None]]:
    """Yield the images and PDFs of a folder, and then those of the folders in it.

    Hidden files and folders are left out, and so are videos and the packages of the Mac; notes tell
    of these two. Links to folders are followed, and each folder is listed once, so that a circle
    ends.

    Args:
        folder: where to begin.
        recursive: whether to enter the folders in it.

    Yields:
        (path, None) of an image or PDF, or (path, why) of a folder that cannot be read or has
        none.
    """
    if _is_package(folder.resolve().name):
        yield str(folder), _package(folder)
        return
    waiting, seen = [folder], set[str]()
    found = below = 0
    while waiting:
        current = waiting.pop()
        try:
            real = os.path.realpath(current)
            if real in seen:
                continue
            seen.add(real)
            listing = _list(current)
        except OSError as error:
            found += 1
            yield str(current), f"{current} cannot be read: {error.strerror}"
            continue
        for name in listing.images:
            found += 1
            yield str(current / name), None
        below += len(listing.folders)
        if recursive:
            waiting += [current / name for name in reversed(listing.folders)]
    if not found:
        hint = "; --recursive enters the folders in it" if below and not recursive else ""
        yield str(folder), f"there are no images in {folder}{hint}"


def _list(folder: Path) -> Listing:
    """List a folder, and say in notes what of it is left out.

    Raises:
        OSError: it cannot be read.
    """
    images, folders, packages = list[str](), list[str](), list[str]()
    in_cloud = videos = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                original = name.removesuffix(IN_CLOUD)
                in_cloud += original != name and is_page_name(original)
            elif _is(entry, os.DirEntry.is_dir):
                (packages if _is_package(name) else folders).append(name)
            elif is_page_name(name) and _is(entry, os.DirEntry.is_file):
                images.append(name)
            elif is_video_name(name):
                videos += 1
    for name in sorted(packages):
        logger.warning("%s", _package(folder / name))
    if in_cloud:
        what = "1 image is" if in_cloud == 1 else f"{in_cloud} images are"
        logger.warning("%s: %s only in iCloud and left out; download first", folder, what)
    if videos:
        logger.warning("%s: videos are left out (%d); name them, with --frames", folder, videos)
    return Listing(sorted(images), sorted(folders))


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Whether an entry is of a kind; a link that leads nowhere or to itself is of none."""
    try:
        return kind(entry)
    except OSError:
        return False


def _is_package(name: str) -> bool:
    return name.lower().endswith(PACKAGES)


def _package(path: Path) -> str:
    return (
        f"{path} belongs to another program and is not entered; export its pictures, or name a "
        "folder inside it"
    )
