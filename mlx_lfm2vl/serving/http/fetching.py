"""Images that requests name by address, fetched apart from everything else.

A host may send nothing for as long as a download may take. So downloads have threads of their own,
of which each request and each client has a share, and requests without addresses wait for none.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from weakref import WeakValueDictionary

from ...errors import InputError, NetworkError
from ..protocol.fields import BadField
from ..request import Busy

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

    async def fetch(self, fields: Mapping[str, str], client: str) -> dict[str, bytes]:
        """Fetch the images of a request.

        Args:
            fields: of the request, by the address that each holds.
            client: network address of the one who asks.

        Returns:
            The files by their addresses.

        Raises:
            BadField: one cannot be fetched, or not in time.
            Busy: the downloads of other requests leave no room.
        """
        share = self._shares.setdefault(client, asyncio.Semaphore(OF_CLIENT))
        places = (asyncio.Semaphore(OF_REQUEST), share, self._places)
        left = dict(fields)  # addresses whose files are not there, in their order
        begun = set[str]()

        async def get(address: str) -> bytes:
            with ExitStack() as held:
                for place in places:
                    await place.acquire()
                    held.callback(place.release)
                begun.add(address)
                # A thread cannot be stopped: the places are free when it ends.
                downloading = _download(address, self._max_bytes, held.pop_all().close)
            try:
                data = await downloading
            except (InputError, NetworkError) as error:
                raise BadField(str(error), fields[address]) from None
            del left[address]
            return data

        with self._counted(client):
            try:
                async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
                    files = {address: group.create_task(get(address)) for address in fields}
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            except TimeoutError:
                if not begun:
                    raise _busy() from None
                address, field = next(iter(left.items()))
                raise BadField(
                    f"{field} is {address[:200]}, and the images of a request were not fetched "
                    f"within {SECONDS:g} seconds; send them as data URIs",
                    field,
                ) from None
        return {address: file.result() for address, file in files.items()}

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


def _download(address: str, max_bytes: int, at_end: Callable[[], object]) -> asyncio.Future[bytes]:
    """Fetch a file in a thread, which does not hold up the end of the process.

    Args:
        address: of the file.
        max_bytes: of the file.
        at_end: called in the event loop when the thread ends.
    """
    from ...images.fetch import fetch  # imports TLS, which few requests need

    loop, done = asyncio.get_running_loop(), Future[bytes]()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(fetch(address, max_bytes))
        except Exception as error:  # noqa: BLE001  raised where the file is awaited
            done.set_exception(error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(at_end)

    threading.Thread(target=run, name="mlx_lfm2vl fetcher", daemon=True).start()
    return asyncio.wrap_future(done)


def _busy() -> Busy:
    return Busy(
        "other requests fetch images by address, and there is no room for more; send the image as "
        "a data URI, or try again later",
        RETRY_AFTER,
    )
