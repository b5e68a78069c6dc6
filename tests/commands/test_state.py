"""What is remembered between runs is its user's alone, and its loss is no failure."""

import os

import pytest

from mlx_lfm2vl.commands import state
from mlx_lfm2vl.commands.state import History, state_folder, user_secret


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "mlx_lfm2vl"


def test_the_folder_is_below_the_home_unless_it_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder() == tmp_path / ".local/state/mlx_lfm2vl"


def test_lines_come_back_in_the_next_chat(folder):
    history = History()
    for line in ("one", "two\nlines", "  ", "\udcff?"):
        history.add(line)
    assert History().lines() == ["one", "two lines", "??"]
    assert (folder / "chat_history").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_history_that_is_switched_off_leaves_no_file(folder):
    History(kept=False).add("one")
    assert History(kept=False).lines() == []
    assert not folder.exists()


def test_a_long_history_is_cut_to_its_last_lines(folder, monkeypatch):
    monkeypatch.setattr(state, "MAX_BYTES", 2000)
    history = History()
    for number in range(400):
        history.add(f"line {number}")
    assert history.lines()[-1] == "line 399"
    for _ in range(3):
        history.add("last")
        assert history.lines()[-1] == "last"
    monkeypatch.setattr(state, "MAX_LINES", 10)
    history.lines()
    assert (folder / "chat_history").stat().st_size < 200
    assert (folder / "chat_history").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["folder", "not text"])
def test_a_history_that_cannot_be_read_is_empty(folder, kind):
    folder.mkdir()
    if kind == "folder":
        (folder / "chat_history").mkdir()
    else:
        (folder / "chat_history").write_bytes(b"\xff\xfe\n")
    History().add("one")
    assert len(History().lines()) == (0 if kind == "folder" else 2)


def test_the_secret_stays_the_same_and_is_its_user_s_alone(folder):
    secret = user_secret()
    assert (len(secret), user_secret()) == (32, secret)
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600


def test_without_a_place_for_it_the_secret_is_new_each_time(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", os.devnull)
    assert len(user_secret()) == 32
    assert user_secret() != user_secret()
    History().add("one")
    assert History().lines() == []
