"""Watching: a file is taken once it is whole, and again when it has changed."""

import os
from pathlib import Path

import pytest

from mlx_lfm2vl.desktop.watch import watched
from mlx_lfm2vl.images.inputs import Input


class Watched:
    """A folder under watch, and a clock that jumps to the next listing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.extra = folder, 0.0, []
        self._inputs = watched(self.listing, clock=lambda: self.now)

    def listing(self):
        paths = sorted(self.folder.glob("[!.]*.png"))
        return [Input(path.name, path, path) for path in paths] + self.extra

    def next_second(self) -> list[str]:
        """The names that are taken in the next listing."""
        self.now += 1
        taken = []
        while (given := next(self._inputs)) is not None:
            taken.append(given.name)
        return taken


@pytest.fixture
def folder(tmp_path) -> Watched:
    return Watched(tmp_path)


def test_a_file_is_taken_when_it_no_longer_grows(folder):
    path = folder.folder / "a.png"
    assert folder.next_second() == []
    for size in (0, 100, 200, 300):
        path.write_bytes(bytes(size))
        assert folder.next_second() == []
    assert folder.next_second() == ["a.png"]
    assert folder.next_second() == []


def test_a_file_that_is_written_over_at_the_same_size_is_not_yet_whole(folder):
    path = folder.folder / "a.png"
    for stamp in (1, 2, 3):
        path.write_bytes(bytes(100))
        os.utime(path, (stamp, stamp))
        assert folder.next_second() == []
    assert folder.next_second() == ["a.png"]


def test_a_file_that_is_renamed_in_or_changed_is_taken(folder):
    (folder.folder / ".a.png-x").write_bytes(bytes(10))
    assert folder.next_second() == []
    (folder.folder / ".a.png-x").rename(folder.folder / "a.png")
    assert folder.next_second() + folder.next_second() == ["a.png"]
    (folder.folder / "a.png").write_bytes(bytes(20))
    assert folder.next_second() + folder.next_second() == ["a.png"]


def test_a_file_that_stays_empty_or_goes_is_never_taken(folder):
    (folder.folder / "empty.png").touch()
    (folder.folder / "gone.png").write_bytes(bytes(10))
    assert folder.next_second() == []
    (folder.folder / "gone.png").unlink()
    assert folder.next_second() + folder.next_second() == []


def test_between_listings_it_does_not_wait(folder):
    (folder.folder / "a.png").write_bytes(bytes(10))
    folder.next_second()
    folder.next_second()
    assert next(folder._inputs) is None  # at the same moment
    assert next(folder._inputs) is None


def test_what_is_no_file_is_taken_once(folder):
    folder.extra = [Input("-", b"picture")]
    assert folder.next_second() + folder.next_second() + folder.next_second() == ["-"]
