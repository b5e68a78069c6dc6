"""Frames of videos, which ffmpeg decodes where it is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import InputError
from .damage import DECODE_ERRORS
from .decode import pillow_rules
from .drawn import Drawn
from .read import local_file

if TYPE_CHECKING:
    from .inputs import Input
    from .limits import ImageLimits

SECONDS = 60  # for a call of ffmpeg
# A playlist names other files and addresses, so only kinds that hold their own pictures are read.
FORMATS = "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg"
SAFE = ["-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS]


def video_frames(item: Input, frames: int | None, at: Sequence[float]) -> Iterator[Input]:
    """Yield frames of a video.

    Args:
        item: the video, a file on disk.
        frames: how many: the middles of as many parts of equal time.
        at: seconds of the frames instead.

    Raises:
        InputError: ffmpeg is not installed or cannot read it, or it is no file.
    """
    file = local_file(item.source)
    if file is None:
        raise InputError(f"{item.name} is a video; save it to a file first")
    path = file.absolute()
    if not at:
        lasts = _duration(path, item.name)
        count = frames or 1
        at = [(number + 0.5) * lasts / count for number in range(count)]
    for second in at:
        frame = VideoFrame(item.name, path, second)
        yield replace(item, name=frame.name, source=frame, path=path, seconds=second)


class VideoFrame(Drawn):
    """The frame that a video shows at a time, in seconds."""

    def __init__(self, name: str, path: Path, second: float) -> None:
        self.name = f"{name}, {second:.1f} s"
        self._path, self._second = path, second

    def draw(self, limits: ImageLimits) -> Image.Image:
        """Decode the frame, upright.

        Raises:
            InputError: the video has ended before, or cannot be decoded.
        """
        before = ["-nostdin", *SAFE, "-max_pixels", str(limits.max_pixels)]
        where = ["-ss", f"{self._second:.3f}", "-i", f"file:{self._path}"]
        after = ["-an", "-sn", "-dn", "-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "pipe:1"]
        data = _run("ffmpeg", [*before, *where, *after], self.name)
        if not data:
            raise InputError(f"{self.name}: the video has no picture there")
        try:
            with pillow_rules(limits), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                return image.convert("RGB")
        except DECODE_ERRORS:
            raise InputError(f"{self.name}: ffmpeg gave no picture") from None


def _duration(path: Path, name: str) -> float:
    """The length of a video in seconds."""
    wanted = ["-show_entries", "format=duration", "-of", "default=noprint_wrappers=1:nokey=1"]
    text = _run("ffprobe", [*SAFE, *wanted, f"file:{path}"], name).decode(errors="replace").strip()
    try:
        lasts = float(text)
    except ValueError:
        lasts = 0.0
    if not 0 < lasts < 1e7:
        raise InputError(f"{name} does not tell how long it lasts; choose frames with --at")
    return lasts


def _run(program: str, arguments: list[str], name: str) -> bytes:
    """Run ffmpeg or ffprobe without a shell; return what it prints."""
    found = shutil.which(program)
    if found is None:
        raise InputError(
            f"{name} is a video, whose frames need {program}: on a Mac, brew install ffmpeg"
        )
    command = [found, "-v", "error", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: {program} took more than {SECONDS} seconds") from None
    except OSError as error:
        raise InputError(f"{name}: {program} cannot be started: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{name}: {program} cannot read it: {said[-1][:200] if said else ''}")
    return done.stdout
