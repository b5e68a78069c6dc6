"""Work ahead in threads: the next pictures are read and decoded while the device answers."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = min(4, os.cpu_count() or 1)  # decoding 12 megapixels takes 100 MB in each
PAUSE = 0.05  # seconds between looks for new items when there is nothing to do


class _End(Enum):
    END = "end"


def ahead(
    function: Callable[[T], R],
    items: Iterable[T | None],
    *,
    window: int,
    is_idle: Callable[[], bool],
) -> Iterator[R | None]:
    """Yield the results of a function for items, in their order, computed ahead in threads.

    Args:
        function: any thread calls it.
        items: taken one by one in the caller's thread. None means that there is none at the moment.
        window: maximum number of results, begun or finished, that wait for their turn.
        is_idle: whether the caller has nothing else to do, so that it may be kept waiting.

    Yields:
        Each result, and None whenever the next one is not there yet.
    """
    supply, is_more = iter(items), True
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
    try:
        while True:
            while is_more and len(waiting) < window:
                item = next(supply, _End.END)
                if item is None:
                    break
                if isinstance(item, _End):
                    is_more = False
                else:
                    waiting.append(pool.submit(function, item))
            if waiting and (is_idle() or waiting[0].done()):
                yield waiting.popleft().result()
            elif waiting or is_more:
                if not waiting and is_idle():
                    time.sleep(PAUSE)
                yield None
            else:
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
