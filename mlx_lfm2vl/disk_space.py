"""Free space on disk: asked for before long work, and said in units that people read."""

import shutil
from pathlib import Path

from .errors import InputError

SPARE_BYTES = 64 * 2**20  # for small files and the file system's own needs


def size_text(nbytes: int) -> str:
    """Return a size in the unit that suits it: `1.24 GB`, `24 MB`, `240 kB`, `12 bytes`."""
    if nbytes >= 1e9:
        return f"{nbytes / 1e9:.2f} GB"
    for unit, name in ((1e6, "MB"), (1e3, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}" if nbytes < 999.5 * unit else f"{1000} {name}"
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
            f"{target} needs {size_text(nbytes + SPARE_BYTES)}, but its disk has only "
            f"{size_text(free)} free"
        )
