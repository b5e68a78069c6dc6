"""The log of a run: whole entries, up to the update a run goes on from."""

from pathlib import Path

import pytest

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.training.log import add_to_log, read_log, start_log


def test_a_run_that_goes_on_keeps_the_entries_up_to_its_checkpoint(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    start_log(path, 0)
    entries = [{"step": step, "loss": 1 / step} for step in range(1, 5)]
    for entry in entries:
        add_to_log(path, entry)
    start_log(path, 3)
    assert read_log(path) == entries[:3]
    start_log(path, 0)
    assert read_log(path) == []
    assert read_log(tmp_path / "none.jsonl") == []


def test_half_an_entry_is_no_entry(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 2}\n{"step"')
    assert read_log(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_said_with_the_path_of_the_log():
    with pytest.raises(InputError, match="/dev/full cannot be written: its disk is full"):
        add_to_log(Path("/dev/full"), {"step": 1})
