"""The images on a Mac's clipboard, by `osascript`, which comes with macOS."""

import sys
from pathlib import Path

from ..errors import InputError
from .gather import gather
from .inputs import Input
from .limits import ImageLimits
from .read import read_once

SECONDS = 30
# Files that were copied in the Finder are on the clipboard by their addresses. They are taken by
# number, because `repeat with` makes other objects of them. If AppKit cannot be asked, there is
# still the first file. The path to write to is an argument, so no letter of it is read as
# AppleScript.
SCRIPT = """\
use framework "AppKit"
use scripting additions

on copiedFiles()
    set thePaths to ""
    set theBoard to current application's NSPasteboard's generalPasteboard()
    set theClasses to {current application's NSURL}
    set theFiles to theBoard's readObjectsForClasses:theClasses options:(missing value)
    if theFiles is missing value then return thePaths
    repeat with i from 0 to ((theFiles's |count|()) as integer) - 1
        set theFile to theFiles's objectAtIndex:i
        if (theFile's isFileURL()) as boolean then
            set thePaths to thePaths & ((theFile's |path|()) as text) & (character id 0)
        end if
    end repeat
    return thePaths
end copiedFiles

on run arguments
    set thePaths to ""
    try
        set thePaths to my copiedFiles()
    end try
    if thePaths is not "" then return thePaths
    if (clipboard info for «class furl») is not {} then
        return POSIX path of (the clipboard as «class furl»)
    end if
    set theImage to the clipboard as «class PNGf»
    set theTarget to open for access (POSIX file (item 1 of arguments)) with write permission
    write theImage to theTarget
    close access theTarget
end run
"""


def copied(limits: ImageLimits, *, recursive: bool = False) -> list[Input]:
    """Return the files that were copied in the Finder, or the image on the clipboard.

    A folder that was copied stands for the images in it.

    Args:
        limits: on the bytes that are read.
        recursive: whether to enter the folders in a folder.

    Raises:
        InputError: this is not a Mac, or there is no image on the clipboard.
    """
    if sys.platform != "darwin":
        raise InputError("the clipboard can be read only on macOS; save the image to a file first")
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "clipboard.png")
        command = ["osascript", "-e", SCRIPT, str(target)]
        try:
            done = subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
        except (OSError, subprocess.SubprocessError):
            raise InputError("there is no image on the clipboard") from None
        names = done.stdout.decode(errors="surrogateescape").removesuffix("\n")
        if names:
            return list(gather(filter(None, names.split("\0")), recursive=recursive))
        image = read_once(target, limits)
    image.name = "the clipboard's image"
    return [Input("clipboard", image)]
