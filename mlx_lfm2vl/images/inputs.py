"""What is asked about: one picture each, with the file that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .drawn import Part
    from .source import ImageSource


@dataclass(frozen=True)
class Input:
    """One picture to ask about.

    Attributes:
        name: what the user is shown, such as `photo.jpg` or `scan.pdf, page 2`.
        source: what `open_image` takes. A file is not read before its turn comes.
        path: the file on disk; None if there is none.
        page: number of the page or frame in the file, from 1; None for a file of one picture.
        seconds: time of a frame of a video; None otherwise.
        part: the part of a larger picture that it shows; None shows all of it.
        slices: of a long picture that is asked about slice by slice and answered as one.
    """

    name: str
    source: ImageSource
    path: Path | None = None
    page: int | None = None
    seconds: float | None = None
    part: Part | None = None
    slices: tuple[Input, ...] = ()

    @property
    def asked(self) -> tuple[Input, ...]:
        """What the model sees, one by one: the slices, or the picture itself."""
        return self.slices or (self,)
