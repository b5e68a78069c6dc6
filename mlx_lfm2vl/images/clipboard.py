"""The image on a Mac's clipboard, by `osascript`, which comes with macOS."""

import sys
from pathlib import Path

from ..errors import InputError
from .limits import ImageLimits
from .read import NamedBytes, read_source

SECONDS = 30
# A file that was copied in the Finder is on the clipboard by its name. The path to write to is an
# argument, so no letter of it is read as AppleScript.
SCRIPT = """\
on run arguments
    if (clipboard info for «class furl») is not {} then
        return POSIX path of (the clipboard as «class furl»)
    end if
    set image to the clipboard as «class PNGf»
    set target to open for access (POSIX file (item 1 of arguments)) with write permission
    write image to target
    close access target
end run
"""


def read_clipboard(limits: ImageLimits) -> NamedBytes:
    """Return the image on the clipboard, or the image file that was copied.

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
        copied = done.stdout.decode(errors="replace").removesuffix("\n")
        name, data = read_source(copied or target, limits)
    named = NamedBytes(data)
    named.name = name if copied else "the clipboard's image"
    return named
