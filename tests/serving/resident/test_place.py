"""The folder of resident processes is the user's alone."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_lfm2vl.errors import Lfm2VLError
from mlx_lfm2vl.serving.resident import place as resident_place
from mlx_lfm2vl.serving.resident.place import (
    MAX_PATH,
    MAX_SHOWN,
    Wanted,
    peer_of,
    private_folder,
    sockets,
)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket, whatever its test is called."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def runtime(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "mlx_lfm2vl"


def test_the_folder_is_made_for_its_user_only(runtime):
    previous = os.umask(0)
    try:
        assert private_folder() == str(runtime)
    finally:
        os.umask(previous)
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert private_folder() == str(runtime)


def test_a_folder_that_others_could_enter_is_refused(runtime, tmp_path, monkeypatch):
    runtime.mkdir(mode=0o750)
    runtime.chmod(0o750)
    with pytest.raises(Lfm2VLError, match="has mode 750, expected 700: remove it"):
        private_folder()
    runtime.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(Lfm2VLError, match=rf"belongs to user {os.geteuid()}, expected 4711"):
        private_folder()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    runtime.rmdir()
    (tmp_path / "other").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "other")
    with pytest.raises(Lfm2VLError, match="is a symbolic link"):
        private_folder()
    runtime.unlink()
    runtime.touch()
    with pytest.raises(Lfm2VLError, match="is no folder"):
        private_folder()


def test_whoever_looks_for_sockets_makes_no_folder(runtime):
    assert list(sockets()) == []
    assert not runtime.exists()
    (runtime / "a.sock").mkdir(parents=True)
    with pytest.raises(Lfm2VLError, match="expected 700: remove it"):
        sockets()
    runtime.chmod(0o700)
    assert list(sockets()) == [str(runtime / "a.sock")]


def test_a_folder_that_cannot_be_made_is_one_line(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.devnull)  # no folder, and short enough for a socket
    with pytest.raises(Lfm2VLError, match="cannot be made: "):
        private_folder()


def test_a_path_too_long_for_a_socket_gives_way_to_a_short_one(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 987654)  # nobody's folder is left behind
    made: list[str] = []
    monkeypatch.setattr(os, "makedirs", lambda *_, **__: None)
    monkeypatch.setattr(os, "mkdir", lambda path, _mode: made.append(path))
    longest = MAX_PATH - len("/mlx_lfm2vl/") - MAX_SHOWN - len("-01234567.sock")
    for length in (longest, longest + 1):
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + "x" * (length - 1))
        with pytest.raises(Lfm2VLError, match="No such file"):
            private_folder()
    assert made == [f"/{'x' * (longest - 1)}/mlx_lfm2vl", "/tmp/mlx_lfm2vl-987654"]


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("darwin", {}, "/home/me/Library/Caches/mlx_lfm2vl/resident"),
        ("linux", {}, "/home/me/.cache/mlx_lfm2vl/resident"),
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/mlx_lfm2vl/resident"),
        ("linux", {"XDG_RUNTIME_DIR": "/run/user/1"}, "/run/user/1/mlx_lfm2vl"),
        ("linux", {"XDG_RUNTIME_DIR": "relative"}, "/home/me/.cache/mlx_lfm2vl/resident"),
    ],
)
def test_the_folder_lies_where_the_system_keeps_such_things(
    platform, variables, expected, monkeypatch
):
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(resident_place.sys, "platform", platform)
    assert resident_place._folder() == expected


def test_whoever_wants_something_else_gets_another_name():
    wanted = [
        Wanted("demo"),
        Wanted("450m"),
        Wanted("demo", "main"),
        Wanted("demo", dtype="float32"),
        Wanted("demo", adapters=("a",)),
        Wanted("demo", draft_model="demo"),
    ]
    assert len({each.name for each in wanted}) == len(wanted)
    assert Wanted("demo").name == Wanted("demo").name


def test_the_system_tells_who_is_at_the_other_end():
    one, other = socket.socketpair()
    with one, other:
        peer = peer_of(one)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
