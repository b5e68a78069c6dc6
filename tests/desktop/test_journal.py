"""The journal: whole lines of one kind of settings, one writer, nothing of others touched."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from folder_runs import SETTINGS, records

from mlx_lfm2vl import InputError
from mlx_lfm2vl.desktop.journal import Journal
from mlx_lfm2vl.desktop.records import (
    START,
    Settings,
    answer_record,
    encoded,
    error_record,
    identity,
    place_of,
)
from mlx_lfm2vl.images.inputs import Input

KEY = "ab" * 16


def record(name: str, key: str = KEY, **answer):
    return answer_record(Input(name, name, Path(name)), key, SETTINGS, answer or {"text": name})


def write(path: Path, *found) -> None:
    journal = Journal(path, SETTINGS)
    for each in found:
        journal.add(each)
    journal.close()


def test_every_line_begins_as_that_of_a_record():
    assert encoded(record("a")).startswith(START)
    assert encoded(record("a")).endswith(b"\n")


def test_half_a_line_is_cut_off_wherever_it_ends(tmp_path):
    out = tmp_path / "r.jsonl"
    whole, last = encoded(record("a")), encoded(record("ä"))
    for end in range(len(last)):
        out.write_bytes(whole + last[:end])
        Journal(out, SETTINGS).close()
        assert out.read_bytes() == whole
    for end in range(len(whole)):
        out.write_bytes(whole[:end])
        Journal(out, SETTINGS).close()
        assert out.read_bytes() == b""


def test_zeros_after_a_loss_of_power_are_cut_off(tmp_path):
    out = tmp_path / "r.jsonl"
    out.write_bytes(encoded(record("a")) + bytes(4000))
    Journal(out, SETTINGS).close()
    assert records(out) == [record("a")]


def test_a_record_whose_key_was_changed_by_hand_is_refused(tmp_path):
    out = tmp_path / "r.jsonl"
    out.write_bytes(encoded(record("a", key="ab")))
    with pytest.raises(InputError, match="line 1 of .* is no record of a run"):
        Journal(out, SETTINGS)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "text", ["notes", "notes\n", '{"a": 1}\n', '{"schema": 1, "file": "a"}\n', "[]\n", "\n"]
)
def test_a_file_that_no_run_has_written_is_left_alone(tmp_path, text, restart):
    out = tmp_path / "r.jsonl"
    out.write_text(text)
    with pytest.raises(InputError, match="no record of a run: the file is left alone"):
        Journal(out, SETTINGS, restart=restart)
    assert out.read_text() == text


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder, expected"):
        Journal(tmp_path, SETTINGS)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no plain file"):
        Journal(tmp_path / "pipe", SETTINGS)
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "missing" / "r.jsonl", SETTINGS)


def test_a_second_run_is_kept_out_until_the_first_ends(tmp_path):
    out = tmp_path / "r.jsonl"
    first = Journal(out, SETTINGS)
    with pytest.raises(InputError, match="is being written by another run"):
        Journal(out, SETTINGS)
    first.close()
    Journal(out, SETTINGS).close()


def test_the_refusal_of_other_settings_says_what_differs(tmp_path):
    out = tmp_path / "r.jsonl"
    write(out, record("a"))
    for other, told in (
        (Settings("ocr", "450m", "11"), "skill ask and model tiny"),
        (Settings("ask", "tiny", "11"), "another prompt or other options"),
    ):
        with pytest.raises(InputError, match=told):
            Journal(out, other)
    Journal(out, Settings("ask", "/another/path/to/tiny", "00")).close()  # the same weights


def test_restart_empties_a_result_of_any_settings(tmp_path):
    out = tmp_path / "r.jsonl"
    write(out, record("a"))
    journal = Journal(out, Settings("ocr", "450m", "11"), restart=True)
    assert not journal.is_done(record("a"), KEY)
    journal.close()
    assert out.read_bytes() == b""


def test_the_last_record_of_a_picture_counts_in_the_end(tmp_path):
    out = tmp_path / "r.jsonl"
    failed = error_record(Input("b", "b", Path("b")), "", SETTINGS, InputError("gone"))
    write(out, record("a"), failed, record("c", "cc" * 16))
    journal = Journal(out, SETTINGS)
    assert journal.is_done(place_of(Input("a", "a", Path("a"))), KEY)
    assert not journal.is_done(failed, KEY)
    journal.add(record("b", "bb" * 16))
    journal.add(record("a", "cd" * 16, text="new"))
    journal.finish()
    assert [(r["file"], r["text"]) for r in records(out)] == [("c", "c"), ("b", "b"), ("a", "new")]


def test_the_order_of_the_input_is_kept_on_request(tmp_path):
    out = tmp_path / "r.jsonl"
    journal = Journal(out, SETTINGS)
    for name in "cab":
        journal.add(record(name, (name * 2 if name != "c" else "cc") * 16))
    journal.finish({identity(record(name)): number for number, name in enumerate("abc")})
    assert [r["file"] for r in records(out)] == ["a", "b", "c"]


def test_a_name_that_is_not_utf_8_comes_back_as_it_was(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write(tmp_path / "r.jsonl", record(name), record("café"))
    first, second = records(tmp_path / "r.jsonl")
    assert os.fsencode(first["file"]) == b"caf\xe9.jpg"
    assert "café".encode() in (tmp_path / "r.jsonl").read_bytes()
    assert second["file"] == "café"


def test_lines_reach_the_disk_once_a_second_and_at_the_end(tmp_path, monkeypatch):
    synced, now = [], [0.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr("mlx_lfm2vl.desktop.journal.time.monotonic", lambda: now[0])
    journal = Journal(tmp_path / "r.jsonl", SETTINGS)
    for number in range(30):
        now[0] = number / 10
        journal.add(record(str(number)))
    assert len(synced) == 2
    journal.finish()
    assert len(synced) == 3


def test_a_record_is_whole_however_little_the_system_writes_at_a_time(tmp_path, monkeypatch):
    write_some = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write_some(file, bytes(data[:7])))
    write(tmp_path / "r.jsonl", record("a"), record("b", "cd" * 16))
    assert records(tmp_path / "r.jsonl") == [record("a"), record("b", "cd" * 16)]


def test_a_file_that_was_replaced_before_it_was_locked_is_opened_anew(tmp_path, monkeypatch):
    out, flock = tmp_path / "r.jsonl", fcntl.flock
    write(out, record("a"))

    def late(*given):
        """The run before has put its final file in place, and ends."""
        monkeypatch.undo()
        (tmp_path / "new").write_bytes(encoded(record("b", "cd" * 16)))
        (tmp_path / "new").replace(out)
        flock(*given)

    monkeypatch.setattr(fcntl, "flock", late)
    write(out, record("c", "ef" * 16))
    assert [each["text"] for each in records(out)] == ["b", "c"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path / "r.jsonl", SETTINGS)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match=r"r\.jsonl cannot be written: its disk is full"):
        journal.add(record("a"))
    monkeypatch.undo()
    journal.close()


def test_a_record_is_json_whatever_is_in_it(tmp_path):
    odd = record("a", text="line\nline\u2028 \x00 \ud800")
    write(tmp_path / "r.jsonl", odd)
    (line,) = (tmp_path / "r.jsonl").read_bytes().splitlines()
    assert json.loads(line)["text"] == odd["text"]
