"""Durations as a user writes them: 30s, 10m, 2h, 0, forever."""

import re

from ..errors import InputError

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float | None:
    """Return a duration in seconds; None is forever.

    Raises:
        InputError: it is no duration.
    """
    if text == "forever":
        return None
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text)
    if found is None:
        raise InputError(f"{text!r:.40} is no duration, expected 30s, 10m, 2h, 0 or forever")
    return float(found[1]) * SECONDS[found[2]]
