"""Which pictures of a file are asked about. This module does not import a decoder."""

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .page_ranges import page_ranges

MAX_FRAMES = 1000


@dataclass(frozen=True)
class PageOptions:
    """Which pages, frames and parts of the inputs are asked about.

    Raises:
        InputError: a value is out of range, or two contradict each other.
    """

    pages: str = ""  # of each PDF, such as "1-3,5" or "4-"; empty takes all
    frames: int | None = None  # of each animation or video, spread evenly; None takes the first
    at: tuple[float, ...] = ()  # seconds of the frames to take instead
    slices: Literal["auto", "off"] = "off"  # cut long pictures, so that they keep their scale

    def __post_init__(self) -> None:
        if self.pages:
            page_ranges(self.pages)
        if self.frames is not None and not 1 <= self.frames <= MAX_FRAMES:
            raise InputError(f"frames is {self.frames}, expected 1 to {MAX_FRAMES}")
        if self.frames is not None and self.at:
            raise InputError("frames and at both choose frames: give one of them")
        if not all(math.isfinite(second) and second >= 0 for second in self.at):
            raise InputError(f"at is {', '.join(map(str, self.at))}, expected seconds from 0 on")
        if len(self.at) > MAX_FRAMES:
            raise InputError(f"at has {len(self.at)} times, at most {MAX_FRAMES} are read")
        if self.slices not in ("auto", "off"):
            raise InputError(f"slices is {self.slices!r}, expected auto or off")

    @property
    def has_frames(self) -> bool:
        """Whether frames are chosen."""
        return self.frames is not None or bool(self.at)
