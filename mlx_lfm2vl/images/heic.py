"""Reading HEIC photos with `sips`, a command that comes with macOS."""

import sys
from pathlib import Path

from ..errors import InputError

SIPS_SECONDS = 60


def heic_to_tiff(data: bytes, name: str) -> bytes:
    """Convert a HEIC photo to TIFF, which keeps its pixels, color profile and orientation.

    Args:
        data: bytes of the HEIC file.
        name: of the photo, for error messages.

    Returns:
        Bytes of the TIFF file.

    Raises:
        InputError: this is not a Mac, or `sips` cannot convert the photo.
    """
    if sys.platform != "darwin":
        raise InputError(
            f"{name} is HEIC, which can be read only on macOS; convert it to JPEG or PNG first"
        )
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "photo.heic"), Path(folder, "photo.tiff")
        source.write_bytes(data)
        command = ["sips", "-s", "format", "tiff", str(source), "--out", str(target)]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=SIPS_SECONDS)
            return target.read_bytes()
        except (OSError, subprocess.SubprocessError):
            raise InputError(
                f"{name} is HEIC, and sips cannot convert it; export it as JPEG or PNG"
            ) from None
