"""Who uses the device: the main thread in place, or one thread that serves all others.

- An MLX stream belongs to the thread that made it, and so does an array until it is computed. Two
  threads that share such an array fail or wait forever, so one thread at a time may answer.
- This was tried with MLX's CPU build. On Metal the same follows from MLX's pull requests 3280 and
  3348, which keep traced functions and command encoders per thread.
- While only the main thread asks, its work runs in place and is not handed over.
- When another thread or asyncio asks for the first time, a thread of our own starts. It does all
  new work from then on, and callers wait in its queue.
- There is one such thread per process, because all models share the device.
- Models are loaded there too. A thread that has made random numbers with MLX, as every new layer
  does, aborts the process if it ends while the interpreter shuts down.
- A stream is handed over step by step. The streams of several callers therefore take turns, and one
  that is no longer read blocks none of the others.
- A stream that began in the main thread stays there. A lock separates its steps from the others.
- A step runs in a copy of its caller's context, so that what it logs can be told apart.
- The process ends after the step that is being computed.
"""

import atexit
import ctypes
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from enum import Enum
from queue import SimpleQueue
from typing import Any, TypeVar

from .device import check_not_forked, prepare_device, read_chip
from .errors import InputError

T = TypeVar("T")
Function = Callable[..., Any]


class Signal(Enum):
    """What a stream and its reader exchange apart from results and items.

    Attributes:
        WANTED: yielded by a stream that needs the next item of its caller.
        END: what follows the last item, and the last result.
    """

    WANTED = "wanted"
    END = "end"


Steps = Generator[T | Signal, Any, None]


def on_device(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that uses MLX where the device's work is done, and return its result."""
    check_not_forked()
    return _THREAD.runner()(function, *arguments)


def in_turn(steps: Steps[T], items: Iterable[object] = ()) -> Generator[T, None, None]:
    """Yield the results of a stream whose steps run on the device's thread.

    Args:
        steps: a generator that has not begun. It yields results, or `Signal.WANTED` to be sent the
            next item or `Signal.END`.
        items: taken one by one in the thread of the caller.
    """
    check_not_forked()
    thread = _THREAD  # the name may be gone when the process ends
    run, supply, item = thread.runner(), iter(items), None
    try:
        while (result := run(_advance, steps, item)) is not Signal.END:
            if result is Signal.WANTED:
                item = next(supply, Signal.END)
            else:
                item = None
                yield result
    finally:
        thread.close(steps, run)


async def in_turn_async(steps: Steps[T]) -> AsyncGenerator[T, None]:
    """Yield the results of a stream that wants no items, without blocking the event loop."""
    import asyncio  # takes longer to import than a short answer may last

    check_not_forked()
    thread = _THREAD
    try:
        while True:
            step = thread.submit(_advance, steps, None)
            if (result := await asyncio.wrap_future(step)) is Signal.END:
                return
            yield result
    finally:
        thread.submit(steps.close)


def _advance(steps: Steps[T], item: object) -> T | Signal:
    """Return the next result of a stream, or `Signal.END`."""
    try:
        return steps.send(item)
    except StopIteration:
        return Signal.END


class _DeviceThread:
    """The queue, the thread that serves it, and the lock that it shares with the main thread."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Function, tuple[Any, ...]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._device = threading.Lock()  # held during a step
        self._waiting = threading.Lock()  # held by our thread while it waits for the device
        self._main_has_it = False  # the main thread holds `_device`
        self._ends, self._falls_asleep = False, threading.Event()
        self._sleep = threading.Lock()
        self._sleep.acquire()

    def runner(self) -> Function:
        """Return how the calling thread runs the steps of a new stream."""
        thread = threading.current_thread()
        if thread is self._thread:  # a function among the options asks a question of its own
            return _directly
        is_free = self._thread is None or self._main_has_it
        return self._in_place if is_free and thread is threading.main_thread() else self._hand_over

    def submit(self, function: Function, *arguments: Any) -> "Future[Any]":
        """Queue a call for the device's thread."""
        if self._thread is None:
            self._start()
        future: Future[Any] = Future()
        self._calls.put((future, copy_context().run, (function, *arguments)))
        return future

    def close(self, steps: Steps[Any], run: Function) -> None:
        """End a stream where its steps ran, without waiting. A destructor may call this."""
        if run == self._hand_over:
            self.submit(steps.close)
        else:
            steps.close()

    def _hand_over(self, function: Function, *arguments: Any) -> Any:
        return self.submit(function, *arguments).result()

    def _in_place(self, function: Function, *arguments: Any) -> Any:
        if threading.get_ident() != threading.main_thread().ident:
            raise InputError("the main thread began this answer, so no other can continue it")
        if self._main_has_it:
            return function(*arguments)
        with self._waiting:  # if our thread waits, it goes first
            pass
        with self._device:
            try:
                self._main_has_it = True
                return function(*arguments)
            finally:
                self._main_has_it = False

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="mlx_lfm2vl", daemon=True)
                thread.start()
                atexit.register(self._put_to_sleep)
                self._thread = thread

    def _put_to_sleep(self) -> None:
        """Wait for the current step, and then until the thread sleeps, never to be woken.

        MLX frees Python objects when a thread ends. If the interpreter is shutting down by then,
        the process aborts. The thread would end if it asked for the interpreter's lock, or if what
        it waits for was freed.
        """
        self._ends = True
        self._calls.put((Future(), _nothing, ()))
        interval = sys.getswitchinterval()
        sys.setswitchinterval(60)  # from its last sign to its sleep the thread is not interrupted
        self._falls_asleep.wait()
        sys.setswitchinterval(interval)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._sleep))
        self._main_has_it = True

    def _serve(self) -> None:
        with self._device:
            prepare_device(read_chip())
        while not self._ends:
            self._answer(*self._calls.get())
        self._falls_asleep.set()
        self._sleep.acquire()

    def _answer(
        self, future: "Future[Any]", function: Function, arguments: tuple[Any, ...]
    ) -> None:
        with self._waiting:
            self._device.acquire()
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001  raised again in the thread that called
            future.set_exception(error)
        finally:
            self._device.release()


def _directly(function: Function, *arguments: Any) -> Any:
    return function(*arguments)


def _nothing() -> None:
    pass


_THREAD = _DeviceThread()
