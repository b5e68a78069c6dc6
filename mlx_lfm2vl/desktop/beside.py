"""What lies beside a photo and belongs to it: sidecars, texts, the film of a live photo.

Such files have the photo's stem (`photo.xmp`) or its whole name (`photo.jpg.xmp`). The stem means
nothing if another picture has it too, such as `photo.cr2`: then only the whole name counts.
"""

import os
from pathlib import Path

from ..images.endings import IMAGE_ENDINGS

RAW_ENDINGS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".srw", ".x3f"),
)
PICTURES = frozenset(IMAGE_ENDINGS + RAW_ENDINGS)
# .aae holds the edits of an iPhone, .mov the film of a live photo.
COMPANIONS = (".xmp", ".txt", ".aae", ".mov")


def shares_stem(photo: Path) -> bool:
    """Whether another picture of the folder has the photo's stem, in any case."""
    stem = photo.stem.casefold()
    for name in os.listdir(photo.parent):
        other, ending = os.path.splitext(name.casefold())
        if other == stem and ending in PICTURES and name != photo.name:
            return True
    return False


def companions(photo: Path, endings: tuple[str, ...] = COMPANIONS) -> list[Path]:
    """Return the files beside a photo that belong to it, sorted by name.

    Args:
        photo: an existing file.
        endings: those of the files wanted, in small letters; they are found in any case.
    """
    short, long = photo.stem.casefold(), photo.name.casefold()
    stems = {long} if shares_stem(photo) else {long, short}
    found = []
    for name in os.listdir(photo.parent):
        stem, ending = os.path.splitext(name)
        if ending.lower() in endings and stem.casefold() in stems and name != photo.name:
            found.append(photo.with_name(name))
    return sorted(found)


def beside(photo: Path, ending: str, *, whole_name: bool = False) -> Path:
    """Return the path of a new file beside a photo.

    Args:
        photo: an existing file.
        ending: such as `.xmp`.
        whole_name: make it `photo.jpg.xmp` instead of `photo.xmp`; always so if the stem is shared.
    """
    if whole_name or shares_stem(photo):
        return photo.with_name(photo.name + ending)
    return photo.with_name(photo.stem + ending)
