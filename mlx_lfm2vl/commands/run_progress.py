"""How far a folder run is: a line that is rewritten on a terminal, a line a minute in a log.

tqdm would be a dependency of its own, knows no run whose number of pictures grows, and writes no
lines for logs.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING

from .common import is_watched

if TYPE_CHECKING:
    from ..desktop.folder_run import Counts

TERMINAL_SECONDS = 0.2  # between lines
LOG_SECONDS = 60.0


class Progress:
    """Shows the counts of a run.

    Attributes:
        total: number of pictures; None if it is not known.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self._start = self._last = time.monotonic()
        self._is_terminal = is_watched()
        self._shown = False
        self._logged = 0  # pictures in the last line of a log
        for handler in logging.getLogger("mlx_lfm2vl").handlers:
            handler.addFilter(self._before_note)

    def show(self, counts: Counts) -> None:
        """Show the counts, if the last line is old enough. A log gets a line only for news."""
        now = time.monotonic()
        pause = TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS
        is_old = not self._is_terminal and counts.done == self._logged
        if now - self._last < pause or is_old:
            return
        self._last, self._logged = now, counts.done
        line = progress_text(counts, self.total, now - self._start)
        if self._is_terminal:
            print(f"\r\033[K{line[: _width() - 1]}", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line off the terminal, so that another can be printed."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        self._shown = False

    def _before_note(self, _record: logging.LogRecord) -> bool:
        self.clear()
        return True


def progress_text(counts: Counts, total: int | None, seconds: float) -> str:
    """Return the line: "12 of 80 pictures, 1 failed, 2.5/s, 0:27 left".

    Args:
        counts: so far.
        total: number of pictures, or None.
        seconds: since the run began.
    """
    done = counts.done
    parts = [
        f"{done:,} pictures" if total is None else f"{done:,} of {max(total, done):,} pictures"
    ]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    new = done - counts.known
    if new and seconds > 0:
        rate = new / seconds
        parts.append(f"{rate:.1f}/s" if rate >= 0.1 else f"{60 * rate:.1f}/min")
        if total is not None and total > done:
            parts.append(f"{_duration((total - done) / rate)} left")
    return ", ".join(parts)


def summary(counts: Counts, out: str) -> str:
    """Return the last line of a run."""
    parts = [f"{counts.answered:,} answered"]
    for number, what in (
        (counts.copied, "equal to another"),
        (counts.known, "known from before"),
        (counts.failed, "failed"),
    ):
        if number:
            parts.append(f"{number:,} {what}")
    errors = " has the errors" if counts.failed else ""
    return f"{counts.done:,} {noun(counts.done)}: {', '.join(parts)}; {out}{errors}"


def noun(number: int) -> str:
    """Return the word for so many pictures."""
    return "picture" if number == 1 else "pictures"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 80
