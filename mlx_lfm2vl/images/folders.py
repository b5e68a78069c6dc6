"""The pictures of a folder and of those below it, one listing at a time."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .endings import is_image_name

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
    in_cloud: int  # images that are not on this disk


def images_below(folder: Path, *, recursive: bool) -> Iterator[tuple[str, str | None]]:
    """Yield the image files of a folder, and then those of the folders in it.

    Hidden files and folders are left out, and so are the packages of the Mac; a note names those.
    Links to folders are followed, and each folder is listed once, so that a circle ends.

    Args:
        folder: where to begin.
        recursive: whether to enter the folders in it.

    Yields:
        (path, None) of an image, or (path, why) of a folder that cannot be read or has no images.
    """
    if _is_package(folder.resolve().name):
        yield str(folder), _package(str(folder))
        return
    waiting, seen = [str(folder)], set[tuple[int, int]]()
    found = below = 0
    while waiting:
        current = waiting.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            listing = _list(current)
        except OSError as error:
            found += 1
            yield current, f"{current} cannot be read: {error.strerror}"
            continue
        if listing.in_cloud:
            logger.warning(
                "%s: %d images are in iCloud only and left out; download them in the Finder",
                *(current, listing.in_cloud),
            )
        for name in listing.images:
            found += 1
            yield str(Path(current, name)), None
        below += len(listing.folders)
        if recursive:
            waiting += [os.path.join(current, name) for name in reversed(listing.folders)]
    if not found:
        hint = "; --recursive enters the folders in it" if below and not recursive else ""
        yield str(folder), f"there are no images in {folder}{hint}"


def _list(folder: str) -> Listing:
    images, folders, in_cloud = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                original = name.removesuffix(IN_CLOUD)
                in_cloud += original != name and is_image_name(original)
            elif entry.is_dir():
                folders.append(name)
            elif is_image_name(name) and entry.is_file():
                images.append(name)
    for name in sorted(filter(_is_package, folders)):
        logger.warning("%s", _package(os.path.join(folder, name)))
    entered = sorted(name for name in folders if not _is_package(name))
    return Listing(sorted(images), entered, in_cloud)


def _is_package(name: str) -> bool:
    return name.lower().endswith(PACKAGES)


def _package(path: str) -> str:
    return (
        f"{path} belongs to another program and is not entered; export its pictures, or name a "
        "folder inside it"
    )
