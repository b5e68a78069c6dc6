"""A full disk: said before the work, in one line that names the path and what is needed."""

import pytest
from training_runs import TINY, run, write_rows

from mlx_lfm2vl.commands.fuse import main as fuse


@pytest.fixture
def rows(tmp_path):
    row = {"prompt": "What?", "answer": "This."}
    return write_rows(tmp_path / "rows.jsonl", [row])


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.disk_space.free_bytes", lambda _: 3_000_000)


@pytest.mark.usefixtures("full_disk")
def test_training_begins_only_with_room_for_its_checkpoints(rows, tmp_path, capsys):
    assert run(rows, tmp_path / "out", "--steps", "2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/out will take ")
    assert line.endswith(" to be free, but only 3 MB are free there")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [[], ["--dtype", "float16"]])
def test_nothing_is_fused_without_room_for_the_result(
    rows, tmp_path, monkeypatch, capsys, request, extra
):
    assert run(rows, tmp_path / "out", "--steps", "1") == 0
    capsys.readouterr()
    request.getfixturevalue("full_disk")
    if not extra:  # the size is known before anything is loaded
        monkeypatch.setattr("mlx_lfm2vl.loading.load", None)
    arguments = ["--model", str(TINY), "--adapter", str(tmp_path / "out")]
    assert fuse([*arguments, "--output", str(tmp_path / "new"), *extra]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/new will take ")
    assert "kB and needs 67." in line
    assert not (tmp_path / "new").exists()
