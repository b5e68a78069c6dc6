"""The clipboard of a Mac, whose `osascript` a script stands in for."""

import os
import sys

import pytest
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.clipboard import SCRIPT, copied
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image


@pytest.fixture
def osascript(tmp_path, monkeypatch):
    """Makes an `osascript` that keeps its arguments in files and does what a shell line says."""
    make_picture(9, 9, 1).save(tmp_path / "picture.png")

    def make(line: str) -> None:
        program = tmp_path / "osascript"
        keep = f'for a; do n=$((n+1)); printf %s "$a" > "{tmp_path}/argument$n"; done\n'
        program.write_text(f"#!/bin/sh\n{keep}cd '{tmp_path}'\n{line}\n")
        program.chmod(0o755)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return make


def test_an_image_is_written_to_a_file_that_is_named_by_an_argument(osascript, tmp_path):
    osascript('cp picture.png "$3"')
    (image,) = copied(ImageLimits())
    assert image.source == (tmp_path / "picture.png").read_bytes()
    assert (image.name, image.path) == ("clipboard", None)
    option, script, target = ((tmp_path / f"argument{n}").read_text() for n in (1, 2, 3))
    assert (option, script) == ("-e", SCRIPT)
    assert "«class PNGf»" in script
    assert target.endswith("clipboard.png")
    assert target not in script
    assert not os.path.exists(target)


@pytest.mark.parametrize("line", ["echo '{}/picture.png'", "printf '{}/picture.png\\0\\n'"])
def test_a_file_that_was_copied_in_the_finder_is_read_itself(osascript, tmp_path, line):
    osascript(line.format(tmp_path))
    (image,) = copied(ImageLimits())
    assert image.path == tmp_path / "picture.png"
    assert open_image(image.source, ImageLimits()).size == (9, 9)


def test_several_files_and_folders_may_have_been_copied(osascript, tmp_path):
    (tmp_path / "day\none").mkdir()
    for name in ("day\none/2.jpg", "day\none/1.jpg", "notes.txt"):
        (tmp_path / name).touch()
    osascript(f"printf '{tmp_path}/picture.png\\0{tmp_path}/day\\none\\0{tmp_path}/notes.txt\\0'")
    names = [str(image.path.relative_to(tmp_path)) for image in copied(ImageLimits())]
    assert names == ["picture.png", "day\none/1.jpg", "day\none/2.jpg", "notes.txt"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("exit 1", "there is no image on the clipboard"),
        (": > $3", "is empty"),
        ('head -c 5000 /dev/zero > "$3"', "at most 1000 are read"),
    ],
)
def test_a_clipboard_without_an_image_says_so(osascript, line, message):
    osascript(line)
    with pytest.raises(InputError, match=message):
        copied(ImageLimits(max_bytes=1000))


def test_only_a_mac_has_a_clipboard(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InputError, match="only on macOS"):
        copied(ImageLimits())
