"""Clients of a core, and waiting for what it does."""

import threading
import time
from dataclasses import dataclass, field

from mlx_lfm2vl import Sampling
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.options import AnswerOptions
from mlx_lfm2vl.serving.request import (
    Request,
    is_last,
)

OPTIONS = AnswerOptions(max_tokens=12, sampling=Sampling())
LONG = AnswerOptions(max_tokens=300, sampling=Sampling(temperature=3), seed=1)
SECONDS = 60  # that nothing here takes


@dataclass
class Turns:
    """Lets a core take its turns only when a test says so."""

    allowed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_free: bool = False

    def free(self):
        self.is_free = True
        self.allowed.release()

    def take(self):
        if not self.is_free:
            assert self.allowed.acquire(timeout=SECONDS)


class Client:
    """Someone who waits for the events of a request."""

    def __init__(self, core, messages, options=OPTIONS, model=""):
        self.events, self._over = [], threading.Event()
        self.ticket = core.submit(Request(messages, options, model), self.hear)

    def hear(self, event):
        self.events.append(event)
        if is_last(event):
            self._over.set()

    def last(self):
        assert self._over.wait(SECONDS)
        return self.events[-1]

    def token_ids(self):
        last = self.last()
        assert isinstance(last, Piece), last
        return last.result.token_ids


def until(condition):
    """Wait until something is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def look(core):
    """Let a core look at what there is to do; when it looks again, its first look has ended."""
    for _ in range(2):
        core._schedule.wake()
        until(lambda: not core._schedule._news.is_set())
