"""Folders and files that appear whole or not at all."""

import signal
import subprocess
import sys

import pytest

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.whole_folder import check_file, check_target, new_file, new_folder

WRITER = """
import signal, sys
from pathlib import Path
from mlx_lfm2vl.whole_folder import new_folder
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
with new_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "config.json").write_text("new")
    print("writing", flush=True)
    sys.stdin.read()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def start_writer(target):
    command = [sys.executable, "-c", WRITER, str(target)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_a_folder_appears_at_the_end_of_the_block(tmp_path):
    target = tmp_path / "deep" / "target"
    with new_folder(target, overwrite=False) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("a")
        assert not target.exists()
    assert names(target) == ["inner"]
    assert names(target.parent) == ["target"]


def test_a_block_that_fails_leaves_nothing_new(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(KeyError), new_folder(target, overwrite=True) as folder:  # noqa: PT012
        (folder / "config.json").write_text("new")
        raise KeyError
    assert names(tmp_path) == ["target"]
    assert (target / "config.json").read_text() == "old"


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    target = tmp_path / "target"
    writer = start_writer(target)
    with (
        pytest.raises(InputError, match="is being written by another program"),
        new_folder(target, overwrite=True),
    ):
        pass
    writer.communicate("")
    assert writer.returncode == 0
    assert (target / "config.json").read_text() == "new"
    assert names(tmp_path) == ["target"]


def test_a_folder_that_appears_meanwhile_is_never_replaced_unasked(tmp_path):
    target = tmp_path / "target"
    with (  # noqa: PT012
        pytest.raises(InputError, match="exists already"),
        new_folder(target, overwrite=False) as folder,
    ):
        (folder / "config.json").write_text("new")
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    assert names(tmp_path) == ["target"]
    assert names(target) == ["thesis.txt"]


def test_overwriting_replaces_only_a_checkpoint_also_if_it_appears_meanwhile(tmp_path):
    target = tmp_path / "target"
    with (  # noqa: PT012
        pytest.raises(InputError, match="is no checkpoint folder"),
        new_folder(target, overwrite=True),
    ):
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    assert names(target) == ["thesis.txt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_writer_that_is_asked_to_end_leaves_nothing(tmp_path, number):
    writer = start_writer(tmp_path / "target")
    writer.send_signal(number)
    writer.communicate()
    assert writer.returncode == 128 + number
    assert names(tmp_path) == []


def test_signals_that_somebody_handles_stay_his(tmp_path):
    before = signal.signal(signal.SIGTERM, theirs := lambda *_: None)
    try:
        with new_folder(tmp_path / "target", overwrite=False):
            assert signal.getsignal(signal.SIGTERM) is theirs
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_folder_with_what_is_needed_is_not_replaced(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError, match=r"holds .*adapter, which is needed"):
        check_target(tmp_path, overwrite=True, keep=[tmp_path / "inner" / "adapter"])


def test_signals_are_handled_as_before_outside_of_the_block(tmp_path):
    with new_folder(tmp_path / "target", overwrite=False):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_link_stays_and_the_folder_it_names_is_replaced(tmp_path):
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    (real / "config.json").write_text("old")
    link.symlink_to(real)
    with new_folder(link, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert link.is_symlink()
    assert (real / "config.json").read_text() == "new"
    assert names(tmp_path) == ["disk", "link"]
    assert names(real.parent) == ["real"]


def test_a_link_to_nothing_is_refused_before_the_work(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for check in (check_target, lambda *a, **k: new_folder(*a, **k).__enter__()):
        with pytest.raises(InputError, match="is a link to nothing"):
            check(tmp_path / "link", overwrite=True)
    assert names(tmp_path) == ["link"]


def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path):
    target = tmp_path / "target"
    writer = start_writer(target)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert names(tmp_path) == [".target.partial"]
    with new_folder(target, overwrite=False) as folder:
        assert names(folder) == [".lock"]
        (folder / "b").touch()
    assert names(tmp_path) == ["target"]
    assert names(target) == ["b"]


def test_what_a_link_among_the_leftovers_names_stays(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a").touch()
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "link").symlink_to(tmp_path / "theirs")
    with new_folder(tmp_path / "target", overwrite=False) as folder:
        assert names(folder) == [".lock"]
    assert names(tmp_path / "theirs") == ["a"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, synced):
    with new_folder(tmp_path / "target", overwrite=False) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").touch()
    partial = str(tmp_path / ".target.partial")
    assert synced.index(f"{partial}/inner/a") < synced.index(f"{partial}/inner")
    assert synced[-2:] == [partial, str(tmp_path)]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, synced):
    with new_file(tmp_path / "a.json") as path:
        path.write_text("new")
        assert synced == []
    assert synced == [str(tmp_path / ".a.json.partial"), str(tmp_path)]


def test_the_old_folder_is_put_back_before_the_new_one_is_begun(tmp_path):
    target, old = tmp_path / "target", tmp_path / ".target.old"
    old.mkdir()
    (old / "config.json").write_text("old")
    with pytest.raises(KeyError), new_folder(target, overwrite=True):  # noqa: PT012
        assert (target / "config.json").read_text() == "old"
        raise KeyError
    assert names(tmp_path) == ["target"]


def test_a_file_is_no_checkpoint_and_an_empty_folder_may_be_filled(tmp_path):
    check_target(tmp_path / "new", overwrite=False, keep=[tmp_path])
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no checkpoint folder"):
        check_target(tmp_path / "file", overwrite=True)


def test_a_file_is_replaced_at_the_end_of_the_block_or_not_at_all(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(KeyError), new_file(target) as path:  # noqa: PT012
        path.write_text("half")
        raise KeyError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]
    with new_file(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


def test_a_file_that_may_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    check_file(tmp_path / "new.png")
    (tmp_path / "old.png").touch()
    check_file(tmp_path / "old.png")
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)  # root may write everywhere
    for name in ("new.png", "old.png"):  # the new file is made in the folder
        with pytest.raises(InputError, match=f"{name} cannot be written: Permission denied in "):
            check_file(tmp_path / name)
    monkeypatch.setattr("os.access", lambda path, _: path == tmp_path)
    with pytest.raises(InputError, match=r"old\.png cannot be written: Permission denied$"):
        check_file(tmp_path / "old.png")
