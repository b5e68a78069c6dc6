"""What a process logs reaches those whom it concerns."""

import logging
import threading

import pytest

from mlx_lfm2vl.serving.resident.notes import Notes

package = logging.getLogger("mlx_lfm2vl")


@pytest.fixture
def notes(monkeypatch):
    monkeypatch.setattr(package, "propagate", True)
    notes = Notes()
    yield notes
    package.removeHandler(notes)


def test_a_thread_that_has_a_request_of_its_own_tells_nobody_else(notes):
    theirs, own = [], []
    with notes.to(theirs.append), notes.of_this_thread(own.append):
        package.warning("from %s", "here")
        other = threading.Thread(target=package.warning, args=["from there"])
        other.start()
        other.join()
    package.warning("afterwards")
    assert [note.text for note in own] == ["from here"]
    assert [note.text for note in theirs] == ["from there"]
