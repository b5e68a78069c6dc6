"""Several processes, or Macs, that share out the pictures of one run over `mx.distributed`.

- Each process asks about its share of the pictures and keeps a journal beside the result.
- At the end all journals go to the first process, which puts them together. The disk need not be
  shared.
- A process that dies takes nothing with it: its journal is taken over by the next run, and what it
  had not asked about is asked about then.
- What goes wrong in one process before the pictures begin ends all of them; otherwise the others
  would wait for ever.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
import numpy as np

from ..device_thread import on_device
from ..errors import InputError
from ..images.inputs import Input
from .journal import Journal
from .records import Settings, identity, place_of

T = TypeVar("T")


def is_ours(rank: int, size: int, number: int) -> bool:
    """Whether a process takes a picture.

    Args:
        rank: of the process, from 0.
        size: number of processes.
        number: of the picture, from 0.
    """
    return number % size == rank


class Group:
    """The processes of a run."""

    def __init__(self) -> None:
        self._group = on_device(mx.distributed.init)
        self.rank, self.size = self._group.rank(), self._group.size()

    def exchange(self, data: bytes) -> list[bytes]:
        """Return what every process gives, in their order; all have to call it."""
        return [data] if self.size == 1 else on_device(self._exchange, data)

    def _exchange(self, data: bytes) -> list[bytes]:
        gather = mx.distributed.all_gather
        lengths = np.array(gather(mx.array([len(data)]), group=self._group)).tolist()
        longest = max(*lengths, 1)
        padded = np.zeros(longest, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        every = np.array(gather(mx.array(padded), group=self._group)).reshape(self.size, longest)
        return [row[:length].tobytes() for row, length in zip(every, lengths, strict=True)]


class SharedJournal:
    """The journal of one process of a group, and how it becomes one with the others'.

    Attributes:
        journal: of this process; that of the first one is the result.
    """

    def __init__(self, path: Path, settings: Settings, group: Group, *, restart: bool) -> None:
        """Open the journals, and take over what processes that died have left.

        Args:
            path: of the result.
            settings: of the run, which must be the same everywhere.
            group: the processes.
            restart: begin again.

        Raises:
            InputError: in all processes, if one of them cannot begin.
        """
        self._path, self._group, self._settings = path, group, settings
        self._order: dict[bytes, int] = {}
        own = path if group.rank == 0 else _rank_path(path, group.rank)
        journal, problem = None, ""
        try:
            journal = Journal(own, settings, restart=restart)
        except InputError as error:
            problem = str(error)
        problems = [text.decode() for text in group.exchange(problem.encode())]
        different = len(set(group.exchange(settings.digest.encode()))) > 1
        if journal is None or any(problems) or different:
            if journal:
                journal.close()
            problem = next(filter(None, problems), "the processes have different models or options")
            raise InputError(problem)
        self.journal = journal
        left = self._take_over(restart)
        self._remove(left)
        self.journal.also_done(group.exchange(self.journal.done)[0])

    def shared_out(
        self, inputs: Iterable[Input | None], *, in_order: bool
    ) -> Iterator[Input | None]:
        """Yield the inputs of this process.

        Args:
            inputs: those of all processes, in the same order in each.
            in_order: whether `finish` shall keep this order; with several processes it always does.
        """
        number = 0
        for given in inputs:
            if given is None:
                yield None
                continue
            if in_order or self._group.size > 1:
                self._order[identity(place_of(given))] = number
            if is_ours(self._group.rank, self._group.size, number):
                yield given
            number += 1

    def finish(self, *, together: bool = True) -> None:
        """Bring the records of all processes together, in their final form.

        Args:
            together: wait for the other processes; without it each keeps its own, for the next run.
        """
        if together and self._group.size > 1:
            own = b"" if self._group.rank == 0 else self.journal.path.read_bytes()
            every = self._group.exchange(own)
            if self._group.rank == 0:
                for lines in every:
                    self.journal.merge(lines, with_errors=True)
        if self._group.rank == 0:
            self.journal.finish(self._order or None)
        else:
            self.journal.close()
        if together and self._group.size > 1:
            self._group.exchange(b"")  # the result is complete
            if self._group.rank:
                self.journal.path.unlink(missing_ok=True)

    def _take_over(self, restart: bool) -> list[Path]:
        """Let the first process have what others have left, here or on other Macs.

        Returns:
            The journals of processes that this run does not have.
        """
        own = b"" if self._group.rank == 0 else self.journal.path.read_bytes()
        every = self._group.exchange(own)
        if self._group.rank:
            return []
        for lines in every:
            self.journal.merge(lines)
        left = _left(self._path, self._group.size)
        for path in left:
            Journal(path, self._settings, restart=restart).close()  # checked and repaired
            self.journal.merge(path.read_bytes())
        return left

    def _remove(self, left: Iterable[Path]) -> None:
        """Empty the journals that the first process has taken over."""
        self.journal.sync()
        self._group.exchange(b"")
        for path in left:
            path.unlink()
        if self._group.rank:
            self.journal.close()
            self.journal = Journal(self.journal.path, self._settings, restart=True)


def _rank_path(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.rank{rank}")


def _left(path: Path, size: int) -> list[Path]:
    """The journals of processes that this run does not have."""
    found = path.parent.glob(f"{path.name}.rank*")
    ranks = {p: p.name.rpartition(".rank")[2] for p in found}
    return sorted(p for p, rank in ranks.items() if rank.isdigit() and int(rank) >= size)
