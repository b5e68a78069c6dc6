"""A picture of a Mac's screen, by `screencapture`, which comes with macOS."""

import ctypes
import logging
import sys
from pathlib import Path

from ..errors import Cancelled, InputError
from .inputs import Input
from .read import NamedBytes

logger = logging.getLogger(__name__)

SECONDS = 30  # not for a region, for which the user takes time
GRAPHICS = "/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics"
ALLOW = (
    "allow the program that you started this from, such as Terminal, under System Settings > "
    "Privacy & Security > Screen & System Audio Recording"
)


def take_screenshot(*, region: bool = False) -> Input:
    """Return what the main screen shows, or the part of the screen that the user selects.

    Raises:
        InputError: this is not a Mac, or the screen cannot be read.
        Cancelled: the user has selected nothing.
    """
    if sys.platform != "darwin":
        raise InputError(
            "a screenshot can be taken only on macOS; take it with another program, and give its "
            "file"
        )
    import subprocess
    import tempfile

    if not _may_record():
        logger.warning("the screenshot may show nothing but the desktop picture: %s", ALLOW)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "screenshot.png")
        command = ["screencapture", "-x", *(["-i"] if region else []), str(target)]
        try:
            subprocess.run(command, capture_output=True, timeout=None if region else SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"the screen cannot be read: {error}") from None
        if not target.exists():  # the exit code is 0 then, too
            if region:
                raise Cancelled("no part of the screen was selected")
            raise InputError(f"the screen cannot be read: {ALLOW}")
        image = NamedBytes(target.read_bytes())
    image.name = "the screenshot"
    return Input("screenshot", image)


def _may_record() -> bool:
    """Whether macOS lets this program see the windows of others, as far as it says so.

    Without its permission a screenshot shows the desktop picture, and no error tells.
    """
    try:
        allowed = ctypes.CDLL(GRAPHICS).CGPreflightScreenCaptureAccess
    except (OSError, AttributeError):
        return True
    allowed.restype = ctypes.c_bool
    return bool(allowed())
