"""A folder of files: whole ones, within a limit, for this user, and none but its own."""

import errno
import logging
import os
import time
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_lfm2vl.generation import disk_store
from mlx_lfm2vl.generation.disk_store import DiskStore

NAMES = [f"keys-{number:040x}.safetensors" for number in range(5)]
ARRAYS = {"a": mx.arange(1000, dtype=mx.float32)}


@pytest.fixture
def store(tmp_path) -> DiskStore:
    return DiskStore(tmp_path / "below" / "cache")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def filled(store: DiskStore, *names: str) -> list[Path]:
    for number, name in enumerate(names):
        assert store.write(name, ARRAYS, {})
        os.utime(store.folder / name, ns=(number, number))
    return [store.folder / name for name in names]


def test_a_file_comes_back(store):
    assert not store.has(NAMES[0])
    assert store.read(NAMES[0]) is None
    filled(store, NAMES[0])
    assert store.has(NAMES[0])
    assert mx.array_equal(store.read(NAMES[0])["a"], ARRAYS["a"])


def test_only_the_owner_can_read(store):
    before = os.umask(0)
    try:
        (path,) = filled(store, NAMES[0])
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert mode(store.folder) == 0o700


def test_backups_leave_the_folder_out(store):
    filled(store, NAMES[0])
    tag = (store.folder / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_the_file_unused_for_longest_goes_first(store):
    (path,) = filled(store, NAMES[0])
    store.nbytes = 3 * path.stat().st_size
    filled(store, *NAMES[:3])
    store.touch([NAMES[0]])
    assert store.write(NAMES[3], ARRAYS, {})
    assert [store.has(name) for name in NAMES[:4]] == [True, False, True, True]
    assert sum(entry.nbytes for entry in store.entries()) <= store.nbytes


def test_what_a_chain_begins_with_goes_last(store):
    filled(store, *NAMES[:3])
    store.touch(NAMES[:3])
    assert [entry.path.name for entry in store.entries()] == NAMES[2::-1]


def test_a_file_larger_than_the_limit_pushes_nothing_out(store):
    filled(store, NAMES[0])
    store.nbytes = 100
    assert not store.write(NAMES[1], ARRAYS, {})
    assert store.has(NAMES[0])


def test_unfinished_files_of_the_dead_are_removed(store):
    filled(store, NAMES[0])
    old, new = (store.folder / f".{NAMES[1]}.{pid}.0123abcd.partial" for pid in (1, 2))
    for path in (old, new):
        path.write_bytes(b"begun")
    hours = time.time() - 2 * disk_store.STALE_SECONDS
    os.utime(old, (hours, hours))
    filled(store, NAMES[2])
    assert (old.exists(), new.exists()) == (False, True)
    store.nbytes = 100 + (store.folder / NAMES[0]).stat().st_size
    os.utime(new, (time.time() - 60,) * 2)
    store.touch([NAMES[0], NAMES[2]])
    assert store.write(NAMES[1], ARRAYS, {})
    assert (new.exists(), store.has(NAMES[0])) == (True, False)  # that of the living is not room


def foreign(store: DiskStore, kind: str) -> None:
    path = store.folder / NAMES[0]
    data = path.read_bytes()
    path.unlink()
    if kind == "link":
        other = store.folder.parent / "other"
        other.write_bytes(data)
        path.symlink_to(other)
    elif kind == "renamed":
        filled(store, NAMES[1])
        (store.folder / NAMES[1]).rename(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "of another program":
        mx.save_safetensors(str(path), ARRAYS)
    else:
        path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["link", "renamed", "pipe", "of another program", "cut off"])
def test_what_is_no_file_of_ours_is_replaced(store, kind, caplog):
    filled(store, NAMES[0])
    foreign(store, kind)
    assert store.read(NAMES[0]) is None
    assert not store.has(NAMES[0])
    assert store.read(NAMES[0]) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "not used" in caplog.text
    filled(store, NAMES[0])
    assert mx.array_equal(store.read(NAMES[0])["a"], ARRAYS["a"])


def test_a_file_of_another_user_is_not_read(store, monkeypatch, caplog):
    filled(store, NAMES[0])
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert store.read(NAMES[0]) is None
    assert "not a file of this user" in caplog.text


def test_a_file_larger_than_the_cache_may_be_is_not_read(store, monkeypatch, caplog):
    filled(store, NAMES[0])
    store.nbytes = 100
    monkeypatch.setattr(disk_store, "DISK_BYTES", 100)
    assert store.read(NAMES[0]) is None
    assert "it is too large" in caplog.text


def failing(code: int):
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("place", ["mkdir", "scandir", "open", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_what_cannot_be_written_costs_one_note(store, monkeypatch, caplog, place, code):
    where = {"mkdir": Path, "scandir": os, "open": os, "replace": Path}[place]
    monkeypatch.setattr(where, place, failing(code))
    assert not store.write(NAMES[0], ARRAYS, {})
    assert not store.write(NAMES[1], ARRAYS, {})
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text
    monkeypatch.undo()
    assert store.entries() == []


def test_a_disk_is_never_filled_to_its_end(store, monkeypatch, caplog):
    (path,) = filled(store, NAMES[0])
    least = path.stat().st_size + disk_store.SPARE_BYTES
    for left in (least, least - 1):
        monkeypatch.setattr(disk_store, "free_bytes", lambda _, left=left: left)
        assert store.write(NAMES[1], ARRAYS, {}) == (left == least)
    assert "disk is full" in caplog.text


def test_a_folder_that_is_a_file_costs_one_note(tmp_path, caplog):
    path = tmp_path / "file"
    path.write_text("mine")
    store = DiskStore(path)
    assert not store.write(NAMES[0], ARRAYS, {})
    assert (store.read(NAMES[0]), store.entries()) == (None, [])
    assert path.read_text() == "mine"
    assert len(caplog.records) == 1


def test_only_its_own_files_are_deleted(store):
    filled(store, *NAMES)
    others = ["keys-1.safetensors", "model.safetensors", f"{NAMES[0]}.bak", ".partial"]
    for name in others:
        (store.folder / name).write_text("mine")
    (store.folder / f"image-{0:040x}.safetensors").mkdir()
    files, nbytes = store.clear()
    assert files == len(NAMES)
    assert nbytes > len(NAMES) * 4000
    left = {path.name for path in store.folder.iterdir()}
    assert left == {*others, "CACHEDIR.TAG", f"image-{0:040x}.safetensors"}
