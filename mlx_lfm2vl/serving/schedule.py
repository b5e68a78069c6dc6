"""What a core does next: which requests wait, begin and end, and which model is in memory.

- One thread decides; see `Schedule._run`. It never uses MLX itself: the device's thread does a part
  of the work at a time, and threads of the host prepare what comes next.
- Requests begin in the order of arrival. One whose image is still being decoded lets others pass,
  and text is prepared however many images wait before it.
- All answers under way are of one model and have the same `kv_bits`. A request that needs others
  waits until they are complete, and none that comes later goes before it.
"""

from __future__ import annotations

import gc
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from itertools import takewhile
from time import monotonic
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..device_thread import on_device
from ..errors import CheckpointError, InputError, Lfm2VLError
from ..generation.result import Piece
from .meter import Meter
from .request import Busy, Overdue, Progress, Stopping, as_error, is_last
from .served import Served
from .ticket import Ticket

if TYPE_CHECKING:  # a process listens before it has loaded what reads images and text
    from ..generation.engine import Engine
    from .preparing import Large, Prepared, Weight
    from .under_way import UnderWay

# Threads for each weight of work on the host, so that text waits for no image, and a photo neither
# for a huge image nor for a document. Decoding an image of 12 megapixels takes 100 MB in each.
HOST_THREADS: dict[Weight, int] = {"text": 1, "images": 2, "large": 1, "pages": 2}
AHEAD = 2  # requests of each weight but text that are prepared although all rows are taken
GRACE = 5.0  # seconds beyond those of `stop` for the step that is being computed


@dataclass(frozen=True)
class Limits:
    """What one process takes on.

    Attributes:
        rows: answers under way at the same time.
        waiting: requests that wait for their turn; more are refused.
        seconds: longest time of one answer, waiting included; None is no limit.
        keep_alive: seconds without a request after which the model is unloaded; None keeps it.
    """

    rows: int = 8
    waiting: int = 64
    seconds: float | None = None
    keep_alive: float | None = None


@dataclass(frozen=True)
class Status:
    """What a core is doing.

    Attributes:
        model: name of the model in memory; None if there is none.
        running: answers under way.
        waiting: requests that wait for their turn.
        meter: sums since the core began.
    """

    model: str | None
    running: int
    waiting: int
    meter: Meter


class Schedule:
    """The requests of one process. Any thread may call its public methods."""

    def __init__(self, models: Mapping[str, Served], limits: Limits) -> None:
        """
        Args:
            models: by their names.
            limits: what the process takes on.
        """
        self._models, self._limits = models, limits
        self._lock = threading.Lock()  # of the next three
        self._waiting: list[Ticket] = []
        self._running: dict[int, Ticket] = {}
        self._meter = Meter()
        self._engine: Engine | None = None
        self._loaded: str | None = None
        self._work: UnderWay | None = None
        self._work_kind: tuple[str, int] | None = None
        self._used = monotonic()  # when there was something to do
        self._ends: float | None = None  # when running answers must be complete
        self._news = threading.Event()
        self._host = {
            weight: ThreadPoolExecutor(threads, thread_name_prefix=f"mlx_lfm2vl {weight}")
            for weight, threads in HOST_THREADS.items()
        }
        self._thread = threading.Thread(target=self._run, name="mlx_lfm2vl core", daemon=True)
        self._thread.start()

    def add(self, ticket: Ticket) -> None:
        """Queue a request; see `Core.submit` for errors."""
        with self._lock:
            if self._ends is not None:
                raise _stopping()
            free = max(0, self._limits.rows - len(self._running))
            waiting = len(self._waiting)
            if waiting >= self._limits.waiting + free:
                self._meter.refused += 1
                seconds = self._meter.until_room(waiting, self._limits.rows)
                raise Busy(f"{waiting} requests are waiting, the limit; try again later", seconds)
            self._meter.requests += ticket.is_counted
            self._waiting.append(ticket)
        self.wake()

    def wake(self) -> None:
        """Look at what has changed."""
        self._news.set()

    def status(self) -> Status:
        """Return what is being done."""
        with self._lock:
            meter = copy(self._meter)
            meter.errors = Counter(meter.errors)
            return Status(self._loaded, len(self._running), len(self._waiting), meter)

    def stop(self, seconds: float) -> None:
        """End; see `Core.stop`."""
        with self._lock:
            self._ends = min(self._ends or math.inf, monotonic() + seconds)
        self.wake()
        self._thread.join(seconds + GRACE)
        with self._lock:
            left = [*self._waiting, *self._running.values()]  # if a step takes longer than that
        for ticket in left:
            ticket.tell(_stopping())

    def _run(self) -> None:
        """Decide what happens next, until all ends."""
        is_open = True
        while is_open:
            if not self._running:
                self._news.wait(self._patience())
            self._news.clear()
            try:
                is_open = self._go_on()
            except Exception as error:  # noqa: BLE001  or nobody would ever be answered again
                self._start_over(as_error(error))
        for pool in self._host.values():
            pool.shutdown(wait=False, cancel_futures=True)
        on_device(self._unload)

    def _go_on(self) -> bool:
        """Do what there is to do at the moment; return whether there may be more."""
        self._give_up()
        if self._has_ended():
            return False
        self._unload_if_unused()
        self._admit()
        self._tell_positions()
        if self._running:
            self._turn()
        return True

    def _start_over(self, error: Lfm2VLError) -> None:
        """End all requests with an error, and load the model anew for the next one."""
        with self._lock:
            tickets = [*self._waiting, *self._running.values()]
        on_device(self._unload)
        for ticket in tickets:
            self._leave(ticket, error)

    def _patience(self) -> float | None:
        """Return the seconds after which there is something to do without news; None for never."""
        now, times = monotonic(), list[float]()
        if self._ends is not None:
            return 0.0
        if self._limits.keep_alive is not None and self._engine is not None:
            times.append(self._used + self._limits.keep_alive - now)
        if self._limits.seconds is not None:
            with self._lock:
                times += [t.arrived + self._limits.seconds - now for t in self._waiting]
        return max(0.0, min(times)) if times else None

    def _give_up(self) -> None:
        """Drop requests that were cancelled or have taken too long."""
        now, most = monotonic(), self._limits.seconds
        with self._lock:
            tickets = [*self._waiting, *self._running.values()]
        for ticket in tickets:
            if ticket.is_cancelled:
                self._leave(ticket)
            elif most is not None and now - ticket.arrived > most:
                self._leave(ticket, Overdue(f"the answer took longer than {most:g} seconds"))

    def _has_ended(self) -> bool:
        """Return whether the core stops now; tell those that are not answered any more."""
        if self._ends is None:
            return False
        with self._lock:
            left = list(self._waiting)
            if monotonic() >= self._ends:
                left += self._running.values()
        for ticket in left:
            self._leave(ticket, _stopping())
        return not self._running

    def _leave(self, ticket: Ticket, error: Lfm2VLError | None = None) -> None:
        """Take a request out of the queue or the batch; without an error it was cancelled."""
        if ticket.prepared is not None:
            ticket.prepared.cancel()
            ticket.prepared = None  # its error, whose traceback may know the ticket
        if ticket.is_cancelled:
            error = None  # such as that of work that ended because nobody waits
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            was_running = self._running.pop(ticket.number, None) is not None
            if ticket.is_counted:
                self._meter.unanswered(error)
        if was_running and self._work is not None:
            on_device(self._work.drop, ticket.number)
        if error is not None:
            ticket.tell(error)
        self.wake()  # there is room now

    def _unload_if_unused(self) -> None:
        now, most = monotonic(), self._limits.keep_alive
        if self._running or self._waiting:
            self._used = now
        elif most is not None and self._engine is not None and now - self._used >= most:
            on_device(self._unload)

    def _unload(self) -> None:
        self._engine = self._work = self._work_kind = self._loaded = None
        gc.collect()
        mx.clear_cache()

    def _admit(self) -> None:
        """Begin requests for which there is room, and prepare the next ones."""
        with self._lock:
            waiting = list(self._waiting)
        if not waiting:
            return
        kind = waiting[0].kind
        if kind != self._work_kind:
            if self._running:
                return
            if not self._open(kind):
                return
            # All that wait for this model are answered while it is there, but none that come later.
            with self._lock:
                self._waiting.sort(key=lambda ticket: ticket.kind != kind)
                waiting = list(self._waiting)
        from .preparing import Large, prepare, prepare_unless_large, weight

        engine, work = self._engine, self._work
        assert engine is not None
        assert work is not None
        free = self._limits.rows - len(self._running)
        most = free + AHEAD
        places = Counter[str]()
        for ticket in takewhile(lambda ticket: ticket.kind == kind, waiting):
            ticket.weight = ticket.weight or weight(ticket.request)
            places[ticket.weight] += 1
            if places[ticket.weight] > most and ticket.weight != "text":
                continue
            if ticket.prepared is None:
                # Pages are in memory when they are drawn, so they do not wait for another thread.
                work_on = prepare if ticket.weight == "pages" else prepare_unless_large
                self._prepare(ticket, work_on, engine, ticket.request, ticket.is_wanted)
            if ticket.prepared is None or not ticket.prepared.done():
                continue
            error = ticket.prepared.exception()
            if error is not None:
                self._leave(ticket, as_error(error))
            elif isinstance(found := ticket.prepared.result(), Large):
                if ticket.weight == "large":
                    self._prepare(ticket, found.go_on)
                else:  # another takes its place among the images, and it waits for one here
                    ticket.weight = "large"
                    self.wake()
            elif free:
                free -= 1
                self._begin(ticket, found, work)

    def _prepare(self, ticket: Ticket, work: Callable[..., Prepared | Large], *given: Any) -> None:
        """Let the host work for a request."""
        assert ticket.weight is not None
        try:
            ticket.prepared = self._host[ticket.weight].submit(ticket.context.run, work, *given)
        except RuntimeError:  # some threads of the host may have begun before, so others go on
            self._leave(ticket, Busy("this machine can begin no more threads; try again later", 5))
        else:
            ticket.prepared.add_done_callback(lambda _: self.wake())

    def _begin(self, ticket: Ticket, prepared: Prepared, work: UnderWay) -> None:
        with self._lock:
            self._waiting.remove(ticket)
            self._running[ticket.number] = ticket
        ticket.begun, ticket.prepared = monotonic(), None
        ticket.request = replace(ticket.request, messages="")  # frees its images
        on_device(work.begin, ticket.number, prepared)

    def _open(self, kind: tuple[str, int]) -> bool:
        """Load a model, or make another batch of the one that is loaded."""
        name, kv_bits = kind
        with self._lock:
            tickets = [ticket for ticket in self._waiting if ticket.kind[0] == name]
        try:
            if self._loaded != name:
                on_device(self._unload)
                for ticket in tickets:
                    ticket.tell(Progress("load", 0, 1))
                self._engine, self._loaded = on_device(self._models[name].open), name
                for ticket in tickets:
                    ticket.tell(Progress("load", 1, 1))
            from .under_way import UnderWay

            assert self._engine is not None
            self._work, self._work_kind = on_device(UnderWay, self._engine, kv_bits), kind
        except Exception as error:  # noqa: BLE001  whatever is wrong with this model, others go on
            failed = as_error(error)
            if isinstance(failed, InputError):  # a wrong path, for example: no request is to blame
                failed = CheckpointError(str(failed))
            for ticket in tickets:
                if ticket.kind == kind or self._loaded != name:
                    self._leave(ticket, failed)
            return False
        return True

    def _tell_positions(self) -> None:
        """Tell those that wait for a place how many go first."""
        is_full = len(self._running) >= self._limits.rows
        with self._lock:
            waiting = list(self._waiting)
        for place, ticket in enumerate(waiting):
            before = place + len(self._running)
            if (is_full or ticket.kind != self._work_kind) and ticket.before != before:
                ticket.before = before
                ticket.tell(Progress("queue", 0, before))

    def _turn(self) -> None:
        """Do a part of the work on the device and deliver what it gives."""
        assert self._work is not None
        for number, event in on_device(self._work.turn):
            ticket = self._running.get(number)
            if ticket is None:
                continue
            self._count(ticket, event)
            ticket.tell(event)
        self.wake()

    def _count(self, ticket: Ticket, event: Any) -> None:
        """Note an event; after the last one the request is no longer running."""
        now = monotonic()
        with self._lock:
            if isinstance(event, Piece) and not ticket.has_text:
                ticket.has_text = True
                if ticket.is_counted:
                    self._meter.first_tokens += now - ticket.arrived
            if not is_last(event):
                return
            del self._running[ticket.number]
            if not ticket.is_counted:
                return
            if isinstance(event, Lfm2VLError):
                self._meter.unanswered(event)
                return
            answer: Any = event.result if isinstance(event, Piece) else event
            self._meter.answered(answer, now - ticket.begun)


def _stopping() -> Stopping:
    return Stopping("the server is stopping; ask again when it is back")
