"""Several processes: together they write what one would, and what one leaves is not lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from folder_runs import SETTINGS, FakeEngine, ask, asked_fake, draw, records

from mlx_lfm2vl import InputError
from mlx_lfm2vl.desktop.folder_run import FolderRun
from mlx_lfm2vl.desktop.journal import Journal
from mlx_lfm2vl.desktop.records import Settings
from mlx_lfm2vl.desktop.shares import SharedJournal, is_ours

NAMES = [f"{number}.png" for number in range(9)]


class Threads:
    """Stands for `Group` where the processes are threads."""

    def __init__(self, rank: int, size: int, board: dict, barrier: threading.Barrier) -> None:
        self.rank, self.size, self._board, self._barrier = rank, size, board, barrier

    def exchange(self, data: bytes) -> list[bytes]:
        self._board[self.rank] = data
        self._barrier.wait(10)
        every = [self._board[rank] for rank in range(self.size)]
        self._barrier.wait(10)
        return every


def share(processor, out, inputs, size, *, dies=None, settings=None, each=lambda _rank, out: out):
    """Run in so many threads; the process `dies` stops before the end, and the others with it."""
    board, barrier = {}, threading.Barrier(size)

    def work(rank: int):
        group = Threads(rank, size, board, barrier)
        chosen = settings[rank] if settings else SETTINGS
        shared = SharedJournal(each(rank, out), chosen, group, restart=False)
        run = FolderRun(FakeEngine(processor), ask(), shared.journal, SETTINGS, batch_size=2)
        run.run(shared.shared_out(inputs, in_order=False))
        shared.finish(together=dies is None)

    with ThreadPoolExecutor(size) as pool:
        return [future.exception() for future in [pool.submit(work, r) for r in range(size)]]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_picture_belongs_to_one_process(size):
    for number in range(50):
        assert sum(is_ours(rank, size, number) for rank in range(size)) == 1


@pytest.fixture
def inputs(tmp_path):
    found = draw(tmp_path, [*NAMES, "bad.png"])
    found[4].path.write_bytes(found[1].path.read_bytes())  # of two processes
    return found


def in_order(inputs, found):
    return sorted(found, key=lambda r: [str(given.path) for given in inputs].index(r["file"]))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("one_disk", [True, False])
def test_together_they_write_what_one_would(tiny, tmp_path, inputs, size, one_disk):
    def each(rank: int, out: Path) -> Path:
        folder = out.parent / ("same" if one_disk else f"disk{rank}")
        folder.mkdir(exist_ok=True)
        return folder / out.name

    out = tmp_path / "r.jsonl"
    assert not any(share(tiny[1], out, inputs, size, each=each))
    alone = in_order(inputs, asked_fake(tiny[1], tmp_path / "alone.jsonl", inputs))
    assert records(each(0, out)) == alone
    assert sum("same_as" in record for record in alone) == 1
    assert not [*tmp_path.rglob("*.rank*")]


@pytest.mark.parametrize("size", [1, 2])
def test_what_a_process_that_died_has_answered_is_taken_over(tiny, tmp_path, inputs, size):
    out = tmp_path / "r.jsonl"
    share(tiny[1], out, inputs, 3, dies=2)
    left = tmp_path / "r.jsonl.rank2"
    assert len(records(left)) == 3
    left.write_bytes(left.read_bytes() + b'{"schema": 1, "fi')
    asked = []

    class Counting(FakeEngine):
        def stream_batch(self, conversations, options, *, batch_size):
            for answer in super().stream_batch(conversations, options, batch_size=batch_size):
                asked.append(answer)
                yield answer

    if size == 1:
        group = Threads(0, 1, {}, threading.Barrier(1))
        shared = SharedJournal(out, SETTINGS, group, restart=False)
        run = FolderRun(Counting(tiny[1]), ask(), shared.journal, SETTINGS)
        run.run(shared.shared_out(inputs, in_order=True))
        shared.finish()
        assert not asked
    else:
        assert not any(share(tiny[1], out, inputs, size))
    alone = in_order(inputs, asked_fake(tiny[1], tmp_path / "alone.jsonl", inputs))
    assert records(out) == alone
    assert not [*tmp_path.glob("*.rank*")]


def test_what_one_cannot_do_ends_all(tiny, tmp_path, inputs):
    out = tmp_path / "r.jsonl"
    held = Journal(tmp_path / "r.jsonl.rank1", SETTINGS)
    for error in share(tiny[1], out, inputs, 2):
        assert isinstance(error, InputError)
        assert "r.jsonl.rank1 is being written by another run" in str(error)
    held.close()
    settings = [SETTINGS, Settings("ask", "tiny", "11")]
    for error in share(tiny[1], out, inputs, 2, settings=settings):
        assert "different models or options" in str(error)
