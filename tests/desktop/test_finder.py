"""Finder tags and comments, with programs that keep their arguments in place of those of macOS."""

import plistlib
import sys
from pathlib import Path

import pytest

from mlx_lfm2vl.desktop import finder
from mlx_lfm2vl.desktop.finder import TAGS, add_tags, merged_tags, read_tags, set_comments
from mlx_lfm2vl.errors import InputError

HOSTILE = 'a "b" $(touch x) \\" & return \'c\'.jpg'


@pytest.fixture
def mac(tmp_path, monkeypatch):
    """Makes programs of macOS from shell lines; returns the calls that they got."""
    calls = tmp_path / "calls"
    calls.mkdir()
    monkeypatch.setattr(sys, "platform", "darwin")

    def make(name: str, lines: str):
        program = tmp_path / name
        keep = (
            f'n=$(ls "{calls}" | wc -l); for a; do printf "%s\\0" "$a"; done >"{calls}/$((100+n))"'
        )
        program.write_text(f"#!/bin/sh\n{keep}\n{lines}\n")
        program.chmod(0o755)
        monkeypatch.setattr(finder, name.upper(), str(program))
        return lambda: [p.read_text().split("\0")[:-1] for p in sorted(calls.iterdir())]

    return make


def xattr(kept: Path) -> str:
    """A shell line that does what `xattr` does, with the attribute in a file as hex."""
    return f"""
case "$1" in
-px) [ "$2" = {TAGS} ] && cat "{kept}" ;;
-wx) [ "$2" = {TAGS} ] && [ -f "$4" ] && [ $# = 4 ] && printf %s "$3" >"{kept}" ;;
/*) [ $# = 1 ] && echo com.apple.lastuseddate#PS && [ ! -e "{kept}" ] || echo {TAGS} ;;
*) exit 9 ;;
esac"""


def test_tags_are_added_to_those_of_the_user(mac, tmp_path):
    kept, photo = tmp_path / "kept", tmp_path / HOSTILE
    photo.touch()
    calls = mac("xattr", xattr(kept))
    assert read_tags(photo) is None
    assert add_tags(photo, ["cat", "Äpfel\n6", "CAT"])
    assert plistlib.loads(bytes.fromhex(kept.read_text())) == ["cat", "Äpfel6"]
    assert bytes.fromhex(kept.read_text()).startswith(b"bplist00")
    # as Finder writes them, and as xattr prints them: in lines, with spaces
    own = plistlib.dumps(["Red\n6", "Cat\n0"], fmt=plistlib.FMT_BINARY).hex(" ").upper()
    kept.write_text(own[:48] + "\n" + own[48:] + "\n")
    assert add_tags(photo, ["cat", "grass"])
    assert plistlib.loads(bytes.fromhex(kept.read_text())) == ["Red\n6", "Cat\n0", "grass"]
    before = len(calls())
    assert not add_tags(photo, ["GRASS", "red"])
    assert [call[0] for call in calls()[before:]] == [str(photo), "-px"]


@pytest.mark.parametrize("old", [b"x", b"bplist00" + bytes(40), plistlib.dumps({"a": 1})])
def test_damaged_tags_are_left_as_they_are(old):
    with pytest.raises(InputError, match=r"a\.jpg: its tags are damaged"):
        merged_tags(old, ["cat"], "a.jpg")


def test_what_xattr_complains_of_is_the_error(mac, tmp_path):
    mac("xattr", 'echo "xattr: [Errno 13] Permission denied: a" >&2; exit 1')
    with pytest.raises(InputError, match="Permission denied: a"):
        add_tags(tmp_path / "a", ["cat"])


def test_comments_are_set_by_one_script_for_many_files(mac, tmp_path):
    calls = mac("osascript", "echo set; echo kept; echo 'error File not found'")
    photos = [tmp_path / name for name in (HOSTILE, "-e", "ü.jpg")]
    texts = ['say "hi"\n& quit', "-", "東京"]
    results = set_comments(dict(zip(photos, texts, strict=True)))
    assert list(results.values()) == ["set", "kept", "File not found"]
    (call,) = calls()
    assert call[:3] == ["-e", finder.COMMENTS, "keep"]
    assert call[3:] == [part for pair in zip(map(str, photos), texts, strict=True) for part in pair]
    for text in (*map(str, photos), *texts[::2]):
        assert text not in finder.COMMENTS


def test_a_script_takes_at_most_a_hundred_files_and_fails_alone(mac, tmp_path):
    calls = mac(
        "osascript", 'case "$*" in *bad*) exit 1;; esac\nfor n in $(seq 100); do echo set; done'
    )
    photos = [tmp_path / f"{n}" for n in range(200)] + [tmp_path / "bad"]
    results = set_comments(dict.fromkeys(photos, "x"), replace=True)
    assert [len(call) for call in calls()] == [203, 203, 5]
    assert calls()[0][2] == "replace"
    assert list(results.values())[:200] == ["set"] * 200
    assert results[tmp_path / "bad"].endswith("osascript: exit code 1")


def test_the_size_of_a_script_is_bounded(mac, tmp_path):
    calls = mac("osascript", "echo set; echo set")
    assert set(set_comments({tmp_path / f"{n}": "x" * 45_000 for n in range(4)}).values()) == {
        "set"
    }
    assert len(calls()) == 2


def test_a_program_that_hangs_is_stopped(mac, tmp_path, monkeypatch):
    mac("osascript", "exec sleep 20")
    monkeypatch.setattr(finder, "COMMENT_SECONDS", 0.1)
    (result,) = set_comments({tmp_path / "a": "x"}).values()
    assert "took more than 0.1 seconds" in result
