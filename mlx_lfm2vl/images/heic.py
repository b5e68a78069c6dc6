"""What only a Mac can do, each by one command or call that comes with macOS."""

import sys
from pathlib import Path

from ..errors import InputError

SIPS_SECONDS = 60


def heic_to_tiff(data: bytes, name: str) -> bytes:
    """Convert a HEIC photo with `sips`; TIFF keeps its pixels, profile and orientation.

    Raises:
        InputError: this is no Mac, or `sips` cannot read the photo.
    """
    if sys.platform != "darwin":
        raise InputError(f"{name} is HEIC, which only macOS reads; convert it to JPEG or PNG first")
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
            raise InputError(f"{name} is HEIC, and sips cannot convert it") from None
