"""Pictures that are made when they are opened: pages, frames, parts of larger pictures."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InputError, Lfm2VLError

if TYPE_CHECKING:
    from PIL import Image

    from .decode import OpenedImage
    from .limits import ImageLimits


class Drawn(ABC):
    """A source of `open_image` that is no file of its own.

    Attributes:
        name: for messages, such as `scan.pdf, page 2`.
    """

    name: str

    @abstractmethod
    def draw(self, limits: ImageLimits) -> Image.Image:
        """Make the picture. It may be asked for more than once, and by any thread.

        Raises:
            InputError: it cannot be made.
        """


class Kept(Drawn):
    """A picture that was made before."""

    def __init__(self, name: str, image: Image.Image) -> None:
        self.name, self._image = name, image

    def draw(self, limits: ImageLimits) -> Image.Image:  # noqa: ARG002
        """Return the picture."""
        return self._image


class Refused(Drawn):
    """Stands for a picture that cannot be had: the reason comes up when its turn comes.

    So one bad name among thousands is one answer less, and not the end.
    """

    def __init__(self, name: str, error: Lfm2VLError) -> None:
        self.name, self.error = name, error

    def draw(self, limits: ImageLimits) -> Image.Image:  # noqa: ARG002
        """Raise the error that was met."""
        raise type(self.error)(*self.error.args)


class Part(NamedTuple):
    """A rectangle of a picture, in pixels of the upright original.

    Attributes:
        top: first row.
        left: first column.
        height: of the rectangle.
        width: of the rectangle.
        whole: (height, width) of the picture.
    """

    top: int
    left: int
    height: int
    width: int
    whole: tuple[int, int]


class Whole(Drawn):
    """A picture that is cut into parts: it is decoded once, and freed with the last of them."""

    def __init__(self, name: str, opened: OpenedImage, background: str | None) -> None:
        self.name, self._opened, self._background = name, opened, background
        self._lock = threading.Lock()

    def draw(self, limits: ImageLimits) -> Image.Image:  # noqa: ARG002
        """Return the picture in RGB."""
        with self._lock:
            outcome = self._outcome
        if isinstance(outcome, InputError):
            raise InputError(*outcome.args)
        return outcome

    @cached_property
    def _outcome(self) -> Image.Image | InputError:
        try:
            return self._opened.decode(background=self._background)
        except InputError as error:  # of every part
            return error


class Slice(Drawn):
    """A part of a larger picture."""

    def __init__(self, name: str, whole: Whole, part: Part) -> None:
        self.name, self.whole, self._part = name, whole, part

    def draw(self, limits: ImageLimits) -> Image.Image:
        """Cut the part out."""
        top, left, height, width, _ = self._part
        return self.whole.draw(limits).crop((left, top, left + width, top + height))
