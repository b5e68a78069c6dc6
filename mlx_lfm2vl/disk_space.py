"""Free space on disk: asked for before long work, and said in units that people read."""

import errno
import shutil
from pathlib import Path

from .errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
SPARE_BYTES = 64 * 2**20  # for small files and the file system's own needs


def size_text(nbytes: int) -> str:
    """Return a size in the unit that suits it: `1.24 GB`, `24 MB`, `240 kB`, `12 bytes`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        # Below half a step less, rounding gives 1000 of the next smaller unit.
        if nbytes >= 0.9995 * unit:
            number = nbytes / unit
            return f"{number:.2f} GB" if name == "GB" else f"{number:.3g} {name}"
    return f"{nbytes} bytes"


def free_bytes(path: Path) -> int:
    """Return the free space of the disk that holds, or will hold, a path."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_space(target: Path, nbytes: int) -> None:
    """Check that a disk has room, before hours of work rather than after.

    Args:
        target: file or folder to write; it need not exist.
        nbytes: size of the arrays that it will hold.

    Raises:
        InputError: there is too little free space.
    """
    free = free_bytes(target)
    if free < nbytes + SPARE_BYTES:
        raise InputError(
            f"{target} will take {size_text(nbytes)} and needs {size_text(nbytes + SPARE_BYTES)} "
            f"to be free, but only {size_text(free)} are free there"
        )


def write_failure(error: OSError, target: Path) -> str:
    """Say in words why a file or folder could not be written."""
    if error.errno in FULL:
        return f"its disk is full ({size_text(free_bytes(target))} are free)"
    if error.errno == errno.ENOENT and not target.parent.is_dir():
        return f"there is no folder {target.parent}"
    return error.strerror or str(error)
