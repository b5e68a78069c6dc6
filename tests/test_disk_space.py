"""Free space: asked for early, and said in units that people read."""

import errno

import pytest

from mlx_lfm2vl.disk_space import SPARE_BYTES, check_space, free_bytes, size_text
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.whole_folder import new_file, new_folder, writing


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (240_433, "240 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (24_560_000, "24.6 MB"),
        (999_999_999, "1.00 GB"),
        (1_240_000_000, "1.24 GB"),
        (12_400_000_000_000, "12400.00 GB"),
    ],
)
def test_sizes_have_the_unit_that_suits_them(nbytes, text):
    assert size_text(nbytes) == text


def test_the_free_space_of_a_folder_to_come_is_that_of_its_disk(tmp_path, monkeypatch):
    asked = []

    class Usage:
        free = 7

    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or Usage)
    assert free_bytes(tmp_path / "new" / "folder") == 7
    assert asked == [tmp_path]


def test_there_must_be_some_space_to_spare(tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.disk_space.free_bytes", lambda _: SPARE_BYTES + 10)
    check_space(tmp_path / "new", 10)
    message = "new will take 11 bytes and needs 67.1 MB to be free, but only 67.1 MB are free there"
    with pytest.raises(InputError, match=message):
        check_space(tmp_path / "new", 11)


@pytest.mark.parametrize("how", [writing, new_file, lambda path: new_folder(path, overwrite=False)])
def test_a_full_disk_is_said_with_the_path_and_what_is_free(tmp_path, monkeypatch, how):
    monkeypatch.setattr("mlx_lfm2vl.disk_space.free_bytes", lambda _: 4096)
    message = "x cannot be written: its disk is full .4.1 kB are free.$"
    with pytest.raises(InputError, match=message), how(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    message = "none/x.png cannot be written: there is no folder .*none$"
    with pytest.raises(InputError, match=message), new_file(tmp_path / "none" / "x.png") as partial:
        partial.touch()
