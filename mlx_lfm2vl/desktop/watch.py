"""Watching: pictures are taken as they appear, each when its file is whole.

The sources are listed once a second, which is exact, needs no other package, and finds files that
were renamed into a folder as well as those that were written there. A file counts as whole when its
size and its time have not changed between two listings.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator

from ..images.inputs import Input

SECONDS = 1.0  # between listings

State = tuple[int, int]  # size in bytes, time of the last change in ns


def watched(
    listing: Callable[[], Iterable[Input]], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Input | None]:
    """Yield pictures as they become whole, and None while there are none; it never ends.

    A file that is changed later is yielded again. An input without a file is yielded once.

    Args:
        listing: lists all inputs that there are now. One that it cannot find or read is no error.
        clock: tells the seconds.
    """
    seen: dict[str, State | None] = {}  # as yielded, or as it was at the last listing
    waiting: dict[str, State | None] = {}
    due = clock()
    while True:
        if clock() < due:
            yield None
            continue
        due = clock() + SECONDS
        before, waiting = waiting, {}
        for given in listing():
            name = given.name
            state = None if given.path is None else _state(given)
            if name in seen and seen[name] == state:
                continue
            if given.path is not None and (state is None or before.get(name) != state):
                waiting[name] = state
                continue
            seen[name] = state
            yield given
        yield None


def _state(given: Input) -> State | None:
    """Size and time of a file; None if it is empty or gone, so that it waits."""
    assert given.path is not None
    try:
        status = os.stat(given.path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if status.st_size else None
