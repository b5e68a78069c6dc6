"""Images that requests name by address, fetched apart from everything else.

A host may send nothing for as long as a download may take. So downloads have threads of their own,
of which each request and each client has a share, and requests without addresses wait for none.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

from ...errors import InputError, NetworkError
from ..protocol.fields import BadField
from ..request import Busy
from .bodies import Count

# Downloads at the same time.
OF_ALL = 16
OF_CLIENT = 8
OF_REQUEST = 4
# Requests whose images are fetched, or wait for that.
MAX_REQUESTS = 64
MAX_OF_CLIENT = 32
SECONDS = 60.0  # for all images of a request
RETRY_AFTER = 5  # seconds


class Fetcher:
    """Fetches the images of requests."""

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: of one image.
        """
        self._max_bytes = max_bytes
        self._places = asyncio.Semaphore(OF_ALL)
        self._shares = WeakValueDictionary[str, asyncio.Semaphore]()  # by client
        self._requests = Counter[str]()  # under way, by client

    async def fetch(self, fields: Mapping[str, str], client: str, count: Count) -> dict[str, bytes]:
        """Fetch the images of a request.

        Args:
            fields: of the request, by the address that each holds.
            client: network address of the one who asks.
            count: told the size of each file as soon as it is there.

        Returns:
            The files by their addresses.

        Raises:
            BadField: one cannot be fetched, or not in time.
            Busy: the downloads of other requests leave no room, or `count` says so.
        """
        share = self._shares.setdefault(client, asyncio.Semaphore(OF_CLIENT))
        places = (asyncio.Semaphore(OF_REQUEST), share, self._places)
        begun, files = set[str](), dict[str, bytes]()

        async def get(address: str) -> None:
            with ExitStack() as held:
                for place in places:
                    await place.acquire()
                    held.callback(place.release)
                begun.add(address)
                # A thread cannot be stopped: the places are free when it ends.
                downloading = _download(address, self._max_bytes, held.pop_all().close)
            try:
                files[address] = await downloading
            except (InputError, NetworkError) as error:
                raise BadField(str(error), fields[address]) from None
            finally:
                del downloading  # see `while_there`
            count(len(files[address]))

        with self._counted(client):
            failure = await _first_error(map(get, fields))
        missing = [address for address in fields if address not in files]
        if failure is None and missing:
            failure = _late(missing[0], fields[missing[0]]) if begun else _busy()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # see `while_there`
        return files

    @contextmanager
    def _counted(self, client: str) -> Iterator[None]:
        """Count a request that is under way."""
        if self._requests.total() >= MAX_REQUESTS or self._requests[client] >= MAX_OF_CLIENT:
            raise _busy()
        self._requests[client] += 1
        try:
            yield
        finally:
            self._requests[client] -= 1
            self._requests += Counter()  # forgets clients that have none


async def _first_error(work: Iterable[Coroutine[Any, Any, None]]) -> BaseException | None:
    """Do things at the same time, until one fails or the time is over; return its error, if any.

    `TaskGroup` would raise a group of errors, which holds itself in a cycle; see `while_there`.
    """
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        return next(filter(None, (task.exception() for task in done)), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _late(address: str, field: str) -> BadField:
    """Return the error of a request whose time is over, with an address that was not fetched."""
    return BadField(
        f"{field} is {address[:200]}, and the images of a request were not fetched within "
        f"{SECONDS:g} seconds; send them as data URIs",
        field,
    )


def _download(address: str, max_bytes: int, at_end: Callable[[], object]) -> asyncio.Future[bytes]:
    """Fetch a file in a thread, which does not hold up the end of the process.

    Args:
        address: of the file.
        max_bytes: of the file.
        at_end: called in the event loop when the thread ends, or cannot begin.

    Raises:
        Busy: the machine has no thread left.
    """
    from ...images.fetch import fetch  # imports TLS, which few requests need

    loop, done = asyncio.get_running_loop(), Future[bytes]()
    done.set_running_or_notify_cancel()

    def run(done: Future[bytes]) -> None:
        try:
            done.set_result(fetch(address, max_bytes))
        except Exception as error:  # noqa: BLE001  raised where the file is awaited
            done.set_exception(error)
        finally:
            del done  # see `while_there`
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(at_end)

    thread = threading.Thread(target=run, args=(done,), name="mlx_lfm2vl fetcher", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        at_end()
        raise _busy() from None
    return asyncio.wrap_future(done)


def _busy() -> Busy:
    return Busy(
        "other requests fetch images by address, and there is no room for more; send the image as "
        "a data URI, or try again later",
        RETRY_AFTER,
    )
