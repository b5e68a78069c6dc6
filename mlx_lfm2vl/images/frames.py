"""Frames of animations, as a viewer shows them, and of videos by ffmpeg."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import InputError
from .container import check_pixels, count_frames, examine
from .damage import DECODE_ERRORS, reason
from .decode import pillow_rules
from .drawn import Drawn
from .read import read_source

if TYPE_CHECKING:
    from .inputs import Input
    from .limits import ImageLimits

FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
MAX_FRAMES = 10_000  # of one animation
MAX_WORK = 4 * 10**9  # pixels of all frames up to the last that is shown
SHORTEST = 0.01  # seconds; browsers show a shorter frame, or one without a time, for a tenth
DEFAULT = 0.1


def spread(count: int, total: int) -> list[int]:
    """Return up to `count` numbers from 0 to total - 1: the middles of as many equal parts."""
    count = min(count, total)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def animation_frames(
    item: Input, frames: int | None, at: Sequence[float], limits: ImageLimits
) -> Iterator[Input]:
    """Yield frames of an animation; a picture of one frame as it is.

    Args:
        item: the animation: GIF, WebP, PNG or AVIF.
        frames: how many, spread evenly over all; all if there are no more.
        at: seconds of the frames instead.
        limits: on the file and its pixels.

    Raises:
        InputError: the file is damaged, has too many frames, or ends before a time.
        NetworkError: a URL could not be fetched.
    """
    animation = Animation(item, limits)
    if animation.count == 1:
        yield item
        return
    if at:
        numbers = [animation.number_at(second) for second in at]
    else:
        numbers = spread(frames or 1, animation.count)
    animation.check_work(max(numbers))
    for number, second in zip(numbers, at or [None] * len(numbers), strict=True):
        frame = Frame(animation, number)
        yield replace(item, name=frame.name, source=frame, page=number + 1, seconds=second)


class Animation:
    """An animation whose frames are composed one after the other."""

    def __init__(self, item: Input, limits: ImageLimits) -> None:
        self.name, self._limits = item.name, limits
        self._lock = threading.Lock()
        _, self._data = read_source(item.source, limits)
        examine(self._data, item.name, limits)
        if self._data[:4] == b"GIF8":  # Pillow counts them slowly
            self._check_count(count_frames(self._data, item.name, MAX_FRAMES + 1))
        with self._careful():
            self._image = self._open()
            # An APNG may begin with a picture for programs that do not know animations.
            self._skipped = int(getattr(self._image, "default_image", False))
            self.count = max(1, getattr(self._image, "n_frames", 1) - self._skipped)
        self._check_count(self.count)
        check_pixels(item.name, *self._image.size, 1, limits)

    def _open(self) -> Image.Image:
        return Image.open(io.BytesIO(self._data), formats=FORMATS)

    def _show(self, number: int) -> Image.Image:
        """Pillow's image with a frame loaded."""
        if number + self._skipped < self._image.tell():
            self._image = self._open()  # Pillow fails on some ways back
        self._image.seek(number + self._skipped)
        self._image.load()
        return self._image

    def _check_count(self, count: int) -> None:
        if count > MAX_FRAMES:
            raise InputError(f"{self.name} has more than {MAX_FRAMES} frames, the limit")

    def check_work(self, last: int) -> None:
        """Refuse frames before which too many others have to be decoded.

        Raises:
            InputError: there are too many.
        """
        width, height = self._image.size
        if (last + 1) * width * height > MAX_WORK:
            raise InputError(
                f"{self.name} has {self.count} frames of {width} x {height} pixels, too many to "
                f"reach frame {last + 1}; make a smaller copy"
            )

    def number_at(self, second: float) -> int:
        """The frame, from 0, that is shown at a time.

        Raises:
            InputError: the animation has ended before.
        """
        end = 0.0
        for number in range(self.count):
            self.check_work(number)
            with self._careful():
                lasts = self._show(number).info.get("duration", 0) / 1000
            end += lasts if lasts > SHORTEST else DEFAULT
            if second < end:
                return number
        raise InputError(f"{self.name} lasts {end:.2f} seconds: there is no frame at {second:g}")

    def frame(self, number: int) -> Image.Image:
        """Compose a frame, counted from 0.

        Raises:
            InputError: the file is damaged.
        """
        with self._careful():
            return self._show(number).copy()

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """Use Pillow's image: one thread at a time, within our limits, with errors of ours."""
        try:
            with self._lock, pillow_rules(self._limits):
                yield
        except DECODE_ERRORS as error:
            raise InputError(f"{self.name} is damaged or not supported: {reason(error)}") from None


class Frame(Drawn):
    """A frame of an animation."""

    def __init__(self, animation: Animation, number: int) -> None:
        self.name = f"{animation.name}, frame {number + 1}"
        self._animation, self._number = animation, number

    def draw(self, limits: ImageLimits) -> Image.Image:  # noqa: ARG002
        """Compose the frame."""
        return self._animation.frame(self._number)
